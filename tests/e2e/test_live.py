"""New bounds taken over in mid-run: as a restart at that step would take them, whole or not at all, and explained."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from curriculum import config as configs
from curriculum.errors import Exit, FirehoseError
from state import effective, explain, journal, requests, story
from state.polish import live, polish
from state.process import read_process
from state.requests import Request
from state.run_dir import RunDir, record_id
from state.verify import verify
from tests.fixtures import tiny
from tests.fixtures.runs import go, the_run, the_state
from trainer import live as trainer_live
from trainer.signals import Flags
from trainer.step import TrainStep

EDITS = (
    *tiny.QUICK,
    ("[curriculum]\n", "[curriculum]\ndwell = [2, 6]\n"),
    ("[gate]\n", "[gate]\ntarget = 100\n"),  # every sample costs something
    ("[train]\n", "[train]\nkeep_checkpoints = 9\n"),
    ("goal_sources", "# goal_sources"),
    ("floor = 0.3", "floor = 0.1"),
)
NEW = ("cap = 0.8", "cap = 0.8\nmax_share = 0.2"), ("floor = 0.1", "floor = 0.2\nmin_share = 0.4")


def edited(run: RunDir, *edits: tuple[str, str]) -> str:
    text = run.config.read_text()
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return text


def ask(run: RunDir, **body: Any) -> None:
    """Put a request before the run that this process trains, as `requests.send` does."""
    process = read_process(json.loads(run.process.read_text()))
    assert process is not None
    request = Request(id=os.urandom(4).hex(), kind="bounds", target=record_id(process), time=0.0, **body)
    run.request.write_bytes(msgspec.json.encode(request))


@contextmanager
def asking(flags: Flags, asks: dict[int, Any]) -> Iterator[None]:
    """As each of these steps is dispatched, a request comes."""
    train = TrainStep.run

    def run(self: TrainStep, step: int, *rest: Any) -> None:
        if step in asks:
            asks[step]()
            flags.request = True
        train(self, step, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainStep, "run", run)
        yield


def live_go(config: Path, at: int, until: int, edits: Sequence[tuple[str, str]] = NEW) -> dict[str, Any]:
    """Train on to a step; a change of bounds is asked for as step `at` is dispatched."""
    run, flags = the_run(config), Flags()

    def bounds() -> None:
        ask(run, config=edited(run, *edits), base=the_state(config).config_sha256, plan="0001")

    with asking(flags, {at: bounds}):
        return go(run.config, until=until, flags=flags)


def answer(run: RunDir) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run.answer.read_text())
    return found


def in_force(config: Path) -> bool:
    """Whether the new bounds are; config, effective form and state must say the same."""
    run = the_run(config)
    loaded = configs.load(run.config)
    effective = json.loads(run.effective.read_text())
    assert effective["sha256"] == configs.digest(loaded) == the_state(config).config_sha256
    assert effective["config"] == configs.effective(loaded)
    return loaded.sources["alpha"].max_share == 0.2


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run stopped at step 19; tests work on copies of it."""
    config = tiny.make(tmp_path_factory.mktemp("begun"), *EDITS).path
    assert go(config, until=19)["exit"] == Exit.STOPPED
    return config


@pytest.fixture(scope="module")
def edited_by_hand(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run stopped at step 20, its config edited, and resumed to step 33; tests read it."""
    config = copied(begun, tmp_path_factory.mktemp("by-hand"))
    run = the_run(config)
    go(config, until=20)
    run.config.write_text(edited(run, *NEW))
    body = json.loads(run.effective.read_text())
    run.effective.write_bytes(effective.changed(body, configs.load(run.config)))
    go(run.config, until=33)
    return config


@pytest.fixture(scope="module")
def untouched(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, left alone to step 33; tests read it."""
    config = copied(begun, tmp_path_factory.mktemp("untouched"))
    go(config, until=33)
    return config


def copied(config: Path, folder: Path) -> Path:
    shutil.copytree(config.parent, folder / "copy")
    return folder / "copy/tiny.toml"


def rows(config: Path) -> list[bytes]:
    run = the_run(config)
    return [path.read_bytes() for path in (run.loss, run.pulls, run.samples, run.root / "tiny.heldout.json")]


def test_a_live_change_is_a_stop_an_edit_and_a_resume(
    begun: Path, edited_by_hand: Path, untouched: Path, tmp_path: Path
) -> None:
    config = copied(begun, tmp_path)
    live_go(config, at=20, until=33)
    run = the_run(config)
    assert rows(config) == rows(edited_by_hand) != rows(untouched)
    own, other = (the_state(c).payload for c in (config, edited_by_hand))
    assert {k: v for k, v in own.items() if k != "events"} == {
        k: v for k, v in other.items() if k != "events"
    }
    assert in_force(config)
    assert answer(run)["step"] == 20 and not answer(run)["refused"]
    assert "alpha max_share 1.0 -> 0.2" in answer(run)["message"]
    assert [(e["event"], e.get("arm")) for e in run.events() if e.get("transaction")] == [
        ("live", None),
        ("bounds", "alpha"),
        ("bounds", "beta"),
    ]
    assert sorted(path.name for path in run.checkpoints.iterdir()) == [
        "step_19",
        "step_20",
        "step_30",
        "step_33",
    ]


def test_every_pick_around_a_live_change_is_found_again(begun: Path, tmp_path: Path) -> None:
    config = copied(begun, tmp_path)
    live_go(config, at=20, until=30)
    live_go(config, at=33, until=43, edits=[("max_share = 0.2", "max_share = 0.5")])
    told = story.read(the_run(config))
    found = verify(told)
    assert [(m.step, m.what) for m in found.missing] == []
    assert found.found == found.picks == 43 * 2
    caps = {
        step: {arm["name"]: arm for arm in explain.explain(story.read(the_run(config)), step)["arms"]}
        for step in (15, 22, 42)
    }
    assert [caps[step]["beta"]["floor"] for step in caps] == [0.1, 0.2, 0.2]
    del told.launches[0]
    assert verify(told).missing, "the replay must need to know of the change"


def test_what_cannot_be_taken_is_refused_and_the_run_goes_on_untouched(
    begun: Path, untouched: Path, tmp_path: Path
) -> None:
    config = copied(begun, tmp_path)
    run, flags, answers = the_run(config), Flags(), []
    base = the_state(config).config_sha256
    steps = {
        20: {"config": edited(run, *NEW), "base": "0" * 64},
        23: {"config": edited(run, ("cap = 0.8", "cap = 0")), "base": base},
        32: {"config": edited(run, *NEW), "base": base},  # the run ends before a boundary
    }
    serve = requests.serve

    def note(run: RunDir, request: Request, **how: Any) -> None:
        answers.append((how["step"], how["refused"], how["message"]))
        serve(run, request, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests, "serve", note)
        with asking(flags, {step: lambda body=body: ask(run, **body) for step, body in steps.items()}):
            go(config, until=33, flags=flags)
    assert rows(config) == rows(untouched)
    assert the_state(config).serial == the_state(untouched).serial
    assert not in_force(config) and journal.entries(run) == []
    assert [(step, refused) for step, refused, _ in answers] == [(20, True), (30, True)]
    assert "not the one" in answers[0][2] and "alpha would enter or leave" in answers[1][2]
    asked = requests.pending(run)
    assert asked is not None
    with pytest.raises(FirehoseError, match="not taken: the run is stopped"):
        requests.wait(run, asked, timeout=0.0)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (("lr = 3e-3", "lr = 1e-3"), r"more than bounds would change: train\.lr"),
        (("cap = 0.8", "max_share = 0"), "alpha would enter or leave the run"),
        (("cap = 0.8", "cap = 0.05\nfloor = 0.3"), "floor"),
        (("cap = 0.8", "cap = "), "tiny.toml|config.toml"),
        (("threads = 1", "threads = 1"), "those of the run already"),
    ],
)
def test_only_bounds_that_can_hold_are_changes(begun: Path, edit: tuple[str, str], said: str) -> None:
    run = the_run(begun)
    before = sorted(run.root.iterdir())
    with pytest.raises(FirehoseError, match=said):
        live.changes(configs.load(run.config), polish.check(edited(run, edit), run.config, begun))
    assert sorted(run.root.iterdir()) == before


def test_the_order_of_sources_in_the_file_is_no_change(begun: Path) -> None:
    run = the_run(begun)
    own = run.config.read_text()
    head, alpha, rest = own.partition("[sources.alpha]\n")
    table, _, others = rest.partition("[sources.beta]\n")
    swapped = head + "[sources.beta]\n" + others.replace("floor = 0.1", "floor = 0.2") + alpha + table
    found = live.changes(configs.load(run.config), polish.check(swapped, run.config, begun))
    assert found == {"beta": {"old": {"floor": 0.1}, "new": {"floor": 0.2}}}


# At a sync of the change: before its commit, right after it, in the middle, and after all of it; or at each of them.
CUTS = range(1, 27) if os.environ.get("FIREHOSE_FAULTS") else (11, 12, 18)


class Power(SystemExit):
    """The power goes."""


@pytest.mark.parametrize("cut", CUTS)
def test_a_crash_leaves_the_old_bounds_or_the_new_ones(
    cut: int, begun: Path, edited_by_hand: Path, untouched: Path, tmp_path: Path
) -> None:
    config = copied(begun, tmp_path)
    run, take, sync = the_run(config), trainer_live.apply, os.fsync
    calls = 0

    def dying(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == cut:
            raise Power
        sync(descriptor)

    def apply(*rest: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", dying)
            take(*rest)
        raise Power

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_live, "apply", apply)
        with pytest.raises(Power):
            live_go(config, at=20, until=33)
    decided = run.journal.exists() or bool(journal.entries(run))
    go(run.config, until=33)
    assert in_force(config) is decided
    assert rows(config) == rows(edited_by_hand if decided else untouched)
    found = verify(story.read(run))
    assert (found.missing, found.found) == ([], 33 * 2)
