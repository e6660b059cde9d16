"""What state commands say comes next: by a launch's own rule, only what would be accepted, and shown as it is typed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from curriculum import config as configs
from curriculum.console import wrapped
from curriculum.errors import Exit
from curriculum.sources import open_corpus
from state import journal
from state.cli import app
from state.operate.cli import state_app
from state.pullable import listed
from state.run_dir import RunDir
from state.store import StateStore
from state.survey import on_disk, reconciled
from tests import hints
from tests.curriculum.data_folders import random_documents, write_folder
from tests.state.state_runs import current, make_run, sealed_as


def call(*words: str, to: Any = state_app) -> Any:
    """A command as at the terminal; every command that it names must be one."""
    done = CliRunner().invoke(to, list(words))
    assert [why for found in hints.named(done.output) if (why := hints.refused(found))] == [], done.output
    return done


def out(*words: str) -> str:
    done = call(*words)
    assert done.exit_code == 0, done.output
    return str(done.stdout)


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """The run `demo` with the token files of its sources, in the current folder."""
    make_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    found = RunDir(Path("runs/demo"))
    config = configs.load(found.config)
    folder = config.resolve(config.data.dir)
    folder.mkdir(parents=True)
    documents = random_documents(400)
    write_folder(folder, dict.fromkeys(config.sources, (documents, ())))
    return found


def data_file(run: RunDir, name: str) -> Path:
    config = configs.load(run.config)
    return config.resolve(config.data.dir) / f"{name}.btok"


def edit_by_hand(run: RunDir) -> None:
    text = run.state.read_text()
    edited = re.sub(r'("credit": ?)[^,\n]*', r"\g<1>0.125", text, count=1)
    assert edited != text
    run.state.write_text(edited)


def pivot_away(run: RunDir) -> None:
    """A state of another lineage that began from the one there is."""
    from state.envelope import Parent

    was = current(run)
    StateStore(run.state).create(
        was.payload,
        step=was.step,
        config_sha256=was.config_sha256,
        parent=Parent(lineage=was.lineage, serial=was.serial, step=was.step),
    )


def test_previews_go_by_config_and_data(run: RunDir) -> None:
    told = out("rm", "forum", "--dry-run")
    assert "the next launch begins it anew, without history" in flat(told)
    assert "keep it out: firehose polish set forum.cap=0 --run demo" in told
    data_file(run, "forum").unlink()
    told = flat(out("rm", "forum"))
    assert "forum.btok does not exist: it stays out" in told and "anew" not in told
    told = flat(out("restore", "forum", "--dry-run"))
    assert "the next launch puts it aside" in told and "it goes on" not in told
    out("restore", "forum")
    config = configs.load(run.config)
    result = reconciled(config, open_corpus(config), current(run).payload, step=20, read_data=False)
    assert "forum" not in result.ids, "and so it does"


def test_a_preview_without_data_says_that_a_launch_is_refused(run: RunDir) -> None:
    data_file(run, "forum").with_name("manifest.json").unlink()
    assert "as things are a launch is refused: the token files of 3 sources are not built" in flat(
        out("rm", "forum", "--dry-run")
    )


def test_list_and_show_name_a_zombie_and_why(run: RunDir) -> None:
    assert "zombie" not in out("list")
    data_file(run, "forum").unlink()
    told = out("list")
    assert [line.split()[1] for line in told.splitlines()[1:4]] == ["live", "live", "zombie"]
    assert "forum.btok does not exist" in flat(told) and told.endswith("next: firehose state check demo\n")
    assert "zombie: the next launch puts it aside: its data is missing" in flat(out("show", "forum"))
    rows = json.loads(call("list", "--json").stdout)["arms"]
    assert rows[2]["status"] == "zombie" and "missing" in rows[2]["why"] and rows[0]["why"] is None
    run.config.write_text(run.config.read_text().replace('[sources.code]\npath = "code.txt"\n', ""))
    told = out("list")
    assert "code: the next launch puts it aside: it is not configured" in told


def test_the_light_look_at_the_data_is_the_launchs(run: RunDir) -> None:
    data_file(run, "code").unlink()
    config = configs.load(run.config)
    assert listed(config) == on_disk(open_corpus(config))


def test_history_offers_only_what_would_be_accepted(run: RunDir) -> None:
    assert "firehose" not in out("history"), "there is nothing to go back to"
    out("rm", "forum")
    tail = out("history").splitlines()[-1]
    assert tail.startswith("firehose state restore demo --serial 1 ")
    tx = journal.Transaction(run, "repair", "drop a bad arm", now="2026-01-02T03:04:05Z")
    tx.put(run.state, sealed_as(run, serial=3))
    tx.keep(run.state, run.versions / "2.json")
    tx.commit()
    assert "--undo 1" in out("history")
    out("rm", "code")
    told = out("history")
    assert "--undo" not in told and "--serial 3" in told, "the repair's file has changed since"
    assert call("restore", "demo", "--undo", "1").exit_code == Exit.REFUSED
    assert call("restore", "demo", "--serial", "3", "--dry-run").exit_code == 0


def test_after_a_pivot_the_way_back_is_a_rollback(run: RunDir) -> None:
    pivot_away(run)
    told = out("history")
    assert "--serial" not in told and "firehose polish rollback demo" in told
    assert call("restore", "demo", "--serial", "1").exit_code == Exit.REFUSED


def test_a_version_of_an_older_step_is_not_offered(run: RunDir) -> None:
    state = current(run)
    was = run.state.read_bytes()
    StateStore(run.state).commit(state.payload, step=20, config_sha256=state.config_sha256)
    (run.versions / "1.json").write_bytes(was.replace(b'"step": 20', b'"step": 10'))
    (run.versions / "1.json").write_bytes(sealed_as(run, serial=1, step=10))
    assert "--serial" not in out("history")
    assert call("restore", "demo", "--serial", "1").exit_code == Exit.REFUSED


def test_history_shows_what_is_damaged_and_what_was_undone(run: RunDir) -> None:
    out("rm", "forum")
    (run.versions / "undone-7.json").write_bytes(sealed_as(run, serial=7))
    edit_by_hand(run)
    told = out("history")
    assert "F0002 hash mismatch: the payload is not what was written" in flat(told), "not cut"
    assert any(line.startswith("current ") and "DAMAGED" in line for line in told.splitlines())
    assert any(line.split()[0] == "7" and " undone" in line for line in told.splitlines())
    assert "firehose state check demo" in told and "firehose state restore demo --serial 1" in told
    assert all(len(line) <= 80 for line in told.splitlines())


def test_what_is_shown_instead_of_a_damaged_file_is_said(run: RunDir) -> None:
    out("rm", "forum")
    edit_by_hand(run)
    for done in (call("list"), call("show"), call("show", "code"), call("status", to=app)):
        assert done.exit_code == 0
        assert "shown is serial 1 of step 20" in flat(done.stderr) and "F0002" in done.stderr
        assert "firehose state check demo" in done.stderr


def test_diff_of_an_edited_file_is_with_what_it_was_sealed_as(run: RunDir) -> None:
    edit_by_hand(run)  # of serial 1, whose sealed copy is in the checkpoint
    done = call("diff")
    assert (
        "F0002" in done.stderr
        and "checkpoint:20 against serial 1 (edited since it was sealed)" in done.stderr
    )
    changes = json.loads(call("diff", "--json").stdout)["changes"]
    assert [change["field"] for change in changes] == ["credit"] and changes[0]["new"] == 0.125
    assert "no difference" in call("diff", "checkpoint", "checkpoint").stderr
    done = call("list")
    assert done.exit_code == Exit.DAMAGED and "firehose state check demo" in done.stderr, "no version is left"


def test_a_diff_without_the_sealed_copy_says_so(run: RunDir) -> None:
    out("rm", "forum")
    edit_by_hand(run)
    done = call("diff")
    assert done.exit_code == 0 and "no sealed copy of serial 2 is kept" in done.stderr
    assert "serial 1 against serial 2 (edited since it was sealed)" in done.stderr


def test_a_source_whose_record_was_removed_is_told_how_to_have_it_back(run: RunDir) -> None:
    out("rm", "forum")
    told = flat(out("diff", "--against-config"))
    assert "'forum' is new and joins with no history" in told
    assert "to have it back: firehose state restore forum demo" in told


def test_missing_data_comes_with_the_commands(run: RunDir) -> None:
    data_file(run, "forum").unlink()
    told = flat(out("diff", "--against-config"))
    assert "firehose data build runs/demo/config.toml" in told
    assert "firehose polish set forum.cap=0 --run demo" in told
    assert "firehose state rm forum --run demo" in told


def test_an_undo_with_nothing_to_undo_names_the_last_change(run: RunDir) -> None:
    out("rm", "forum")
    done = call("restore", "--undo")
    assert done.exit_code == Exit.NOT_FOUND
    assert "serial 2: rm forum" in done.stderr and "firehose state restore demo --serial 1" in done.stderr


@pytest.mark.parametrize(
    "words", [("demo", "--undo", "1"), ("--undo", "1", "demo"), ("1", "demo", "--undo"), ("--undo", "1")]
)
def test_run_and_number_stand_in_any_order(words: tuple[str, ...], run: RunDir) -> None:
    before = run.state.read_bytes()
    tx = journal.Transaction(run, "repair", "drop a bad arm", now="2026-01-02T03:04:05Z")
    tx.put(run.state, sealed_as(run, serial=2))
    tx.commit()
    told = out("restore", *words)
    assert run.state.read_bytes() == before
    assert told.splitlines()[-1] == "redo: firehose state restore demo --undo 2"
    out("restore", "demo", "--undo", "2")
    assert current(run).serial == 2


def test_a_word_that_is_no_number_is_named() -> None:
    assert "'last' is not the number of a change" in call("restore", "demo", "--undo", "last").stderr


def test_a_run_in_the_place_of_an_arm_is_seen() -> None:
    done = call("rm", "demo", "forum")
    assert done.exit_code == Exit.USAGE and "demo is a run" in done.stderr
    assert "firehose state rm forum --run demo" in done.stderr
    assert call("rm", "bokos").exit_code == Exit.NOT_FOUND


def test_lines_are_wrapped_between_words_alone(run: RunDir) -> None:
    path = "/somewhere/far-away/with-hyphens/" + "x" * 60
    assert wrapped(f"it is in {path} now", width=40).splitlines() == ["it is in", f"  {path}", "  now"]
    assert wrapped("  next: do\n\nthis") == "  next: do\n\nthis"
    kept = wrapped("so many words before: firehose state check demo; and after", width=40).splitlines()
    assert "  firehose state check demo; and after" in kept
