"""Small runs for the tests of `state`: a payload as the trainer commits it, and an envelope round it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bandit.arms import ArmSpec, new_id
from bandit.reward import ProgressReward
from bandit.scheduler import Scheduler, SchedulerConfig
from state import envelope
from state.envelope import Envelope
from state.run_dir import RunDir
from state.store import StateStore

CONFIG = SchedulerConfig(seed=3, grad_accum=2, windows_per_pull=4, delay=8, policy="uniform")
NAMES = ("books", "code", "forum")
CONFIG_SHA = "c" * 64
SHA = {name: f"{index}" * 64 for index, name in enumerate(NAMES)}
LINEAGE = "0f9c2f66-7a55-4f0e-9d0f-6f5a5b9f2a11"


def make_payload(step: int = 20) -> dict[str, Any]:
    """A run of three arms after `step` steps, with tickets of 8 steps open, 4 of them trained."""
    specs = [ArmSpec(name, new_id(name, ()), windows=50) for name in NAMES]
    scheduler, reward = Scheduler(CONFIG, specs), ProgressReward([spec.id for spec in specs])
    by_step: dict[int, list[Any]] = {}
    for ahead in range(1, step + 5):
        for ticket in by_step.pop(ahead - CONFIG.delay, []):
            loss = 3.0 - 0.01 * ticket.step + 0.001 * (ticket.arm % 7)
            scheduler.credit(ticket.id, reward.update(ticket.arm, loss))
        by_step[ahead] = [scheduler.pick(ahead) for _ in range(CONFIG.grad_accum)]
    return {
        "bandit": scheduler.snapshot(),
        "reward": reward.snapshot(),
        "gate": {"streak": 0},
        "pruned": {},
        "files": {},
        "data": dict(SHA),
        "halt": None,
        "last_sample_step": 0,
    }


@pytest.fixture
def payload() -> dict[str, Any]:
    return make_payload()


@pytest.fixture
def sealed() -> Callable[..., Envelope]:
    """An envelope with chosen fields."""

    def build(payload: dict[str, Any] | None = None, **fields: Any) -> Envelope:
        usual: dict[str, Any] = {
            "lineage": LINEAGE,
            "serial": 7,
            "step": 20,
            "written_at": "2026-01-02T03:04:05Z",
            "config_sha256": CONFIG_SHA,
        }
        return envelope.make(payload if payload is not None else {"a": 1}, **{**usual, **fields})

    return build


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """An empty run folder with an effective config."""
    run = RunDir(tmp_path / "runs" / "demo")
    run.create()
    run.effective.write_text(json.dumps({"config": {"train": {"steps": 500}}}))
    return run


@pytest.fixture
def committed(run: RunDir, payload: dict[str, Any]) -> RunDir:
    """A run with a state of step 20."""
    StateStore(run.state).create(payload, step=20, config_sha256=CONFIG_SHA, lineage=LINEAGE)
    return run
