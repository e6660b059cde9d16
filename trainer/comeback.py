"""A run that the gate halted goes back by itself, where its config says so: what `runner.train` does between two sittings."""

from collections.abc import Callable

from curriculum import config as configs
from curriculum.config import Config
from curriculum.errors import FirehoseError
from state import rollback
from state.run_dir import RunDir
from state.store import StateStore
from state.story import HALT_ROLLBACK

Say = Callable[[str], None]


def own(run: RunDir, config: Config) -> Config:
    """The config to go on with: the one given, or the run's own where only going back has changed it since.

    Nobody is there to type the other file's name when a supervisor starts the run again.
    """
    from trainer import identity  # here: it brings torch, which no light command should load

    since = identity.changes_since(run, configs.effective(config)) if run.exists() else []
    gone_back = since and all(entry.kind == HALT_ROLLBACK for entry in since)
    return configs.load(run.config) if gone_back else config


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
