"""The demo's text: what is harvested from this machine, in which bytes, and what is said when something is missing."""

import importlib
import importlib.resources
import json
import os
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from curriculum.errors import Exit, FirehoseError
from curriculum.text import harvest as module
from curriculum.text.harvest import comment_blocks, harvest, normalise, pack

LIMIT = 60_000


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A harvest of this machine's own Python: (folder, sources, messages)."""
    folder = tmp_path_factory.mktemp("here")
    messages = []
    return folder, harvest(folder, LIMIT, messages.append), messages


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with an almost empty Python: its stdlib folder is returned; licences and pydoc topics are absent."""
    stdlib = tmp_path / "lib"
    site = stdlib / "site-packages"
    site.mkdir(parents=True)
    paths = {"stdlib": str(stdlib), "purelib": str(site), "platlib": str(site)}
    monkeypatch.setattr(sysconfig, "get_paths", lambda: paths)
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path / "prefix"))
    monkeypatch.setattr(module, "_COMMON_LICENCES", str(tmp_path / "common-licenses"))
    monkeypatch.setattr(module, "SMALLEST_BYTES", 1)
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    return stdlib


def texts(path):
    return [json.loads(line)["text"] for line in Path(path).read_text(encoding="utf-8").splitlines()]


def sentence(word):
    """Some 110 characters that no other word makes."""
    return f"This sentence about {word} goes on for long enough to count as text, which takes eighty characters at least."


def test_this_machine_has_every_source_and_its_documents_are_sane(here):
    folder, sources, messages = here
    expected = {"stdlib-docstrings", "pydoc-topics", "comments", "licences", "chat"}
    try:
        importlib.import_module("pydoc_data.topics")
    except ImportError:
        expected.remove("pydoc-topics")
        assert any("pydoc-topics" in message for message in messages)
    assert set(sources) == expected
    assert {path.name for path in folder.iterdir()} == {f"{name}.jsonl" for name in expected}
    for name, source in sources.items():
        assert source.path == folder / f"{name}.jsonl"
        assert LIMIT // 2 < source.bytes == source.path.stat().st_size <= LIMIT
        documents = texts(source.path)
        assert len(documents) == len(set(documents)) == source.documents > 20
        for text in documents:
            assert text == normalise(text)
            assert name == "chat" or len(text) >= 80
            assert sum(character.isalpha() for character in text) > len(text) / 10


def test_two_harvests_have_the_same_bytes(here, tmp_path):
    _, sources, _ = here
    again = harvest(tmp_path, LIMIT, lambda message: None)
    assert again.keys() == sources.keys()
    for name, source in again.items():
        assert source.path.read_bytes() == sources[name].path.read_bytes()


def test_a_lower_limit_is_obeyed_and_keeps_the_first_documents(here, tmp_path):
    _, sources, _ = here
    for name, source in harvest(tmp_path, LIMIT // 2, lambda message: None).items():
        kept, whole = source.path.read_bytes(), sources[name].path.read_bytes()
        assert whole.startswith(kept)
        following = whole[len(kept) :].split(b"\n")[0] + b"\n"
        assert len(kept) <= LIMIT // 2 < len(kept) + len(following)


def test_a_missing_source_is_named_and_its_old_file_removed(machine, tmp_path):
    (machine / "a.py").write_text(f'"""{sentence("a")}"""\n# {sentence("comments")}\n')
    out = tmp_path / "out"
    out.mkdir()
    (out / "pydoc-topics.jsonl").write_text("from an earlier harvest")
    messages = []
    sources = harvest(out, report=messages.append)
    assert set(sources) == {"stdlib-docstrings", "comments", "chat"}
    assert [
        message
        for message in messages
        if "topics of pydoc" in message and "pydoc-topics is left out" in message
    ]
    assert "source licences is left out: only 0 bytes of text were found" in messages
    assert not (out / "pydoc-topics.jsonl").exists()


def test_a_source_that_is_too_small_is_left_out(machine, tmp_path, monkeypatch):
    (machine / "a.py").write_text(f'"""{sentence("a")}"""\n# {sentence("comments")}\n')
    monkeypatch.setattr(module, "SMALLEST_BYTES", 130)
    messages = []
    (machine / "b.py").write_text(f'"""{sentence("b")}"""\n')
    sources = harvest(tmp_path / "out", report=messages.append)
    assert set(sources) == {"stdlib-docstrings", "chat"}
    assert any(message.startswith("source comments is left out: only 1") for message in messages)


def test_docstrings_come_from_the_library_alone_in_file_order(machine, tmp_path):
    (machine / "b.py").write_text(
        f'"""{sentence("b")}"""\n'
        f'if 1:\n    class C:\n        """{sentence("C")}"""\n        async def f():\n'
        f'            """{sentence("f")}\n\n            body\n                indented\n            """\n'
        'def short():\n    """Too short."""\n'
        f'def again():\n    """{sentence("b")}"""\n'
        f'def last():\n    r"""{sentence("last")}\\d"""\n'
    )
    (machine / "a.py").write_text(f'"""{sentence("a")}\\d"""\n')  # an invalid escape: only a warning
    (machine / "bad.py").write_text("def (:\n")
    (machine / "nul.py").write_bytes(b"\0\n")
    for folder in ("tests", "site-packages"):
        (machine / folder).mkdir(exist_ok=True)
        (machine / folder / "x.py").write_text(f'"""{sentence(folder)}"""\n')
    (machine / "package").mkdir()
    (machine / "package" / "a.py").write_text(f'"""{sentence("package")}"""\n# {sentence("comments")}\n')
    messages = []
    sources = harvest(tmp_path / "out", report=messages.append)
    assert texts(sources["stdlib-docstrings"].path) == [
        sentence("a") + r"\d",
        sentence("b"),
        sentence("C"),
        sentence("f") + "\n\nbody\n    indented",
        sentence("last") + r"\d",
        sentence("package"),
    ]
    unread = [message for message in messages if message.startswith("source stdlib-docstrings")]
    assert len(unread) == 1
    assert "2 file(s) could not be read, the first: " + str(machine / "bad.py") in unread[0]


def test_a_long_chain_of_elif_is_walked(machine, tmp_path):
    chain = "if 0:\n    pass\n" + "elif 0:\n    pass\n" * 600
    (machine / "a.py").write_text(chain + f'def f():\n    """{sentence("f")}"""\n# {sentence("comments")}\n')
    sources = harvest(tmp_path / "out", report=lambda message: None)
    assert texts(sources["stdlib-docstrings"].path) == [sentence("f")]


def test_comment_blocks_leave_out_code_strings_directives_and_notices():
    source = b'''#!/usr/bin/env python
# -*- coding: utf-8 -*-
# Copyright (c) 2001 Somebody.
#
### First paragraph,
#   its second line.
# -----------------
# Second.
x = 1  # beside code
# Own line after code.
y = """
# in a string
"""
if x:
    # Inside a block.

    # After a gap.
    y = [
        # Inside brackets.
        1,
    ]
'''
    assert [block for block in comment_blocks(source) if block] == [
        "First paragraph,\n  its second line.\n\nSecond.",
        "Own line after code.",
        "Inside a block.",
        "After a gap.",
        "Inside brackets.",
    ]


def test_topics_are_split_at_headings(machine, tmp_path, monkeypatch):
    first, second = f"One\n***\n\n{sentence('one')}", f"Two\n===\n\n{sentence('two')}"
    fake = type(sys)("pydoc_data.topics")
    fake.topics = {"b": sentence("b"), "a": f"{first}\n\n\n{second}\n"}
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", fake)
    sources = harvest(tmp_path / "out", report=lambda message: None)
    assert texts(sources["pydoc-topics"].path) == [first, second, sentence("b")]


def test_licences_say_each_paragraph_once(machine, tmp_path):
    shared = sentence("permission")
    (machine / "LICENSE.txt").write_text(f"{sentence('Python')}\n\n{shared}\n")
    site = machine / "site-packages"
    for name, body in {"b": shared.replace(" ", "\n", 1), "a": f"{shared}\r\n\f\r\n{sentence('a')}"}.items():
        (site / f"{name}-1.0.dist-info" / "licenses").mkdir(parents=True)
        (site / f"{name}-1.0.dist-info" / "licenses" / "COPYING").write_text(body, newline="")
    (site / "a-1.0.dist-info" / "LICENSE").write_bytes(b"J\xf6rg " + sentence("latin").encode())
    (site / "a-1.0.dist-info" / "RECORD").write_text(sentence("records"))
    sources = harvest(tmp_path / "out", report=lambda message: None)
    assert texts(sources["licences"].path) == [f"{sentence('Python')}\n\n{shared}", sentence("a")]


def test_fewer_than_two_sources_is_an_error_that_leaves_the_folder_alone(machine, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "comments.jsonl").write_text("from an earlier harvest")
    messages = []
    with pytest.raises(FirehoseError, match="1 of 5 sources") as raised:
        harvest(out, report=messages.append)
    assert raised.value.exit_code is Exit.NOT_FOUND
    assert raised.value.changed == "nothing"
    assert len(messages) == 4
    assert any(str(machine) in message for message in messages)
    assert [path.name for path in out.iterdir()] == ["comments.jsonl"]


def test_a_full_disk_is_an_error_that_keeps_the_earlier_harvest(machine, tmp_path, monkeypatch):
    (machine / "a.py").write_text(f'"""{sentence("a")}"""\n# {sentence("comments")}\n')
    out = tmp_path / "out"
    before = {
        source.path: source.path.read_bytes() for source in harvest(out, report=lambda message: None).values()
    }
    write = module._write

    def fill(documents, path, *rest):
        if path.name.startswith("chat"):
            path.write_text("half a line")
            raise OSError(28, os.strerror(28), str(path))
        return write(documents, path, *rest)

    monkeypatch.setattr(module, "_write", fill)
    with pytest.raises(FirehoseError, match="No space left") as raised:
        harvest(out, report=lambda message: None)
    assert raised.value.exit_code is Exit.WRITE_FAILED
    assert raised.value.changed == "nothing"
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_normalise():
    assert normalise("e\u0301\r\nb\tc \x07\rd\x0ce\ud800\ufeff\n\n\n\nf\n\n") == "é\nb   c\nd\ne\n\nf"


def test_pack_keeps_every_paragraph_and_the_size():
    paragraphs = ["aaaa", "bbb", "c", "dddddddddddd", "ee"]
    assert list(pack(paragraphs, 9)) == ["aaaa\n\nbbb", "c", "dddddddddddd", "ee"]
    assert list(pack([], 9)) == []


def test_chat_turns_are_many_well_formed_and_varied():
    shipped = importlib.resources.files("curriculum.text").joinpath("chat_turns.jsonl")
    rows = [json.loads(line) for line in shipped.read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= 400
    assert all(row.keys() == {"text"} for row in rows)
    turns = [row["text"] for row in rows]
    assert len(set(turns)) == len(turns)
    openings = Counter()
    for turn in turns:
        assert turn == normalise(turn)
        lines = turn.split("\n")
        marks = "".join(line[0] for line in lines if line.startswith(("> ", "< ")))
        assert lines[0].startswith("> ")
        assert marks in ("><", "><><")
        assert 20 < len(turn) < 800
        openings.update(" ".join(line[2:].lower().split()[:3]) for line in lines if line.startswith("> "))
    assert sum(turn.count("\n> ") for turn in turns) >= 60
    assert max(openings.values()) <= 6
