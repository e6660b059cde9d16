"""A run as `firehose state` finds it: config, state, and a checkpoint that has the state's copy, without a weight."""

import json
from pathlib import Path
from typing import Any

import msgspec

from curriculum import config as configs
from state import envelope
from state.envelope import Envelope
from state.run_dir import RunDir
from state.store import StateStore
from tests.state.conftest import LINEAGE, make_payload

CONFIG = """
name = "demo"
seed = 3
[train]
steps = 500
micro_batch = 4
grad_accum = 2
feedback_delay = 4
[model]
preset = "tiny"
[curriculum]
policy = "uniform"
reward = "progress"
[sources.books]
path = "books.txt"
cap = 0.8
floor = 0.3
[sources.code]
path = "code.txt"
[sources.forum]
path = "forum.txt"
"""
NOW = "2026-01-02T03:04:05Z"


def payload_of(step: int) -> dict[str, Any]:
    """A whole payload, the trainer's parts too; arms with bounds as the config has them."""
    payload = make_payload(step)
    payload["bandit"]["arms"]["books"] |= {"cap": 0.8, "floor": 0.3}
    return {**payload, "checkpoint": step, "loop": {}, "edits": []}


def make_run(folder: Path, *, name: str = "demo", step: int = 20, ahead: int = 0) -> RunDir:
    """A run in `folder/runs`, its checkpoint at `step` and its state `ahead` steps further on."""
    run = RunDir(folder / "runs" / name)
    run.create()
    run.config.write_text(CONFIG)
    config = configs.load(run.config)
    run.effective.write_text(json.dumps({"config": configs.effective(config)}))
    digest = configs.digest(config)
    store = StateStore(run.state, now=lambda: NOW)
    first = store.create(payload_of(step), step=step, config_sha256=digest, lineage=LINEAGE)
    add_checkpoint(run, first)
    if ahead:
        store.commit(
            {**payload_of(step + ahead), "checkpoint": step}, step=step + ahead, config_sha256=digest
        )
    return run


def add_checkpoint(run: RunDir, state: Envelope) -> Path:
    """A checkpoint that carries a state and no tensor."""
    folder = run.checkpoints / f"step_{state.step}"
    folder.mkdir()
    body = {
        "format": "firehose-checkpoint",
        "version": 1,
        "step": state.step,
        "files": {},
        "state": msgspec.to_builtins(state),
    }
    (folder / "checkpoint.json").write_text(json.dumps(body))
    return folder


def current(run: RunDir) -> Envelope:
    """The state of the run, which must be sound."""
    found, findings = StateStore(run.state).read()
    assert found is not None and findings == []
    return found


def sealed_as(run: RunDir, **fields: Any) -> bytes:
    """The bytes of the run's state with other fields (payload, serial, lineage, step), sealed anew."""
    state = current(run)
    usual = {key: getattr(state, key) for key in ("lineage", "serial", "step", "written_at", "config_sha256")}
    payload = fields.pop("payload", state.payload)
    return envelope.seal(envelope.make(payload, **{**usual, **fields}))
