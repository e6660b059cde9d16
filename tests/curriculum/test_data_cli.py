"""`firehose data` as a user meets it: tables and JSON on stdout, exit codes, nothing written by a dry run."""

import json
from pathlib import Path

import pytest
from data_folders import files_in
from typer.testing import CliRunner, Result

from curriculum.data_cli import app
from curriculum.text.clean import ALL_RULES

CONFIG = """
[data]
dir = "tokens"
vocab_size = 300
[model]
block_size = 8
[curriculum]
exclude_sources = ["junk", "not-configured"]
[sources.prose]
path = "text/prose"
expect_documents = 40
[sources.one]
path = ["text/*.jsonl"]
[sources.junk]
path = "nowhere.txt"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "text/prose").mkdir(parents=True)
    lines = [
        "".join(
            json.dumps({"text": " ".join(f"Rain {k} falls on town {n}." for k in range(6))}) + "\n"
            for n in range(40)
        )
    ]
    (tmp_path / "text/prose/a.jsonl").write_text("".join(lines))
    (tmp_path / "text/one.jsonl").write_text(
        json.dumps({"text": " ".join(f"one{n}" for n in range(50))}) + '\n{"text": ""}\n'
    )
    path = tmp_path / "run.toml"
    path.write_text(CONFIG)
    return path


def data(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_build_prints_a_table_and_says_what_is_unusual(config: Path) -> None:
    result = data("build", config)
    assert result.exit_code == 0, result.output
    cleaning, _, tokens = result.stdout.partition("\n\n")
    rows = {line.split()[0]: line.split()[1:] for line in cleaning.splitlines()}
    assert rows["prose"] == ["40", "40", "0.0%"]
    assert rows["one"] == ["2", "1", "50.0%"]
    assert rows["empty"] == ["1", "(50.0%)"]
    assert rows["total"][:2] == ["42", "41"]
    assert tokens.splitlines()[0].split() == [
        "source",
        "documents",
        "tokens",
        "windows",
        "held-out",
        "windows",
    ]
    assert all(len(line) <= 80 for line in result.stdout.splitlines() if str(config.parent) not in line)
    assert "one: nothing is held out" in result.stdout
    assert "junk: left out (curriculum.exclude_sources)" in result.stderr
    assert "encoding prose: 40 documents" in result.stderr
    (config.parent / "tokens/old.btok").touch()
    again = data("build", config)
    assert "left over from an earlier build, used by nothing: old.btok" in again.stderr


def test_build_json_is_the_contract(config: Path) -> None:
    result = data("build", config, "--json")
    body = json.loads(result.stdout)
    assert body["schema"] == "data-build/1"
    assert list(body["sources"]) == ["prose", "one"]
    one = body["sources"]["one"]
    assert {key: one[key] for key in ("in", "out", "dropped", "dropped_share", "documents")} == {
        "in": 2,
        "out": 1,
        "dropped": {rule: int(rule == "empty") for rule in ALL_RULES},
        "dropped_share": 0.5,
        "documents": 1,
    }
    assert one["tokens"] > 8
    listed = json.loads(data("ls", config.parent / "tokens", "--json").stdout)
    assert listed["schema"] == "data-ls/1"
    assert listed["sources"]["one"] == one | {"problem": None}


def test_a_dry_run_lists_the_text_and_writes_nothing(config: Path) -> None:
    before = files_in(config.parent)
    result = data("build", config, "--dry-run")
    assert result.exit_code == 0
    assert "prose       1" in result.stdout
    body = json.loads(data("build", config, "--dry-run", "--json").stdout)
    file = config.parent / "text/one.jsonl"
    assert body["dry_run"] is True
    assert body["sources"]["one"]["files"] == [{"path": str(file), "bytes": file.stat().st_size}]
    assert files_in(config.parent) == before


def test_errors_have_their_code_and_name_the_source(config: Path) -> None:
    (config.parent / "text/prose/a.jsonl").unlink()
    for dry_run in ((), ("--dry-run",)):
        result = data("build", config, "--json", *dry_run)
        error = json.loads(result.stdout)["error"]
        assert result.exit_code == error["code"] == 10
        assert (error["arm"], error["path"]) == ("prose", str(config.parent / "text/prose"))
    plain = data("build", config)
    assert plain.exit_code == 10
    assert plain.stdout == ""
    assert "holds no .jsonl, .ndjson, .txt or .parquet file" in plain.stderr


def test_ls_flags_damaged_and_missing_files(config: Path) -> None:
    data("build", config)
    folder = config.parent / "tokens"
    assert data("ls", folder).exit_code == 0
    path = folder / "prose.btok"
    path.write_bytes(path.read_bytes()[:-1])
    (folder / "one.btok").unlink()
    result = data("ls", folder)
    assert result.exit_code == 4
    assert "prose: prose.btok is damaged: its header describes" in " ".join(result.stdout.split())
    assert f"one: {folder / 'one.btok'} does not exist" in " ".join(result.stdout.split())
    assert "next:     firehose data build CONFIG" in result.stderr
    body = json.loads(data("ls", folder, "--json").stdout)
    assert body["error"]["code"] == 4
    assert body["sources"]["one"]["problem"] == f"{folder / 'one.btok'} does not exist"


def test_ls_of_a_folder_without_a_manifest(tmp_path: Path) -> None:
    result = data("ls", tmp_path, "--json")
    assert result.exit_code == json.loads(result.stdout)["error"]["code"] == 10


def test_a_source_that_loses_most_of_itself_is_reported_and_can_be_kept(config: Path) -> None:
    lists = [
        {"text": f"list {n}\n" + "\n".join(f"- thing {10 * n + k}" for k in range(9))} for n in range(30)
    ]
    (config.parent / "text/prose/b.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lists * 2))
    config.write_text(config.read_text().replace("expect_documents = 40", "expect_documents = 100"))
    result = data("build", config)
    assert "warning: prose loses 60.0% of its documents, most by the rule 'list'" in result.stderr
    manifest = json.loads((config.parent / "tokens/manifest.json").read_text())["sources"]
    assert manifest["prose"]["dropped"] == dict.fromkeys(ALL_RULES, 0) | {"list": 60}
    assert (manifest["prose"]["limits"]["list_share"], manifest["one"]["limits"]["list_share"]) == (0.7, 0.7)
    config.write_text(config.read_text() + "[sources.prose.clean]\nlist_share = 1.0\n")
    kept = data("build", config, "--json")
    prose = json.loads(kept.stdout)["sources"]["prose"]
    assert (prose["out"], prose["dropped"]["duplicate"], "warning" in kept.stderr) == (70, 30, False)
    manifest = json.loads((config.parent / "tokens/manifest.json").read_text())["sources"]
    assert (manifest["prose"]["limits"]["list_share"], manifest["one"]["limits"]["list_share"]) == (1.0, 0.7)
