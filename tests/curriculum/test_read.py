"""Reading text: what each format yields, as a stream, and errors that say file, line and byte."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curriculum.errors import Exit, FirehoseError
from curriculum.text import read
from curriculum.text.read import documents, find_files


def texts(*files: Path) -> list[str]:
    return [document.text for document in documents("prose", files)]


def jsonl(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_jsonl_text_in_order(tmp_path: Path) -> None:
    first = jsonl(tmp_path / "a.jsonl", [{"text": "one\ntwo", "src": "x"}, {"text": ""}, {"text": "äöü 漢"}])
    second = tmp_path / "b.ndjson"
    second.write_bytes(b'\xef\xbb\xbf{"text": "with a mark"}\r\n\r\n  \n{"text": "no newline at the end"}')
    assert texts(first, second) == ["one\ntwo", "", "äöü 漢", "with a mark", "no newline at the end"]


def test_messages_are_rendered_through_the_template(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " What is rain? \n> quoted\n", "weight": 1},
        {"role": "assistant", "content": "Water.\n< less\n  > kept"},
        {"role": "assistant", "content": "  "},
        {"role": "user", "content": "Thanks."},
    ]
    path = jsonl(tmp_path / "a.jsonl", [{"messages": messages, "text": "not used"}, {"messages": []}])
    assert texts(path) == [
        "Be brief.\n> What is rain? \n > quoted\n< Water.\n < less\n  > kept\n> Thanks.",
        "",
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"text": "cut', "not JSON"),
        (b"plain words", "not JSON"),
        (b'{"text": "a"} {"text": "b"}', "not JSON"),
        (b'{"text": "\\ud800"}', "not JSON"),
        (b'["text"]', "does not hold a document: Expected `object`"),
        (b'{"text": 5}', r"Expected `str \| null`, got `int` - at `\$.text`"),
        (b'{"txt": "a"}', "neither `text` nor `messages`"),
        (b'{"messages": [{"role": "user"}]}', "missing required field `content`"),
        (
            b'{"messages": [{"role": "tool", "content": ""}]}',
            "role 'tool' is none of system, user, assistant",
        ),
        (b'{"text": "caf\xe9"}', r"not valid UTF-8 at byte 45 of a\.jsonl"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, words: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n\n{"text": "x"}\n' + line + b"\n" + b'{"text": "never reached"}\n')
    stream = documents("prose", [path])
    assert [next(stream).text, next(stream).text] == ["good", "x"]
    with pytest.raises(FirehoseError, match=words) as caught:
        next(stream)
    error = caught.value
    assert (error.exit_code, error.arm, error.path) == (Exit.DAMAGED, "prose", f"{path}:4")
    assert error.changed == "nothing"
    assert error.next is not None


def test_a_bad_byte_is_counted_from_the_start_of_the_file_mark_included(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "\xff"}\n')
    with pytest.raises(FirehoseError, match="at byte 13 of"):
        texts(path)


def test_a_bad_byte_is_named_also_where_no_text_is_read_from(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"from": "\xff", "text": "a"}\n')
    with pytest.raises(FirehoseError, match="not valid UTF-8 at byte 10 of"):
        texts(path)


def test_lines_of_white_space_of_any_kind_are_no_documents(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n \t\x1c\x1f\r\n' + '\u2003\xa0\n{"text": "ä"}\n'.encode() + b"\x0b\n")
    assert texts(path) == ["a", "ä"]


def test_a_line_too_long_for_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "LONGEST_LINE", 1 << 20)
    path = jsonl(tmp_path / "a.jsonl", [{"text": "x" * (1 << 20)}])
    with pytest.raises(FirehoseError, match="longer than 1 MiB") as caught:
        texts(path)
    assert caught.value.path == f"{path}:1"


def test_plain_text_is_packed_to_the_next_blank_line(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {number}." + " word" * 120 for number in range(20)]
    path = tmp_path / "a.txt"
    path.write_bytes(("\n\n\n" + "\r\n \r\n\r\n".join(paragraphs) + "\n").encode())
    found = texts(path)
    assert all(len(text) >= read.PACK for text in found[:-1])
    assert all(len(text) < read.PACK + len(paragraphs[0]) + 10 for text in found)
    assert all(text.startswith("Paragraph") and text.endswith("word") for text in found)
    assert [p for text in found for p in text.split("\n \n\n")] == paragraphs


def test_plain_text_without_blank_lines_is_cut_at_lines_then_words_then_anywhere(tmp_path: Path) -> None:
    limit = read.LONGEST_PARAGRAPH
    for name, unit in (("lines", "a line of words\n"), ("words", "word "), ("letters", "x")):
        path = tmp_path / f"{name}.txt"
        path.write_text(unit * (3 * limit // len(unit)))
        found = texts(path)
        assert len(found) > 2
        assert all(limit - 20 <= len(text) <= limit for text in found[:-1])
        assert all(text.endswith(unit.strip()) for text in found)
        joiner = {"lines": "\n", "words": " ", "letters": ""}[name]
        assert joiner.join(found) == path.read_text().strip()


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(
        st.sampled_from(["\n", "\n\n", "\n \n", " ", "word ", "é漢\r\n", "a" * 900, "b " * 700, "\r"]),
        max_size=60,
    ),
    block=st.integers(1, 50),
)
def test_plain_text_does_not_depend_on_how_it_is_read(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[str], block: int
) -> None:
    path = tmp_path_factory.mktemp("plain") / "a.txt"
    content = "".join(pieces)
    path.write_bytes(content.encode())
    whole = texts(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read, "_BLOCK", block)
        assert texts(path) == whole
    assert "".join("".join(whole).split()) == "".join(content.split())


def test_sizes_add_up_to_the_file(tmp_path: Path) -> None:
    plain = tmp_path / "a.txt"
    plain.write_text("word " * 60_000)
    lines = jsonl(tmp_path / "b.jsonl", [{"text": "abc"}] * 10)
    for path in (plain, lines):
        assert sum(document.size for document in documents("prose", [path])) == path.stat().st_size


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", "é\n".encode() * 40_000])
@pytest.mark.parametrize("bad", [b"\xff", b"\xe6\xbc", b"\xc3\xc3"])
def test_bad_utf8_in_plain_text_is_named_by_line_and_byte(tmp_path: Path, before: bytes, bad: bytes) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(before + b"good\nbad " + bad)
    at = len(before) + 9
    with pytest.raises(FirehoseError, match=rf"not valid UTF-8 at byte {at:,} of a\.txt") as caught:
        texts(path)
    line = before.count(b"\n") + 2
    assert (caught.value.exit_code, caught.value.path) == (Exit.DAMAGED, f"{path}:{line}")


def test_files_folders_and_globs(tmp_path: Path) -> None:
    for name in (
        "b.txt",
        "a.jsonl",
        "deep/c.jsonl",
        ".hidden/d.txt",
        "deep/.e.txt",
        "README.md",
        "deep/x.csv",
    ):
        path = tmp_path / "text" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("words")
    folder = tmp_path / "text"
    assert find_files("s", [folder]) == [folder / "a.jsonl", folder / "b.txt", folder / "deep/c.jsonl"]
    assert find_files("s", [folder / "README.md", folder / "*.txt"]) == [
        folder / "README.md",
        folder / "b.txt",
    ]
    assert find_files("s", [folder / "**/c.jsonl", folder, folder / "b.txt"]) == [
        folder / "deep/c.jsonl",
        folder / "a.jsonl",
        folder / "b.txt",
    ]


def test_missing_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, words in (
        (tmp_path / "gone.jsonl", "does not exist"),
        (tmp_path / "*.txt", "does not exist"),
        (tmp_path / "empty", "holds no .jsonl, .ndjson, .txt or .parquet file"),
    ):
        with pytest.raises(FirehoseError, match=words) as caught:
            find_files("prose", [path])
        assert (caught.value.exit_code, caught.value.arm, caught.value.path) == (
            Exit.NOT_FOUND,
            "prose",
            str(path),
        )


def test_files_that_cannot_be_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "a.csv").write_bytes(b"a,b")
    for name, words in (("empty.jsonl", "is empty"), ("a.csv", "neither JSONL, Parquet nor plain text")):
        with pytest.raises(FirehoseError, match=words) as caught:
            find_files("prose", [tmp_path / name])
        assert (caught.value.exit_code, caught.value.path) == (Exit.REFUSED, str(tmp_path / name))


def test_logs_of_agents_are_read(tmp_path: Path) -> None:
    """Parts of a turn, turns that only call a tool, and an empty `messages` beside a text."""
    ask = {
        "role": "user",
        "content": [{"type": "text", "text": "Is it"}, {"type": "image_url"}, {"text": "rain?"}],
    }
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}
    answer = {"role": "assistant", "content": "Yes."}
    rows = [{"messages": [ask, call, answer]}, {"text": "It rained.", "messages": []}, {"messages": []}]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = list(documents("log", [path]))
    assert [(one.text, one.turn) for one in found] == [
        ("> Is it\n\nrain?\n< Yes.", "Is it\n\nrain?"),
        ("It rained.", None),
        ("", ""),
    ]


def test_a_line_nested_too_deeply_is_named(tmp_path: Path) -> None:
    path = tmp_path / "deep.jsonl"
    path.write_text('{"text": "a"}\n{"more": ' + "[" * 100_000 + "]" * 100_000 + ', "text": "b"}\n')
    with pytest.raises(FirehoseError, match="nested too deeply") as caught:
        list(documents("deep", [path]))
    assert caught.value.path == f"{path}:2"
