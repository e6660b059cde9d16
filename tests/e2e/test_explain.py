"""`firehose explain`: every pick of a run made again from its files, whatever the run went through."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bandit.reward import AlignReward
from curriculum.errors import Exit, FirehoseError
from curriculum.tokens.corpus import Corpus
from state import explain, story, survey
from state.envelope import Parent
from state.operate import change
from state.replay import Replay
from state.rows import RowFile, encode_row, read_rows
from state.store import StateStore
from state.story import launches
from state.verify import verify
from tests.fixtures import tiny
from tests.fixtures.runs import go, the_run, the_state
from trainer import cli
from trainer.ring import Ring
from trainer.step import TrainStep

ROOT = Path(__file__).parents[2]
EDITS = (
    ("[curriculum]\n", "[curriculum]\ndwell = [2, 6]\n"),  # several refreshes in 60 steps
    ("[gate]\n", "[gate]\ntarget = 100\n"),  # every sample costs something
    ("[train]\n", "[train]\nkeep_checkpoints = 9\n"),
)


@contextmanager
def dying_at(step: int) -> Iterator[None]:
    """Make a run die as it dispatches a step: what it did since its last commit is lost."""
    run = TrainStep.run

    def dying(self: TrainStep, now: int, *rest: Any) -> None:
        if now == step:
            raise SystemExit
        run(self, now, *rest)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(TrainStep, "run", dying)
        yield


@contextmanager
def skipping(*steps: int) -> Iterator[None]:
    """Say of some steps, once their losses are known, that their gradient was not finite."""
    read = Ring.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ring, "read", lambda self, step: replace(read(self, step), skipped=step in steps))
        yield


@contextmanager
def without(config: Path, name: str) -> Iterator[None]:
    """Put a source's token file aside for a while."""
    tokens = config.parent / f"data/tiny/{name}.btok"
    aside = tokens.rename(tokens.with_name("aside"))
    yield
    aside.rename(tokens)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run at step 40 that was stopped and killed on the way, two steps of it skipped; tests work on copies."""
    config = tiny.make(tmp_path_factory.mktemp("stopped"), *EDITS).path
    with skipping(17, 18):
        go(config, until=23)
    with dying_at(33):
        go(config)
    go(config, until=40)
    return config


@pytest.fixture
def halfway(stopped: Path, tmp_path: Path) -> Path:
    """The config of a copy of the run at step 40, data and all."""
    shutil.copytree(stopped.parent, tmp_path / "copy")
    return tmp_path / "copy/tiny.toml"


@pytest.fixture(scope="module")
def eventful(stopped: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, at its end, after it lost a source at step 40 and got it back at 51; tests read it."""
    config = tmp_path_factory.mktemp("eventful") / "copy/tiny.toml"
    shutil.copytree(stopped.parent, config.parent)
    with without(config, "gamma"):
        assert go(config, until=51)["exit"] == Exit.STOPPED
    assert go(config)["exit"] == Exit.OK
    return config


@pytest.fixture
def config(eventful: Path, tmp_path: Path) -> Path:
    """The config of a copy of the eventful run."""
    shutil.copytree(eventful.parent / "runs", tmp_path / "runs")
    return tmp_path / "tiny.toml"


def told(config: Path) -> story.Story:
    return story.read(the_run(config))


def command(config: Path, *arguments: str) -> tuple[int, str, str]:
    runs = str(config.parent / "runs")
    done = CliRunner().invoke(cli.app, ["explain", "tiny", "--runs-dir", runs, *arguments])
    return done.exit_code, done.stdout, done.stderr


def rewrite_pulls(config: Path, edit: Callable[[dict[str, Any]], None], *, sealed: bool = True) -> None:
    """Edit every row of the pulls file; sealed: and make the state's hash of the file fit it."""
    run = the_run(config)
    rows = read_rows(run.pulls)
    for row in rows:
        edit(row)
    run.pulls.unlink()
    file = RowFile(run.pulls)
    file.open(None, run.archive, "edited")
    mark = file.append([encode_row(row) for row in rows])
    if sealed:
        edit_state(config, lambda payload: payload["files"].update(pulls=mark.as_dict()))


def edit_state(config: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    store = StateStore(the_run(config).state)
    envelope, _ = store.read()
    assert envelope is not None
    edit(envelope.payload)
    store.commit(envelope.payload, step=envelope.step, config_sha256=envelope.config_sha256)


def test_every_pick_of_an_eventful_run_is_found(eventful: Path) -> None:
    found = told(eventful)
    assert [[event["event"] for event in launch.events] for launch in found.launches] == [
        ["prune"],
        ["restore"],
    ]
    assert {row["step"] for row in read_rows(the_run(eventful).pulls) if row["skipped"]} == {17, 18}
    assert [step for step, sample in found.samples.items() if sample["penalties"]] == [10, 20, 30, 40, 50, 60]
    assert set(found.checkpoints) == {
        20,
        23,
        40,
        50,
        51,
        60,
    }  # whose bandits are compared bit for bit on the way, and the state's
    result = verify(found)
    assert [(problem.step, problem.what) for problem in result.missing] == []
    assert (result.found, result.picks) == (240, 240)
    code, out, _ = command(eventful, "--verify")
    assert (code, out) == (Exit.OK, "tiny: 240 of 240 picks found, steps 1 to 60\n")


def test_a_replay_from_any_checkpoint_says_the_same(eventful: Path) -> None:
    found = told(eventful)
    from_checkpoint = explain.explain(found, 60)
    assert from_checkpoint.pop("replayed_after") == 40
    found.checkpoints = {}
    from_the_start = explain.explain(found, 60)
    assert from_the_start.pop("replayed_after") == 0
    assert from_checkpoint == from_the_start


def test_parts_add_up_and_the_largest_credit_is_served(eventful: Path) -> None:
    found = told(eventful)
    for step in (1, 4, 5, 11, 16, 20, 41, 45, 52, 60):
        body = explain.explain(found, step)
        awake = [arm for arm in body["arms"] if arm["awake"]]
        assert body["refreshed"] <= step < body["until"]
        for arm in awake:
            if arm["index"] is not None:
                assert arm["mean"] + arm["by_variance"] + arm["by_range"] == arm["index"]
            assert arm["weight"] == min(arm["cap"], max(arm["floor"], arm["repeated"]))
        total = sum(arm["weight"] for arm in awake)
        assert [arm["share"] for arm in awake] == pytest.approx([arm["weight"] / total for arm in awake])
        for pull in body["pulls"]:
            assert pull["credits"][pull["arm"]] == max(pull["credits"].values())
        row = read_rows(the_run(eventful).pulls)[step - 1]
        assert [pull["loss"] for pull in body["pulls"]] == [loss for _, loss, *_ in row["pulls"]]
        credits = [pull["credits"] for pull in body["pulls"]]
        for before, after, pull in zip(credits, credits[1:], body["pulls"], strict=False):
            for arm in awake:
                paid = pull["arm"] == arm["name"]
                assert after[arm["name"]] == pytest.approx(before[arm["name"]] + arm["share"] - paid)


def test_who_slept_and_why(eventful: Path) -> None:
    def asleep(step: int) -> dict[str, str]:
        return {
            arm["name"]: arm["why_not"]
            for arm in explain.explain(told(eventful), step)["arms"]
            if not arm["awake"]
        }

    gone = eventful.parent / "data/tiny/gamma.btok"
    assert asleep(5) == {"gamma": "not in the warm-up set until step 11"}
    assert asleep(11) == asleep(40) == asleep(52) == {}
    aside = {"gamma": f"put aside at step 40: its data is missing: {gone} does not exist"}
    assert asleep(41) == asleep(51) == aside


def test_a_run_sent_back_past_a_prune_did_not_have_it(halfway: Path) -> None:
    config = halfway
    with without(config, "gamma"):
        go(config, until=51)
    for step in (50, 51):
        shutil.rmtree(the_run(config).checkpoints / f"step_{step}")
    go(config)
    assert [event["event"] for event in the_run(config).events()] == [
        "launch",
        *["resume"] * 3,
        "prune",
        "resume",
    ]
    assert told(config).launches == []
    result = verify(told(config))
    assert (result.found, result.missing) == (240, [])


def by_command(config: Path, *wanted: tuple[str, dict[str, Any]]) -> None:
    for one in wanted:
        change.edit(the_run(config), [one])


def test_a_source_removed_while_its_data_is_gone_is_replayed(halfway: Path) -> None:
    """It stays out, which is in no event: not begun anew by the replay; restored later, it is known by its name."""
    config = halfway
    rm, back = ("rm", {"arm": "gamma"}), ("restore", {"arm": "gamma"})
    with without(config, "gamma"):
        by_command(config, rm, back, rm)
        go(config, until=46)
        assert verify(told(config)).missing == []
    by_command(config, back)
    assert go(config)["exit"] == Exit.OK
    result = verify(told(config))
    assert (result.found, result.missing) == (240, [])
    assert set(Replay(told(config))._names().values()) == {"alpha", "beta", "gamma"}


def test_a_source_removed_after_its_data_was_gone_begins_anew(halfway: Path) -> None:
    """The removal changes no arm, so that it is in no history; and what was put aside then is restored over the new one."""
    config = halfway
    with without(config, "gamma"):
        go(config, until=45)
        by_command(config, ("rm", {"arm": "gamma"}))
        go(config, until=48)
    go(config, until=51)
    assert verify(told(config)).missing == []
    by_command(config, ("restore", {"arm": "gamma", "force": True}))
    go(config)
    result = verify(told(config))
    assert (result.found, result.missing) == (240, [])


def test_launches_are_those_that_still_stand() -> None:
    def event(kind: str, step: int, **more: Any) -> dict[str, Any]:
        return {"event": kind, "step": step, **more}

    prune = event("prune", 40, arm="web", reason="gone")
    for again, stands in (("state", True), ("checkpoint", False)):
        events = [
            event("launch", 0),
            event("resume", 40, source="state"),
            prune,
            event("resume", 40, source=again),
        ]
        assert bool(launches(events)) is stands
    assert launches([event("resume", 40), prune, event("resume", 20, source="checkpoint")]) == []
    assert launches([event("resume", 40), prune, event("launch", 0, source="fresh")]) == []


def test_changed_data_in_mid_run_is_replayed(halfway: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = halfway
    opened = Corpus.open

    def other(*arguments: Any) -> Corpus:
        corpus = opened(*arguments)
        info = corpus.sources["gamma"]
        corpus.sources["gamma"] = replace(info, sha256="f" * 64, windows=info.windows // 2)
        return corpus

    monkeypatch.setattr(Corpus, "open", other)
    monkeypatch.setattr(survey, "check_sources", lambda *rest, **named: None)
    go(config)
    assert [event["event"] for event in the_run(config).events()] == ["launch", *["resume"] * 3, "data"]
    result = verify(told(config))
    assert (result.found, result.missing) == (240, [])


def test_a_tampered_loss_is_damage_and_a_sealed_one_is_not_found(config: Path) -> None:
    def raise_one(row: dict[str, Any]) -> None:
        if row["step"] == 30:
            row["pulls"][0][1] += 1.0

    rewrite_pulls(config, raise_one, sealed=False)
    code, _, error = command(config, "--verify")
    assert code == Exit.DAMAGED
    assert "F0016" in error and "tiny.pulls.json" in error
    rewrite_pulls(config, raise_one)
    code, out, _ = command(config, "--verify", "--json")
    body = json.loads(out)
    assert code == Exit.FINDINGS
    assert body["missing"]
    assert all(30 < problem["step"] <= 60 for problem in body["missing"])


def test_another_config_makes_other_picks_and_says_where(config: Path) -> None:
    run = the_run(config)
    whole = json.loads(run.effective.read_bytes())
    whole["config"]["curriculum"]["background"] = 0.7
    run.effective.write_text(json.dumps(whole))
    body = explain.verify(told(config))
    first = body["missing"][0]
    assert body["found"] < 240
    assert first["pull"] in (1, 2, 3, 4)
    assert first["what"].startswith("the files say ")
    code, _, error = command(config, "--step", str(first["step"]))
    assert code == Exit.FINDINGS
    assert f"step {first['step']}, pull {first['pull']} is not found by the replay: the files say" in error
    assert "--verify" in error


def test_a_rewards_signal_decides_picks(config: Path) -> None:
    """A row of the reward `align` holds [arm, loss, signal]: with other signals other arms are picked."""
    signals = [signal for row in read_rows(the_run(config).pulls) for _, _, signal in row["pulls"]]
    assert any(signal is not None for signal in signals)

    def other_signals(row: dict[str, Any]) -> None:
        for pull in row["pulls"]:
            pull[2] = (pull[0] * 7919 + row["step"]) % 13 / 13

    rewrite_pulls(config, other_signals)
    assert verify(told(config)).found < 240


def test_a_replay_goes_on_from_the_next_checkpoint(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one stretch cannot be replayed, the next one still is, and the screen says from where to where."""
    update = AlignReward.update
    calls = iter(range(10**6))

    def forgetful(self: AlignReward, *rest: Any) -> float:
        return 0.0 if 16 <= next(calls) < 24 else update(self, *rest)

    monkeypatch.setattr(AlignReward, "update", forgetful)
    result = verify(told(config))
    assert [10 < problem.step <= 20 for problem in result.missing] == [True]
    assert result.found >= 240 - 10 * 4  # all after the checkpoint of step 20


def test_a_step_past_a_stretch_that_cannot_be_replayed_is_explained_from_a_checkpoint(config: Path) -> None:
    """As after an upgrade that picks differently: what was before the checkpoint is not found, what follows is."""

    rows = read_rows(the_run(config).pulls)
    at = next(row["step"] for row in rows[30:] if row["pulls"][0][0] != row["pulls"][-1][0])
    assert at < 40

    def other_pick(row: dict[str, Any]) -> None:
        if row["step"] == at:
            row["pulls"].reverse()

    whole = explain.explain(told(config), 48)
    assert whole["replayed_after"] == 23
    rewrite_pulls(config, other_pick)
    found = told(config)
    body = explain.explain(found, 48)
    assert body["replayed_after"] == 40
    assert f"step {at} is not found" in found.notes[-1]
    assert body["pulls"] == whole["pulls"]
    assert command(config, "--step", "44")[0] == Exit.FINDINGS


def test_a_state_that_the_replay_does_not_come_to_is_said(config: Path) -> None:
    """Also where no pick shows it."""

    def half_more(payload: dict[str, Any]) -> None:
        payload["bandit"]["arms"]["beta"]["reward_sum"] *= 1.5

    edit_state(config, half_more)
    body = explain.verify(told(config))
    what = "bandit.arms.beta.reward_sum of the state file is not what the replay comes to"
    assert (body["found"], body["missing"]) == (240, [{"step": 60, "pull": None, "what": what}])


def test_after_a_pivot_the_replay_begins_at_its_first_checkpoint(halfway: Path) -> None:
    config = halfway
    before = the_state(config)
    found = told(config)
    fresh = Replay(found)  # a bandit that knows nothing, as a pivot makes it
    payload = {
        **before.payload,
        "bandit": fresh.scheduler.snapshot(),
        "reward": fresh.reward.snapshot(),
    }
    parent = Parent(before.lineage, before.serial, before.step)
    StateStore(the_run(config).state).create(
        payload, config_sha256=before.config_sha256, step=40, parent=parent
    )
    go(config, until=46)
    go(config)
    body = explain.verify(told(config))
    assert (body["first_step"], body["picks"], body["found"]) == (41, 80, 56)
    assert [problem["step"] for problem in body["missing"]] == [41]
    assert "46" in body["missing"][0]["what"]
    assert command(config, "--step", "40")[0] == Exit.USAGE
    assert command(config, "--step", "45")[0] == Exit.FINDINGS
    assert command(config, "--step", "51")[0] == Exit.OK


def test_the_screen_fits_80_columns(eventful: Path) -> None:
    body = explain.explain(told(eventful), 60)
    wide = {
        "name": "gutenberg-fiction-and-more",
        "index": 1.2345,
        "raw": 0.033333,
        "repeated": 0.0012345,
        "weight": 0.033333,
    }
    body["arms"] = [{**arm, **wide, "share": 1.0, "credit": -1.23456} for arm in body["arms"]]
    body["run"] = "a-run-with-a-name-that-is-far-too-long-for-a-terminal"
    assert max(len(line) for line in explain.screen({**body, "refreshed": 199_950, "until": 199_992})) <= 80
    code, out, error = command(eventful)
    assert code == Exit.OK
    assert "step 60" in out and "gamma" in out
    assert "--step N explains another, 1 to 60" in error


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--step", "61"], Exit.USAGE, "1 to 60"),
        (["--step", "0"], Exit.USAGE, "1 to 60"),
        (["--step", "3", "--verify"], Exit.USAGE, "--verify looks at every step"),
    ],
)
def test_refusals_name_the_range(eventful: Path, arguments: list[str], code: Exit, said: str) -> None:
    found, out, _ = command(eventful, *arguments, "--json")
    assert found == code
    assert said in json.loads(out)["error"]["message"]


def test_damaged_files_are_named(config: Path) -> None:
    the_run(config).effective.write_bytes(b"{")
    with pytest.raises(FirehoseError, match="effective config") as caught:
        told(config)
    assert caught.value.exit_code is Exit.DAMAGED


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, state.explain; sys.exit(len({'torch', 'tokenizers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
