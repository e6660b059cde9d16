"""A run that the gate halted goes back by itself, where its config says so: what `runner.train` does between two sittings."""

from collections.abc import Callable

from curriculum import config as configs
from curriculum.config import Config
from curriculum.errors import FirehoseError
from state import journal, rollback
from state.run_dir import RunDir, read_object
from state.store import StateStore
from state.story import HALT_ROLLBACK

Say = Callable[[str], None]


def own(run: RunDir, config: Config) -> Config:
    """The config to go on with: the one given, or the run's own where only going back has changed it since.

    Nobody is there to type the other file's name when a supervisor starts the run again.
    """
    if not run.exists():
        return config
    given = configs.effective(config)
    for entry in reversed(journal.entries(run)):
        if entry.kind != HALT_ROLLBACK:
            return config
        kept = read_object(journal.folder(run, entry) / journal.BEFORE / run.effective.name) or {}
        if "config" in kept and not configs.differences(kept["config"], given):
            return configs.load(run.config)
    return config


def come_back(run: RunDir, config: Config, say: Say) -> Config | None:
    """Take a halted run back to an earlier checkpoint with lower caps; the config to go on with, None where it stays.

    Why it stays is said. To be called under the run's lock, all files being durable. Raises FirehoseError(WRITE_FAILED).
    """
    if config.gate.on_halt != "rollback":
        return None
    store = StateStore(run.state)
    try:
        back = rollback.plan(run, store)
    except FirehoseError as error:
        say(f"{error.message}\n  next:     {error.next or f'firehose status {run.root}'}")
        return None
    if back is None:
        return None
    entry = rollback.transaction(run, back, store).commit()
    say(
        f"GOING BACK, {back.number} of at most {rollback.LIMIT} times: {back.words()}\n"
        f"  changed:  config and state; newer checkpoints, and rows after step {back.step}, are in {run.archive}, "
        f"the change itself in {entry.name}\n"
        f"  next:     nothing; firehose polish history {run.root} lists it, firehose polish set SOURCE.cap=... changes caps"
    )
    return configs.load(run.config)
