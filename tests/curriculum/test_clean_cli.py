"""`firehose data clean` as a user meets it: the table, what was dropped, files written whole or not at all."""

import json
import os
import random
import subprocess
from pathlib import Path

import pytest
from data_folders import files_in, no_file_over
from typer.testing import CliRunner, Result

from curriculum.data_cli import app
from curriculum.text import cleaning
from curriculum.text.clean import ALL_RULES

PROMPT = {
    "messages": [{"role": "user", "content": "# A\n## B\n### C"}, {"role": "assistant", "content": "Yes."}]
}
HONEST = {
    "id": 7,
    "messages": [
        {"role": "user", "content": "How do I head a page?"},
        {"role": "assistant", "content": "# A\n## B\n### C"},
    ],
}


def data(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["clean", *(str(argument) for argument in arguments)])


def words(seed: int) -> str:
    draw = random.Random(seed)
    return " ".join(f"{draw.choice('abcdefgh')}{draw.randrange(500)}" for _ in range(40))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    (folder / "deep").mkdir(parents=True)
    lines = [json.dumps({"src": "x", "text": words(n)}, indent=None) for n in range(4)]
    lines[2:2] = ["", json.dumps({"text": "rain " * 60}), json.dumps({"text": words(0), "src": "copy"})]
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "deep/chat.jsonl").write_text(
        "".join(json.dumps(each) + "\n" for each in (PROMPT, HONEST, PROMPT))
    )
    (folder / "notes.txt").write_text(words(9) + "\n\n" + words(10) + "\n")
    return folder


def test_a_folder_is_cleaned_file_by_file(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = data(raw, out, "--report")
    assert result.exit_code == 0, result.output
    kept = (out / "a.jsonl").read_text().splitlines()
    before = (raw / "a.jsonl").read_text().splitlines()
    assert kept == [before[0], before[1], before[5], before[6]]  # as they were, in order
    assert [json.loads(line) for line in (out / "deep/chat.jsonl").read_text().splitlines()] == [HONEST]
    assert [json.loads(line) for line in (out / "notes.jsonl").read_text().splitlines()] == [
        {"text": f"{words(9)}\n\n{words(10)}"}
    ]
    assert {path.name for path in out.rglob("*")} == {
        "a.jsonl",
        "deep",
        "chat.jsonl",
        "notes.jsonl",
        "clean.json",
    }
    table = result.stdout.splitlines()
    assert table[0].split() == ["source", "in", "out", "dropped"]
    assert table[1].split() == ["a", "6", "4", "33.3%"]
    assert table[2].strip() == "repetition 1 (16.7%), duplicate 1 (16.7%)"
    assert "deep/chat" in table[3] and table[3].split()[1:] == ["3", "1", "66.7%"]
    assert any(line.split()[:4] == ["total", "10", "6", "40.0%"] for line in table)
    assert any(line.split()[:3] == ["prompt", "shape", "2"] and "prompt_signs = 3" in line for line in table)
    assert "warning: deep/chat loses 66.7% of its documents, most by the rule 'prompt shape'" in result.stderr
    assert all(len(line) <= 80 for line in table if str(tmp_path) not in line)
    report = json.loads((out / "clean.json").read_text())
    assert (report["format"], report["version"], report["limits"]["list_share"]) == ("firehose-clean", 1, 0.7)
    assert report["sources"]["deep/chat"]["file"] == "deep/chat.jsonl"
    again = data(raw, out)
    assert again.exit_code == 0  # what a cleaning wrote may be replaced


def test_json_is_the_contract(raw: Path, tmp_path: Path) -> None:
    body = json.loads(data(raw, tmp_path / "all.jsonl", "--json", "--show-dropped", 1).stdout)
    assert body["schema"] == "data-clean/1"
    assert body["sources"]["a"] == {
        "in": 6,
        "out": 4,
        "dropped": dict.fromkeys(ALL_RULES, 0) | {"repetition": 1, "duplicate": 1},
        "dropped_share": pytest.approx(1 / 3),
        "documents": 4,
        "tokens": None,
    }
    assert [(each["source"], each["rule"]) for each in body["shown"]] == [
        ("a", "repetition"),
        ("a", "duplicate"),
        ("deep/chat", "prompt shape"),
    ]
    assert len((tmp_path / "all.jsonl").read_text().splitlines()) == 6
    assert json.loads((tmp_path / "all.clean.json").read_text())["sources"]["a"]["in"] == 6


def test_what_was_dropped_can_be_looked_at(raw: Path, tmp_path: Path) -> None:
    dropped = tmp_path / "dropped.jsonl"
    result = data(raw, tmp_path / "out", "--dropped", dropped, "--show-dropped", 1)
    rows = [json.loads(line) for line in dropped.read_text().splitlines()]
    assert [(row["source"], row["rule"]) for row in rows][2:] == [("deep/chat", "prompt shape")] * 2
    assert rows[0]["text"] == "rain " * 60
    assert result.stdout.count("deep/chat: prompt shape") == 1
    assert "    > # A\n    ## B" in result.stdout


def test_a_dry_run_reads_all_and_writes_nothing(raw: Path, tmp_path: Path) -> None:
    before = files_in(tmp_path)
    result = data(raw, tmp_path / "out", "--dry-run", "--dropped", tmp_path / "dropped.jsonl")
    assert result.exit_code == 0 and "nothing was written" in result.stdout
    assert files_in(tmp_path) == before and not (tmp_path / "out").exists()


def test_limits_are_set_by_key(raw: Path, tmp_path: Path) -> None:
    body = json.loads(
        data(
            raw,
            tmp_path / "out",
            "--json",
            "--set",
            "bigram_diversity=0",
            "--set",
            "prompt_signs=99",
            "--set",
            "scripts=Latin,Han",
        ).stdout
    )
    assert body["limits"]["scripts"] == ["Latin", "Han"]
    assert body["sources"]["a"]["dropped"]["repetition"] == 0
    assert body["sources"]["deep/chat"]["dropped_share"] == pytest.approx(1 / 3)  # the copy
    for wrong, words in (
        ("list_shar=1", 'did you mean "list_share"'),
        ("list_share=7", "<= 1"),
        ("scripts=Latn", "enum"),
    ):
        refused = data(raw, tmp_path / "more", "--set", wrong)
        assert refused.exit_code == 2 and words in refused.stderr
    assert not (tmp_path / "more").exists()


def test_out_may_not_replace_what_no_cleaning_wrote(raw: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    own.write_text("precious\n")
    for source, out, words in (
        (raw, own, "no cleaning has written it"),
        (raw / "a.jsonl", raw / "a.jsonl", "part of what is read"),
        (raw, raw / "out", "part of what is read"),
        (raw, raw / "out.jsonl", "part of what is read"),
        (raw / "a.jsonl", raw / "notes.txt", "notes.txt is a file"),
    ):
        before = files_in(tmp_path)
        result = data(source, out)
        assert result.exit_code == 13 and words in result.stderr, result.stderr
        assert files_in(tmp_path) == before


def test_bad_text_changes_nothing(raw: Path, tmp_path: Path) -> None:
    data(raw, tmp_path / "out")
    before = files_in(tmp_path / "out")
    with (raw / "a.jsonl").open("a") as file:
        file.write("{\n")
    result = data(raw, tmp_path / "out", "--json")
    error = json.loads(result.stdout)["error"]
    assert (result.exit_code, error["changed"]) == (4, "nothing")
    assert error["path"].endswith("a.jsonl:8")
    assert files_in(tmp_path / "out") == before
    missing = data(tmp_path / "nowhere", tmp_path / "more")
    assert missing.exit_code == 10 and "correct IN" in missing.stderr


def test_a_full_disk_changes_nothing(raw: Path, tmp_path: Path) -> None:
    data(raw, tmp_path / "out")
    before = files_in(tmp_path / "out")
    with no_file_over(300):
        result = data(raw, tmp_path / "out")
    assert result.exit_code == 17 and "cannot write" in result.stderr
    assert files_in(tmp_path / "out") == before


def test_files_of_one_stem_keep_apart(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/a.jsonl").write_text(json.dumps({"text": words(1)}))
    (tmp_path / "raw/a.txt").write_text(words(2))
    assert data(tmp_path / "raw", tmp_path / "out").exit_code == 0
    assert (tmp_path / "out/a.txt.jsonl").exists() and (tmp_path / "out/a.jsonl.jsonl").exists()


# What must not be left behind, or vanish.


def test_what_an_earlier_cleaning_wrote_is_not_left_beside_what_this_one_writes(
    raw: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert data(raw, out).exit_code == 0
    (raw / "notes.txt").unlink()
    before = files_in(out)
    refused = data(raw, out)
    assert refused.exit_code == 13 and "an earlier cleaning wrote notes.jsonl" in refused.stderr
    assert files_in(out) == before
    (out / "notes.jsonl").unlink()
    assert data(raw, out).exit_code == 0


@pytest.mark.parametrize("name", ["out/a.jsonl", "out/clean.json", "there.jsonl"])
def test_what_is_dropped_overwrites_nothing(raw: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "there.jsonl").write_text("mine")
    refused = data(raw, tmp_path / "out", "--dropped", tmp_path / name)
    assert refused.exit_code == 13 and "--dropped" in refused.stderr
    assert not (tmp_path / "out").exists() and (tmp_path / "there.jsonl").read_text() == "mine"


def test_an_error_leaves_no_file_of_what_was_dropped(raw: Path, tmp_path: Path) -> None:
    (raw / "z.jsonl").write_text("{")
    for _ in range(2):  # the same command again says the same
        failed = data(raw, tmp_path / "out", "--dropped", tmp_path / "dropped.jsonl")
        assert failed.exit_code == 4 and "z.jsonl:1" in failed.stderr
        assert [path for path in tmp_path.iterdir() if path != raw and any(path.iterdir())] == []


def test_a_killed_cleanings_files_are_swept(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with subprocess.Popen(["true"]) as gone:
        pass
    (out / f".a.jsonl.{gone.pid}-0123abcd.tmp").write_text("half")
    (out / f".a.jsonl.{os.getpid()}-0123abcd.tmp").write_text("another's, at work")
    assert data(raw, out).exit_code == 0
    assert [path.name for path in out.glob(".*")] == [f".a.jsonl.{os.getpid()}-0123abcd.tmp"]


def test_an_interrupt_says_what_it_left(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cleaning._Writer, "add", interrupted)
    stopped = data(raw, tmp_path / "out")
    assert (stopped.exit_code, stopped.stderr) == (130, "interrupted: nothing was written\n")
    assert files_in(tmp_path / "out") == {}


def test_files_of_a_folder_that_are_not_read_are_named(raw: Path, tmp_path: Path) -> None:
    (raw / "more.ndjson").write_text(json.dumps({"text": words(30)}) + "\n")
    (raw / "README.md").write_text("about it")
    (raw / "b.jsonl.gz").write_bytes(b"x")
    (raw / "gone.jsonl").symlink_to(raw / "nowhere")
    result = data(raw, tmp_path / "out")
    assert result.exit_code == 0
    assert "not read" in result.stderr and "README.md, b.jsonl.gz, gone.jsonl" in result.stderr
    assert (tmp_path / "out/more.jsonl").exists()
