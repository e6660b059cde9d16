"""`firehose simulate`: the shares that a config implies, on paper, in JSON and as a picture."""

import builtins
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from data_folders import files_in, random_documents, write_folder
from typer.testing import CliRunner, Result

from bandit.policies import POLICIES
from curriculum.errors import Exit
from curriculum.plot import Series, sparkline, terminal
from curriculum.simulate_cli import app

CONFIGS = Path(__file__).parents[2] / "configs"
POLISH = CONFIGS / "andrea-120m-polish.toml"
ZOMBIES = {"repo-docs", "repo-docstrings"}
SMALL = """
[model]
block_size = 8
[train]
steps = 300
[curriculum]
reward = "progress"
curriculum_warmup_steps = 40
curriculum_warmup_sources = ["books"]
[sources.books]
path = "books.txt"
floor = 0.5
[sources.forum]
path = "forum.txt"
cap = 0.4
[sources.lists]
path = "lists.txt"
cap = 0.0
"""


def simulate(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def body(*arguments: object) -> dict[str, Any]:
    result = simulate(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="module")
def polish() -> dict[str, Any]:
    return body(POLISH, "--steps", 1000)


def test_the_polish_gives_the_shares_that_its_published_table_implies(polish: dict[str, Any]) -> None:
    arms = {arm["name"]: arm for arm in polish["arms"]}
    assert len(arms) == 15
    # By hand from the table: 8 floors sum to 4.15, 13 caps to 7 x 1.3 + 2.15 = 11.25.
    for name, floor, cap in (("chat", 0.6, 1.3), ("hermes3-general", 0.7, 1.3), ("gutenberg", 0.4, 0.7)):
        low, high = floor / (floor + 11.25 - cap), cap / (cap + 4.15 - floor)
        assert (arms[name]["share_low"], arms[name]["share_high"]) == pytest.approx((low, high))
    assert arms["repo-commits"]["share_high"] == pytest.approx(0.2 / 4.35)
    for name in arms.keys() - ZOMBIES:
        slack = 2.2 / 4000  # pulls by which a deal among 13 may be off, H_13 - 1
        assert arms[name]["share_low"] - slack <= arms[name]["share"] <= arms[name]["share_high"] + slack
    for name in ZOMBIES:
        assert (arms[name]["share"], arms[name]["pulls"], arms[name]["share_high"]) == (0.0, 0, 0.0)
        assert arms[name]["why_not"] == "excluded"
    assert sum(arm["pulls"] for arm in polish["arms"]) == 4000
    assert sum(arm["share"] for arm in polish["arms"]) == pytest.approx(1.0)


def test_json_is_the_contract(polish: dict[str, Any]) -> None:
    assert next(iter(polish)) == "schema"
    assert (polish["schema"], polish["steps"]) == ("simulate/1", 1000)
    assert {"name", "share", "pulls", "share_low", "share_high"} <= set(polish["arms"][0])
    assert set(polish["regret"]) == set(POLICIES)
    assert min(polish["regret"].values()) > 0.0
    assert polish["goal_loss"]["optimum"] < polish["goal_loss"]["end"] < polish["goal_loss"]["start"]


def test_what_is_printed_fits_a_terminal_and_says_what_was_assumed(small: Path) -> None:
    result = simulate(small)
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "ASSUMED to be 100,000" in result.stdout
    rows = [line.split() for line in result.stdout.splitlines() if line]
    assert ["lists", "0", "0", "cap", "0", "0", "0.0%", "0.00"] in rows
    assert next(row for row in rows if row[0] == "books")[1:3] == ["1.3", "0.5"]
    assert {row[0] for row in rows} >= set(POLICIES)
    wide = simulate(POLISH, "--steps", 60, "--against", CONFIGS / "andrea-120m.toml")
    assert max(map(len, wide.stdout.splitlines())) <= 80


def test_the_same_seed_prints_the_same_and_another_world_does_not(small: Path) -> None:
    first, same, other = (simulate(small, "--policies", "fixed", *more) for more in ((), (), ("--world", 1)))
    assert first.stdout == same.stdout != other.stdout


def test_the_warm_up_is_simulated_unless_it_is_longer_than_what_is_shown(small: Path) -> None:
    within = body(small, "--policies", "none")
    assert (within["steps"], within["skipped_steps"]) == (300, 0)
    pulls = {arm["name"]: arm["pulls"] for arm in within["arms"]}
    assert pulls["books"] >= 160  # 40 steps of it alone
    assert within["arms"][1]["pulls"] == round(within["arms"][1]["share"] * 260 * 4)
    only = body(small, "--policies", "none", "--steps", 30)
    assert [arm["share"] for arm in only["arms"]] == [1.0, 0.0, 0.0]
    assert only["arms"][1]["why_not"].startswith("not in the warm-up set")
    skipped = body(small, "--policies", "none", "--steps", 30, "--skip-warmup")
    assert (skipped["skipped_steps"], skipped["arms"][1]["why_not"]) == (40, None)
    small.write_text(SMALL.replace("= 40", "= 400"))
    assert "the warm-up, 400 steps, is left out" in simulate(small, "--policies", "none").stdout


def test_against_shows_both_shares(small: Path) -> None:
    other = small.with_name("other.toml")
    other.write_text(SMALL.replace("cap = 0.4", "cap = 0.1"))
    found = body(small, "--against", other, "--policies", "none")
    alone = body(other, "--policies", "none", "--skip-warmup")
    assert [arm["share_against"] for arm in found["arms"]] == [arm["share"] for arm in alone["arms"]]
    assert found["arms"][1]["share"] > 2 * found["arms"][1]["share_against"]


def test_windows_are_the_manifests_where_there_is_one_and_a_told_number_wins(small: Path) -> None:
    folder = small.parent / "data" / "small"
    folder.mkdir(parents=True)
    documents = random_documents(30)
    tokens = sum(map(len, documents))
    write_folder(folder, {"books": (documents, [])})
    found = body(small, "--policies", "none")
    assert [arm["windows"] for arm in found["arms"]] == [(tokens - 1) // 8, 100_000, None]
    assert str(folder) in found["windows"]
    assert "of forum ASSUMED" in found["windows"]
    told = body(small, "--policies", "none", "--windows", "700", "--windows", "books=90")
    assert [arm["windows"] for arm in told["arms"]] == [90, 700, None]
    assert told["arms"][0]["epochs"] > 1.0


def test_a_source_too_small_for_a_window_is_a_zombie(small: Path) -> None:
    folder = small.parent / "data" / "small"
    folder.mkdir(parents=True)
    write_folder(folder, {"books": (random_documents(30), []), "forum": (random_documents(1)[:0], [])})
    forum = body(small, "--policies", "none")["arms"][1]
    assert (forum["pulls"], forum["share_high"], forum["why_not"]) == (0, 0.0, "no data")


def test_junk_is_worth_nothing_to_the_goal(small: Path) -> None:
    learns = body(small, "--policies", "fixed", "--junk", "books")
    assert learns["goal"] == ["forum"]
    assert body(small, "--policies", "fixed")["goal"] == ["books"]


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (("floor = 0.5", "min_share = 1.5"), Exit.REFUSED, "min_share"),
        (("cap = 0.4", "kap = 0.4"), Exit.USAGE, "did you mean"),
    ],
)
def test_a_config_that_may_not_run_ends_as_a_run_would(
    small: Path, change: tuple[str, str], code: Exit, said: str
) -> None:
    small.write_text(SMALL.replace(*change))
    result = simulate(small, "--policies", "none")
    assert result.exit_code == code, result.output
    assert said in result.stderr


def test_infeasible_bounds_are_the_configs_own_error(small: Path) -> None:
    small.write_text(
        SMALL.replace("cap = 0.4", "cap = 0.4\nmin_share = 0.6").replace("floor = 0.5", "min_share = 0.7")
    )
    result = simulate(small, "--json")
    assert result.exit_code == Exit.REFUSED
    error = json.loads(result.stdout)["error"]
    assert "min_share sums to 1.3, over 1" in error["message"]
    assert (error["code"], error["changed"]) == (13, "nothing")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--junk", "boks"], Exit.NOT_FOUND),
        (["--windows", "forums=3"], Exit.NOT_FOUND),
        (["--windows", "books=many"], Exit.USAGE),
        (["--windows", "0"], Exit.USAGE),
        (["--policies", "focus"], Exit.USAGE),
        (["--plot", "shares.doc"], Exit.USAGE),
        (["--against", "no-such.toml"], Exit.USAGE),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(
    small: Path, arguments: list[str], code: Exit
) -> None:
    before = files_in(small.parent)
    result = simulate(small, *arguments, "--json")
    assert result.exit_code == code, result.output
    assert json.loads(result.stdout)["error"]["next"]
    assert files_in(small.parent) == before


def test_a_picture_is_written(small: Path) -> None:
    pytest.importorskip("matplotlib")
    path = small.with_name("shares.png")
    result = simulate(small, "--policies", "none", "--plot", path)
    assert result.exit_code == 0, result.output
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    assert width > 1000 < 2 * height
    nowhere = simulate(small, "--policies", "none", "--plot", small.parent / "none" / "shares.png")
    assert nowhere.exit_code == Exit.WRITE_FAILED


def test_without_matplotlib_the_error_names_what_to_install(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = simulate(small, "--plot", small.with_name("shares.png"))
    assert result.exit_code == Exit.USAGE
    assert "pip install 'firehose[plot]'" in result.stderr
    assert result.stdout == ""


def test_nothing_but_a_picture_loads_matplotlib(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        assert not name.startswith("matplotlib")
        return load(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert simulate(small, "--policies", "none").exit_code == 0


def test_a_sparkline_shows_any_share_above_nothing() -> None:
    assert sparkline([0.0, 0.001, 0.25, 1.0], 1.0, blocks=True) == " ▁▂█"
    assert sparkline([0.0, 0.001, 0.25, 1.0], 1.0, blocks=False) == " .:@"


def test_rows_share_one_scale_and_plain_terminals_get_plain_characters() -> None:
    series = [Series("books", [0.2, 0.8], 0.5, 0.0, 1.0), Series("a-long-name", [0.4, 0.0], 0.2, 0.0, 1.0)]
    assert terminal(series, 6, blocks=True) == ["books  │▂█│  50.0%", "a-long │▄ │  20.0%"]
    plain = terminal(series, 6, blocks=False)
    assert "".join(plain).isascii()
    assert [len(row) for row in plain] == [18, 18]
