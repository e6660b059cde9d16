"""A goal in a run: what the rows carry is what the reward saw, cuts change nothing, and a goal that is gone is said."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bandit.reward import REWARDS
from bandit.scheduler import Scheduler
from curriculum import config as configs
from curriculum.errors import Exit, FirehoseError
from curriculum.tokens.corpus import Corpus
from state.rows import read_rows
from tests.fixtures import tiny
from tests.fixtures.runs import go, log, the_run, the_state
from trainer import runner
from trainer.goal import GoalText, goal_sources

DELAY = 4  # the default feedback_delay


def rewarded(name: str) -> tuple[str, str]:
    return ("probe_every = 7", f'probe_every = 7\nreward = "{name}"')


@pytest.mark.parametrize("name", ["align", "heldout", "progress"])
def test_rewards_are_computed_again_from_the_rows_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credits: list[float | None] = []
    credit = Scheduler.credit

    def watched(self: Scheduler, ticket_id: int, reward: float | None) -> None:
        credits.append(reward)
        credit(self, ticket_id, reward)

    monkeypatch.setattr(Scheduler, "credit", watched)
    config = tiny.make(tmp_path, rewarded(name)).path
    go(config)
    rows = read_rows(the_run(config).pulls)
    payload = the_state(config).payload
    reward = REWARDS[name]([record["id"] for record in payload["bandit"]["arms"].values()])
    again: list[float | None] = []
    for row in rows[: 60 - DELAY]:
        if "goal" in row:
            reward.probe(row["goal"])
        again += [reward.update(*pull) for pull in row["pulls"]]
    assert credits == again
    assert reward.snapshot() == payload["reward"]
    signals = [len(pull) == 3 for row in rows for pull in row["pulls"]]
    probes = [row["step"] for row in rows if "goal" in row]
    assert signals == [name == "align"] * len(signals)
    assert probes == (list(range(1, 61, 7)) if name == "heldout" else [])


def test_a_run_in_three_sittings_is_the_run_in_one(tmp_path: Path) -> None:
    """With heldout; what cuts do to align is in test_kill."""
    straight, cut = (tiny.make(tmp_path / folder, rewarded("heldout")).path for folder in ("one", "three"))
    go(straight)
    for until in (23, 42, None):
        go(cut, until=until)
    for ours, theirs in (
        (the_run(cut).pulls, the_run(straight).pulls),
        (the_run(cut).loss, the_run(straight).loss),
    ):
        assert ours.read_bytes() == theirs.read_bytes()
    assert the_state(cut).payload["reward"] == the_state(straight).payload["reward"]


def describe(config: Path) -> dict[str, Any]:
    return runner.describe(runner.plan(config, name=None, runs_dir=config.parent / "runs", resume="auto"))


def test_a_goal_source_that_is_gone_is_said_and_the_last_one_refused(tmp_path: Path) -> None:
    config = tiny.make(tmp_path).path
    go(config, until=20)
    (tmp_path / "data/tiny/beta.btok").unlink()
    note = "beta is left out of the goal: it has no token files"
    assert describe(config)["warnings"][-1] == note
    go(config, until=40)
    assert note in log(config)
    (tmp_path / "data/tiny/alpha.btok").unlink()
    before = the_run(config).state.read_bytes()
    for launch in (describe, go):
        with pytest.raises(FirehoseError, match=r"no goal left: alpha: .*; beta: ") as caught:
            launch(config)
        assert (caught.value.exit_code, caught.value.arm) == (Exit.REFUSED, "alpha, beta")
        assert "progress" in str(caught.value.next)
    assert the_run(config).state.read_bytes() == before


def test_the_goals_sources_take_turns_and_may_be_ones_that_are_never_picked(tmp_path: Path) -> None:
    edits = (
        ('goal_sources = ["alpha", "beta"]', 'goal_sources = ["gamma", "beta"]\nexclude_sources = ["gamma"]'),
    )
    tiny.make(tmp_path)  # a source that is excluded from the start has no token files
    config = configs.load(tiny.write_config(tmp_path, *edits))
    corpus = Corpus.open(config.resolve(config.data.dir), config.model.block_size, config.seed)
    assert goal_sources(config, corpus) == (["gamma", "beta"], [])
    text = GoalText(corpus, ["beta", "gamma"], windows=6, chunk=4, device=torch.device("cpu"))
    batches = text.batch(1)
    assert [len(batch) for batch in batches] == [4, 2]
    rows = torch.cat(batches).numpy()
    assert (rows[0::2] == corpus.probe("beta", 3, 3)).all()
    assert (rows[1::2] == corpus.probe("gamma", 3, 3)).all()
    (tmp_path / "data/tiny/gamma.heldout.btok").write_bytes(b"no tokens")
    corpus = Corpus.open(config.resolve(config.data.dir), config.model.block_size, config.seed)
    with pytest.raises(FirehoseError, match="gamma") as caught:
        goal_sources(config, corpus)
    assert caught.value.exit_code is Exit.DAMAGED


def test_a_source_without_held_out_text_is_no_goal(tmp_path: Path) -> None:
    config = tiny.make(tmp_path)
    corpus = Corpus.open(config.resolve(config.data.dir), 10_000, config.seed)
    with pytest.raises(FirehoseError, match="alpha: its held-out text has no window to spare"):
        goal_sources(config, corpus)
    assert goal_sources(configs.load(tiny.write_config(tmp_path, rewarded("progress"))), corpus) == ([], [])
