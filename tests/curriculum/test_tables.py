"""Parquet files and datasets of Hugging Face: the same documents as from JSONL, and errors that name what is missing."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from curriculum import config as configs
from curriculum.data_cli import app
from curriculum.errors import Exit, FirehoseError
from curriculum.text import tables
from curriculum.text.build import plan_for
from curriculum.text.read import documents, find_files, size_of

ROWS: list[dict[str, Any]] = [{"text": f"Rain number {n} fell.", "id": n} for n in range(600)]
CHATS = [
    {
        "messages": [
            {"role": "user", "content": f"Question {n}? / more"},
            {"role": "assistant", "content": "# Yes"},
        ]
    }
    for n in range(5)
]


def arrow() -> Any:
    pytest.importorskip(
        "pyarrow", reason="the extra `parquet` is not installed: pip install 'firehose[parquet]'"
    )
    import pyarrow
    import pyarrow.parquet

    return pyarrow


def hugging_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return pytest.importorskip(
        "datasets", reason="the extra `datasets` is not installed: pip install 'firehose[datasets]'"
    )


def parquet(path: Path, rows: list[dict[str, Any]], group: int = 100) -> Path:
    library = arrow()
    library.parquet.write_table(library.Table.from_pylist(rows), path, row_group_size=group)
    return path


def test_parquet_yields_its_documents_in_order(tmp_path: Path) -> None:
    text, chat = parquet(tmp_path / "a.parquet", ROWS), parquet(tmp_path / "b.parquet", CHATS)
    found = list(documents("rain", [text]))
    assert [document.text for document in found] == [row["text"] for row in ROWS]
    assert json.loads(found[3].as_line()) == {"text": ROWS[3]["text"]}
    chats = list(documents("rain", [chat]))
    assert chats[1].text == "> Question 1? / more\n< # Yes"
    assert chats[1].turn == "Question 1? / more"  # by its role, not up to the ` / `
    assert json.loads(chats[1].as_line()) == CHATS[1]
    assert sum(len(row["text"]) for row in ROWS) <= size_of(text) <= 40 * len(ROWS)
    assert find_files("rain", [tmp_path]) == [text, chat]


def test_parquet_with_gaps_and_without_text(tmp_path: Path) -> None:
    gaps = parquet(tmp_path / "a.parquet", [{"text": "one"}, {"text": None}, {"text": "two"}])
    assert [document.text for document in documents("rain", [gaps])] == ["one", "", "two"]
    other = parquet(tmp_path / "b.parquet", [{"content": "one"}])
    with pytest.raises(FirehoseError, match=r"no column `text` or `messages` \(content\)") as caught:
        list(documents("rain", [other]))
    assert (caught.value.exit_code, caught.value.arm) == (Exit.REFUSED, "rain")
    role = [{"messages": [{"role": "tool", "content": "x"}]}]
    with pytest.raises(FirehoseError, match="role 'tool'") as caught:
        list(documents("rain", [parquet(tmp_path / "c.parquet", role)]))
    assert caught.value.path == f"{tmp_path / 'c.parquet'}:1"


def test_damaged_parquet_is_named(tmp_path: Path) -> None:
    arrow()
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(FirehoseError, match=r"a\.parquet is damaged") as caught:
        list(documents("rain", [path]))
    assert caught.value.exit_code is Exit.DAMAGED
    whole = parquet(path, ROWS).read_bytes()
    path.write_bytes(whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :])
    with pytest.raises(FirehoseError, match=r"a\.parquet is damaged"):
        list(documents("rain", [path]))


def test_parquet_is_cleaned(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", [*ROWS[:9], {"text": "- a\n- b\n- c", "id": 0}, ROWS[2]])
    result = CliRunner().invoke(app, ["clean", str(path), str(tmp_path / "out.jsonl"), "--json"])
    assert (
        json.loads(result.stdout)["sources"]["a"]["dropped"] | {"list": 1, "duplicate": 1}
        == (json.loads(result.stdout)["sources"]["a"]["dropped"])
    )
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == [row["text"] for row in ROWS[:9]]


@pytest.mark.parametrize(("module", "extra"), [("pyarrow", "parquet"), ("datasets", "datasets")])
def test_a_missing_library_is_named_with_its_extra(
    module: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    if module == "pyarrow":
        path = tmp_path / "a.parquet"
        path.write_bytes(b"PAR1")
    else:
        path = tmp_path / "saved"
        path.mkdir()
        (path / "state.json").write_text("{}")
    with pytest.raises(FirehoseError, match="not installed") as caught:
        list(documents("rain", find_files("rain", [path])))
    assert (caught.value.exit_code, caught.value.path) == (Exit.REFUSED, str(path))
    assert caught.value.next == f"pip install 'firehose[{extra}]', then run the same command again"


def test_a_saved_dataset_and_a_saved_dict_of_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = hugging_face(tmp_path, monkeypatch)
    one, two = library.Dataset.from_list(ROWS), library.Dataset.from_list(ROWS[:7])
    one.save_to_disk(str(tmp_path / "one"))
    library.DatasetDict({"train": one, "test": two}).save_to_disk(str(tmp_path / "both"))
    expected = [row["text"] for row in ROWS]
    files = find_files("rain", [tmp_path / "one"])
    assert files == [tmp_path / "one"] and size_of(files[0]) > sum(map(len, expected))
    assert [document.text for document in documents("rain", files)] == expected
    both = find_files("rain", [tmp_path / "both"])
    assert [document.text for document in documents("rain", both)] == expected + expected[:7]


def test_a_dataset_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`load_dataset` takes a folder of files where it takes a name: the same call, without a connection."""
    hugging_face(tmp_path, monkeypatch)
    local = tmp_path / "named"
    local.mkdir()
    for split, rows in (("train", ROWS[:20]), ("test", ROWS[20:23])):
        (local / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, rows in ((f"hf:{local}", ROWS[:23]), (f"hf:{local}:test", ROWS[20:23])):
        found = list(documents("rain", find_files("rain", [name])))
        assert [document.text for document in found] == [row["text"] for row in rows]
    assert size_of(Path(f"hf:{local}:test")) >= 0
    with pytest.raises(FirehoseError, match="cannot be loaded") as caught:
        list(documents("rain", [Path(f"hf:{tmp_path}/nowhere")]))
    assert caught.value.exit_code is Exit.NOT_FOUND
    result = CliRunner().invoke(app, ["clean", f"hf:{local}:test", str(tmp_path / "out.jsonl")])
    assert result.exit_code == 0, result.output
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3


def test_a_name_stands_in_a_config_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('[sources.web]\npath = ["hf:org/name:train:en", "more.jsonl"]\n')
    plan = plan_for(configs.load(path))
    assert plan.sources["web"].paths == (Path("hf:org/name:train:en"), tmp_path / "more.jsonl")
    assert tables.is_named(plan.sources["web"].paths[0])
