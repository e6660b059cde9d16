"""`firehose state` for a person: what it prints, at 80 columns, and how it understands its arguments."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from curriculum.errors import Exit
from state.lock import RunLock
from state.operate.cli import state_app
from state.store import StateStore
from tests.state.state_runs import current, make_run, sealed_as

COMMANDS = sorted(found.name or "" for found in state_app.registered_commands)


def call(*words: str) -> Any:
    return CliRunner().invoke(state_app, list(words))


def out(*words: str) -> str:
    done = call(*words)
    assert done.exit_code == 0, done.output
    assert all(len(line) <= 80 for line in done.stdout.splitlines()), done.stdout
    return str(done.stdout)


def body(*words: str) -> dict[str, Any]:
    done = call(*words, "--json")
    found: dict[str, Any] = json.loads(done.stdout)
    assert next(iter(found)) == "schema" and done.exit_code == found.get("error", {}).get("code", 0)
    return found


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the run `demo`, as the current one."""
    make_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_list_is_a_line_an_arm() -> None:
    call("rm", "forum")
    assert out("list") == (
        "arm    status  cap  floor  share  pulls  windows  epochs  reward\n"
        "books    live  0.8    0.3  50.0%     16       64    1.28   0.662\n"
        "code     live  1.3      0  50.0%     16       64    1.28   0.697\n"
        "\n"
        "put aside   status  at step  pulls  windows  why\n"
        "forum      removed       20     14       56  removed by command\n"
    )


def test_list_takes_a_run_a_path_or_a_pattern(here: Path) -> None:
    whole = out("list")
    assert (
        out("list", "demo") == out("list", "runs/demo") == out("list", "runs/demo/demo.state.json") == whole
    )
    assert out("list", "runs/demo/checkpoints/step_20") == whole
    one = out("list", "c*").splitlines()
    assert len(one) == 2 and one[1].startswith("code") and out("list", "demo", "c*").splitlines() == one
    make_run(here, name="other")
    assert call("list").exit_code == Exit.USAGE, "which one?"
    assert body("list", "dmo")["error"]["code"] == Exit.NOT_FOUND


def test_show_says_everything_of_an_arm_with_units() -> None:
    shown = out("show", "books")
    for text in (
        "config           the config wants books (cap 0.8, floor 0.3)",
        "weight bounds    floor 0.3 to cap 0.8",
        "windows served   64 of 50 (1.280 epochs)",
        "on the way       3 not credited yet, 3 not trained yet",
        "data             sha256 00000000000000000000000000000000…",
    ):
        assert text in shown, shown
    found = body("show", "books", "demo")
    assert found["record"] == current(make_target()).payload["bandit"]["arms"]["books"]
    assert len(found["tickets"]) == 6 and found["config"]["wanted"] is True
    call("rm", "books")
    assert "removed, put aside at step 20: removed by command" in out("show", "books")


def make_target() -> Any:
    from state.run_dir import RunDir

    return RunDir(Path("runs/demo"))


def test_show_without_an_arm_is_the_head_of_the_state(here: Path) -> None:
    head = out("show")
    assert head.splitlines()[2].startswith("serial      1, written 2026-01-02T03:04:05Z, file version")
    assert out("show", "demo") == out("show", "runs/demo/demo.state.json") == head
    make_run(here, name="books")
    done = call("show", "bokos", "demo")
    assert done.exit_code == Exit.NOT_FOUND and "did you mean 'books'" in done.output
    assert out("show", "books").splitlines()[0].startswith("lineage"), (
        "several runs, and it is the name of one"
    )


def test_a_word_that_is_both_an_arm_and_a_run_is_asked_about(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(here / "elsewhere", name="x").root.rename(here / "books")
    done = call("show", "books")
    assert done.exit_code == Exit.USAGE and "is an arm of demo" in done.output


def test_diff_tells_decisions_apart_from_what_always_moves() -> None:
    call("rm", "forum")
    assert out("diff") == (
        "arm    field   old   new\n"
        "forum  status  live  removed at step 20: removed by command\n"
        "       edit    -     rm forum\n"
        "\n"
        "serial 1 -> 2\n"
        "moved on     pulls   windows  mean reward\n"
        "forum     16 -> 14  64 -> 56\n"
        "and 3 more values that always move; --all shows them\n"
    )
    everything = out("diff", "--all")
    assert "penalty_trace" not in everything and "cursor" in everything
    assert (
        out("diff", "1", "2")
        == out("diff", "demo")
        == out("diff", "previous", "--run", "demo")
        == out("diff")
    )
    assert call("diff", "--exit-code").exit_code == Exit.FINDINGS
    assert call("diff", "2", "current", "--exit-code").exit_code == 0


def test_diff_against_a_checkpoint_a_file_and_what_is_not_there() -> None:
    assert out("diff", "checkpoint:20") == "" == out("diff", "checkpoint")
    Path("kept.json").write_bytes(sealed_as(make_target(), serial=4))
    changes = body("diff", "kept.json")["changes"]
    assert [change["field"] for change in changes] == ["serial"] and changes[0]["moving"]
    assert out("diff", "kept.json", "kept.json") == ""
    assert "it has 1" in body("diff", "7")["error"]["message"]
    assert "there are 20" in body("diff", "checkpoint:30")["error"]["message"]


def test_a_renamed_arm_is_one_line_of_a_diff() -> None:
    call("mv", "books", "novels")
    assert [line.split() for line in out("diff").splitlines()[1:3]] == [
        ["novels", "name", "books", "novels"],
        ["edit", "-", "mv", "books", "novels"],
    ]


def test_rm_needs_an_arm_and_options_stand_anywhere() -> None:
    before = current(make_target())
    assert call("rm").exit_code == Exit.USAGE
    for words in (
        ("rm", "--dry-run", "forum"),
        ("rm", "forum", "--dry-run"),
        ("rm", "forum", "-n", "--run", "demo"),
    ):
        told = out(*words)
        assert "forum: put aside with its record" in told and told.endswith("nothing is changed\n")
        assert "the config wants forum" in told
    assert current(make_target()) == before
    told = out("rm", "forum", "code")
    assert "undo: firehose state restore demo --serial 1" in told
    assert list(current(make_target()).payload["bandit"]["arms"]) == ["books"]
    assert current(make_target()).serial == 2, "one serial for both"


def test_one_bad_name_among_several_changes_nothing() -> None:
    before = Path("runs/demo/demo.state.json").read_bytes()
    found = body("rm", "code", "bokos")
    assert found["error"]["code"] == Exit.NOT_FOUND and found["error"]["arm"] == "bokos"
    assert Path("runs/demo/demo.state.json").read_bytes() == before


def test_the_dry_run_and_the_change_say_the_same() -> None:
    dry, done = body("rm", "forum", "--dry-run"), body("rm", "forum")
    assert (dry.pop("dry_run"), done.pop("dry_run")) == (True, False)
    assert dry == done and done["serial"] == {"old": 1, "new": 2}


def test_a_run_that_is_alive_is_not_edited_and_the_holder_is_named() -> None:
    with RunLock(Path("runs/demo/demo.lock")):
        found = body("rm", "forum")["error"]
        assert found["code"] == Exit.LOCKED and "pid" in found["message"]
        assert (found["next"], found["changed"]) == ("firehose stop demo", "nothing")
        assert out("rm", "forum", "--dry-run") and out("list"), "reading needs no lock"
    assert current(make_target()).serial == 1


def test_history_tells_what_was_done_and_how_to_undo_it() -> None:
    call("rm", "forum")
    call("mv", "books", "novels")
    store = StateStore(make_target().state)
    store.folder.joinpath("damaged-0123456789ab.json").write_text("{")
    lines = out("history").splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["serial", "1", "2", "damaged-0123456789ab", "3"]
    assert lines[2].endswith("rm forum") and lines[4].endswith("current  mv books novels")
    assert "DAMAGED" in lines[3] and "damaged-0123456789ab.json: F0001" in lines[5]
    assert lines[-1] == "firehose state restore demo --serial 2   makes that version current again"
    assert [row["damaged"] is None for row in body("history")["versions"]] == [True, True, False, True]


def test_what_a_transaction_did_is_listed_and_undone_from_the_command_line() -> None:
    from state import journal

    run = make_target()
    before = run.state.read_bytes()
    tx = journal.Transaction(run, "repair", "drop a bad arm", now="2026-01-02T03:04:05Z")
    tx.put(run.state, sealed_as(run, serial=2))
    tx.keep(run.state, run.versions / "1.json")
    tx.commit()
    told = out("history")
    assert "0001    repair" in told and "firehose state restore demo --undo 1" in told
    assert out("restore", "demo", "--undo", "--dry-run").startswith("would undo 0001-repair: drop a bad arm")
    assert run.state.read_bytes() != before
    assert out("restore", "--undo", "1").startswith("undo 0001-repair")
    assert run.state.read_bytes() == before
    assert "undone: drop a bad arm" in out("history")
    assert body("restore", "demo", "--undo", "1")["error"]["code"] == Exit.NOT_FOUND


def test_restore_needs_to_know_what(here: Path) -> None:
    assert body("restore")["error"]["code"] == Exit.USAGE
    assert body("restore", "demo", "--undo", "--serial", "1")["error"]["code"] == Exit.USAGE
    assert body("restore", "books", "demo", "--serial", "1")["error"]["code"] == Exit.USAGE
    assert body("restore", "demo", "--undo", "last")["error"]["code"] == Exit.USAGE


def test_an_arm_goes_and_comes_back() -> None:
    call("rm", "forum")
    told = out("restore", "forum")
    assert told.startswith("forum: back with its record of step 20: 14 pulls, 56 windows served\n")
    assert "the config wants forum (cap 1.3, floor 0): it goes on" in told
    assert [row["status"] for row in body("list")["arms"]] == ["live"] * 3


def test_pull_gives_the_bytes_and_push_takes_them_back(here: Path) -> None:
    run = make_target()
    assert CliRunner().invoke(state_app, ["pull"]).stdout_bytes == run.state.read_bytes()
    assert call("pull", "-o", "kept.json").exit_code == 0
    assert Path("kept.json").read_bytes() == run.state.read_bytes()
    assert body("pull", "-o", "kept.json")["error"]["code"] == Exit.USAGE, "never over a file that is there"
    assert body("pull")["error"]["code"] == Exit.USAGE
    assert out("push", "kept.json") == "nothing to do: it is what serial 1 of demo holds\n"
    call("rm", "forum")
    refused = body("push", "kept.json")["error"]
    assert (
        refused["code"] == Exit.REFUSED
        and "serial 1," in refused["message"]
        and "serial 2" in refused["message"]
    )
    piped = CliRunner().invoke(state_app, ["push", "-", "--force"], input=Path("kept.json").read_bytes())
    assert piped.exit_code == 0 and "push serial 1" in piped.stdout
    assert "forum" in current(run).payload["bandit"]["arms"] and current(run).serial == 3


def test_migrate_says_when_there_is_nothing_to_do() -> None:
    assert out("migrate") == "nothing to do: demo.state.json is of version 2, the newest\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_that_is_a_command(name: str) -> None:
    done = call(name, "--help")
    assert done.exit_code == 0 and f"firehose state {name}" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["list", "none"],
        ["show", "books", "none"],
        ["diff", "--run", "none"],
        ["rm", "books", "--run", "none"],
        ["mv", "a", "b", "none"],
        ["restore", "books", "none"],
        ["history", "none"],
        ["pull", "none", "-o", "x"],
        ["push", "none.json"],
        ["migrate", "none"],
    ],
)
def test_what_is_not_there_is_an_error_that_says_what_next(words: list[str], here: Path) -> None:
    before = sorted(here.rglob("*"))
    error = body(*words)["error"]
    assert error["code"] == Exit.NOT_FOUND and error["changed"] == "nothing" and error["next"]
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("words", [["show", "books"], ["history"]])
def test_looking_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['firehose', 'state', *{words}]\n"
        "from trainer import cli\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "sys.exit(repr({'torch', 'numpy', 'tokenizers'} & set(sys.modules)).replace('set()', '') or 0)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and done.stdout, done.stderr


def test_a_file_is_only_read(here: Path) -> None:
    run = make_target()
    Path("kept.json").write_bytes(sealed_as(run))
    assert body("rm", "books", "--run", "kept.json")["error"]["code"] == Exit.USAGE
    assert out("list", "kept.json") == out("list", "demo")
