"""The way back from a halt of the gate, `gate.on_halt = "rollback"` (DESIGN 5.2): an earlier checkpoint, lower caps.

One transaction (`state.journal`): newer checkpoints go to the archive, the run's config gets lower bounds for the
sources to blame, and the state is again that of the checkpoint gone back to, in the same lineage. Rows after it are cut
by the next launch, which keeps them in the archive too.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from curriculum import config as configs
from curriculum import config_edit
from curriculum.config import Config, Source
from curriculum.errors import Exit, FirehoseError
from curriculum.gate.rule import Gate
from state import checkpoints, effective, recover, settle
from state.journal import Transaction
from state.polish import live, pivot, polish
from state.recover import Look
from state.run_dir import RunDir
from state.store import StateStore, utc_now
from state.story import HALT_ROLLBACK

LIMIT = 3  # times a run goes back before a person must look
FULL = 1.0  # the weight of a source in focus: a cap above it binds nothing that halving could bite on


@dataclass(frozen=True, slots=True)
class Back:
    """A way back that can be gone.

    step: of the checkpoint gone back to. halt: as the state has it. text: the run's config with the lower bounds,
    `config` when read; changes: as `state.polish.live.changes` has them. payload: of the state after it. moved: newer
    checkpoints. number: which time this is, from 1.
    """

    step: int
    halt: dict[str, Any]
    text: str
    config: Config
    changes: live.Changes
    payload: dict[str, Any]
    moved: list[Path]
    number: int
    found: Look

    @property
    def given_up(self) -> int:
        """Steps that are trained anew."""
        return self.found.settled.step - self.step

    def words(self) -> str:
        """What it comes to, in a line."""
        return f"back to step {self.step} ({self.given_up} steps are given up): {live.words(self.changes)}"


def plan(run: RunDir, store: StateStore) -> Back | None:
    """The way back of a run that the gate halted; None where nothing halted it. Nothing is touched.

    Every byte of the checkpoint gone back to is compared. Raises FirehoseError(REFUSED, DAMAGED) where there is none:
    the run then stays halted.
    """
    found = recover.look(run, store, deep=False)
    payload = found.settled.payload or {}
    halt = payload.get("halt")
    if halt is None or found.state is None:
        return None
    if "by" in halt:
        raise _stays(run, f"{halt['by']} halted it, and going back would teach it nothing more")
    gone = payload.get("rollbacks", [])
    if len(gone) >= LIMIT:
        raise _stays(run, f"it has gone back {LIMIT} times already, to step {gone[-1]['step']} last")
    own = configs.load(run.config)
    blamed = [name for name in halt["blame"] if name in own.sources]
    if not blamed:
        raise _stays(run, "no source stands out, and without lower caps it would train the same way again")
    step = target(payload)
    if step is None:
        raise _stays(run, "no checkpoint of it has a sample that passed")
    path = run.checkpoints / f"step_{step}"
    if not path.exists():
        raise _stays(run, f"the checkpoint of step {step}, whose sample passed, is not there")
    stored, copied = checkpoints.sound(path)
    if copied.lineage != found.state.lineage:
        raise _stays(
            run,
            f"no sample has passed since the pivot, and step {step} is from before it",
            next=f"firehose polish rollback {run.root}",
        )
    text, config = lowered(run, own, blamed)
    changes = live.changes(own, config)
    again = settle.settle(found.state, copied, run=run.name).payload
    assert again is not None  # a checkpoint has one
    again = {key: value for key, value in again.items() if key != "events"}
    protected = {*payload.get("protected", []), *again.get("protected", [])}
    note = {"step": step, "from": halt["step"], "reason": halt["reason"], "changes": changes}
    again |= {
        "halt": None,
        "gate": Gate.of(config.gate).snapshot(),
        "checkpoint": stored.step,
        "protected": sorted(protected),
        "rollbacks": [*gone, note],
    }
    moved = checkpoints.after(run.checkpoints, step)
    return Back(step, halt, text, config, changes, again, moved, len(gone) + 1, found)


def target(payload: dict[str, Any]) -> int | None:
    """Where to go back to: the last checkpoint from before the low samples, or else the last whose sample passed.

    Among low samples some pass as well, so the last one that did may already be one of a collapsing model.
    """
    loop = payload.get("loop", {})
    clean: int | None = loop.get("clean_checkpoint")
    passing: int | None = loop.get("passing_checkpoint")
    return passing if clean is None else clean


def lowered(run: RunDir, config: Config, blamed: list[str]) -> tuple[str, Config]:
    """The text of the run's config with lower bounds for these sources, and what it says. Raises FirehoseError."""
    text = run.config.read_bytes().decode()
    settings = []
    for name in blamed:
        for key, value in bounds(config.sources[name]).items():
            if value != getattr(config.sources[name], key):
                settings.append(
                    config_edit.Setting(("sources", name, key), msgspec.json.encode(value).decode())
                )
    text = config_edit.edit(text, settings, run.config)
    return text, polish.check(text, run.config, configs.original_of(run.config) or run.config)


def bounds(source: Source) -> dict[str, float]:
    """The bounds of a source to blame: half its cap, and nothing that holds it over that.

    >>> bounds(Source(path="x", floor=0.8, min_share=0.2))
    {'cap': 0.5, 'floor': 0.5, 'min_share': 0.1}
    """
    cap = min(source.cap, FULL) / 2
    return {"cap": cap, "floor": min(source.floor, cap), "min_share": source.min_share / 2}


def transaction(run: RunDir, back: Back, store: StateStore) -> Transaction:
    """A way back as a change of the run's files, ready to commit under the run's lock."""
    old = back.found.state
    assert old is not None
    tx = Transaction(run, HALT_ROLLBACK, f"halted at step {back.halt['step']}, {back.words()}", now=utc_now())
    for path in back.moved:
        tx.aside(path)
    tx.put(run.config, back.text.encode())
    tx.put(run.effective, effective.changed(msgspec.json.decode(run.effective.read_bytes()), back.config))
    pivot.put_state(
        tx,
        back.found,
        store,
        back.payload,
        lineage=old.lineage,
        parent=old.parent,
        step=back.step,
        config=back.config,
    )
    tx.record(
        {
            "event": HALT_ROLLBACK,
            "step": back.step,
            "source": "checkpoint",
            "halt": back.halt,
            "given_up": back.given_up,
            "number": back.number,
            "changes": back.changes,
            "archive": tx.name,
        }
    )
    return tx


def alarms(payload: dict[str, Any]) -> list[str]:
    """What a person should know of the times a run went back by itself."""
    return [
        f"halted at step {note['from']} and went back to step {note['step']}: {live.words(note['changes'])}"
        for note in payload.get("rollbacks", [])
    ]


def _stays(run: RunDir, why: str, next: str | None = None) -> FirehoseError:
    again = f"firehose samples {run.root}; to go on regardless: firehose run {run.config} --clear-halt"
    return FirehoseError(Exit.REFUSED, f"the run stays halted: {why}", path=run.state, next=next or again)
