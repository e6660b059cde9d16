"""Three incidents at once, and nobody awake: the run halts by itself, names the source to blame, and its log tells the story."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from curriculum import config as configs
from curriculum.errors import Exit
from curriculum.text.build import build, plan_for
from state.rows import read_rows
from state.status import status
from state.store import StateStore
from tests.fixtures import tiny
from tests.fixtures.language import WORDS, document, spoken
from tests.fixtures.runs import go, log, the_run
from tests.incidents.i10_memorised_source import no_quantile
from tests.incidents.i17_word_salad import no_coherence
from trainer import sampling
from trainer.checkup import Checkup

EDITS = (
    *tiny.QUICK,
    ("steps = 60", "steps = 500"),
    ("lr = 3e-3", "lr = 1e-2"),
    ("sample_every = 10", "sample_every = 20"),
    ("curriculum_warmup_steps = 10", "curriculum_warmup_steps = 120"),
    ("checkpoint_every = 20", "checkpoint_every = 100"),
    ("heldout_every = 20", "heldout_every = 100"),
    ("goal_sources", 'reward = "improvement"\ngoal_sources'),  # I05: what pays for noise
    ("cap = 0.8", "cap = 0.4\nfloor = 0.4"),
    ("floor = 0.3", "cap = 0.4\nfloor = 0.4"),
    ("[gate]", '[gate]\naudit_halt = ["local_coherence"]'),
    (
        'path = "text/gamma.jsonl"',
        'path = "text/gamma.jsonl"\nfloor = 0.9\nclean = { bigram_diversity = 0.0, list_share = 1.0 }',
    ),
)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Two sources of a language, and a third of a few long lists of one word (I05), soon known by heart (I10)."""
    folder = tmp_path / "text"
    folder.mkdir()
    for at, name in enumerate(("alpha", "beta")):
        lines = [json.dumps({"text": document(1000 * at + number)}) for number in range(300)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    lists = [json.dumps({"text": "\n".join(f"- {WORDS[number]}" for _ in range(60))}) for number in range(6)]
    (folder / "gamma.jsonl").write_text("\n".join(lists))
    read = configs.load(tiny.write_config(tmp_path, *EDITS))
    build(plan_for(read))
    return read.path


def asleep(config: Path, patch: pytest.MonkeyPatch) -> tuple[dict[str, Any], list[bool]]:
    """What came of the run, whose model speaks word salad (I17) once the lists are known by heart; of each sample, whether."""
    draw, salads = random.Random(1), [False]
    whole = Checkup.sample

    def sample(self: Checkup, step: int) -> bool:
        known = self.parts.reward.loss_ema(self.parts.arm_ids["gamma"])
        salads.append(known is not None and known < 0.3)
        return whole(self, step)

    def generate(*given: object, **named: object) -> sampling.Drawn:
        words = draw.choices(WORDS, k=60) if salads[-1] else spoken(draw, 60)
        return sampling.Drawn(" ".join(words), [1, 2, 3], 2.0)

    patch.setattr(Checkup, "sample", sample)
    patch.setattr(sampling, "generate", generate)
    return go(config), salads[1:]


def test_a_run_with_three_incidents_halts_and_tells_why(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome, _ = asleep(config, monkeypatch)
    run = the_run(config)
    assert outcome["exit"] == Exit.HALTED, outcome

    state, _ = StateStore(run.state).read()
    assert state is not None
    halt = state.payload["halt"]
    assert next(iter(halt["blame"])) == "gamma", halt
    assert "found by local_coherence" in halt["reason"]
    told = log(config)
    assert f"HALTED by the coherence gate at step {halt['step']}" in told
    memorised = told.index("ALARM source gamma is being memorised")
    assert told.index("audits: local_coherence") < told.index("to blame: gamma (") and memorised < told.index(
        "HALTED"
    )
    assert "firehose samples" in told and "--clear-halt" in told
    rows = read_rows(run.samples)
    assert rows[-1]["verdict"]["kind"] == "halt" and rows[-1]["audits"]["streaks"]["gamma"] >= 1
    assert "gamma" in rows[-1]["audits"]["memorised"]
    alarms = status(run, 0.0)[0]["alarms"]
    assert any("source gamma is being memorised" in alarm for alarm in alarms), alarms


def test_with_the_guards_off_it_runs_to_its_end_and_names_nobody(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same harm: the lists known by heart, salad in every sample from then on; and nothing in the log says so."""
    no_coherence(monkeypatch)
    no_quantile(monkeypatch)
    outcome, salads = asleep(config, monkeypatch)
    assert (outcome["exit"], outcome["step"]) == (Exit.OK, 500)
    assert salads.count(True) >= 10 and salads[-1], "the harm is done"
    rows, told = read_rows(the_run(config).samples), log(config)
    assert [row["verdict"]["kind"] for row in rows] == ["pass"] * 25, "salad scores as sense does"
    for word in ("HALTED", "ALARM", "to blame", "audits:"):
        assert word not in told, word
