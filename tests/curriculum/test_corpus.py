"""From a data folder to batches: the right tokens in the right order, and nothing read that the manifest disowns."""

import json
import resource
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from data_folders import random_documents, write_btok, write_folder
from numpy.typing import NDArray

from curriculum.errors import Exit, FirehoseError
from curriculum.tokens import manifest as manifests
from curriculum.tokens.corpus import Corpus
from curriculum.tokens.windows import window_index

BLOCK = 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sources = {
        "prose": (random_documents(30, seed=1), random_documents(9, seed=2)),
        "chat": (random_documents(20, seed=3), []),
    }
    write_folder(tmp_path, sources)
    return tmp_path


def edit_manifest(folder: Path, change: Any) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def batch(corpus: Corpus, name: str, arm_id: int, first_window: int, count: int) -> NDArray[np.int64]:
    """The windows that `count` cursors of an arm serve."""
    out = np.empty((count, corpus.block_size + 1), dtype=np.int64)
    corpus.fill(out, name, arm_id, first_window)
    return out


def stream(folder: Path, name: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The tokens of a source, read by hand."""
    raw = (folder / f"{name}.btok").read_bytes()
    return np.frombuffer(raw, "<u2", int.from_bytes(raw[16:24], "little"), 64).astype(np.int64)


def test_sources_are_as_the_manifest_says(folder: Path) -> None:
    corpus = Corpus.open(folder, BLOCK, seed=1)
    prose, chat = corpus.sources["prose"], corpus.sources["chat"]
    tokens = len(stream(folder, "prose"))
    assert (prose.documents_in, prose.documents, prose.tokens) == (39, 30, tokens)
    assert prose.windows == (tokens - 1) // BLOCK
    assert (prose.path, prose.heldout_path) == (folder / "prose.btok", folder / "prose.heldout.btok")
    assert (chat.heldout_path, chat.heldout_windows) == (None, 0)
    assert corpus.missing == {}
    assert (corpus.tokenizer, corpus.vocab_size) == (folder / "tokenizer.json", 300)


def test_a_batch_is_the_windows_of_its_cursors(folder: Path) -> None:
    corpus = Corpus.open(folder, BLOCK, seed=5)
    tokens = stream(folder, "prose")
    windows = corpus.sources["prose"].windows
    found = batch(corpus, "prose", 9, windows - 3, 7)  # crosses into the second epoch
    for row, cursor in enumerate(range(windows - 3, windows + 4)):
        start = window_index(cursor, windows, 5, 9) * BLOCK
        assert found[row].tolist() == tokens[start : start + BLOCK + 1].tolist()


def test_an_epoch_serves_every_token_but_the_first_as_a_target_once(folder: Path) -> None:
    corpus = Corpus.open(folder, BLOCK, seed=5)
    windows = corpus.sources["chat"].windows
    epoch = batch(corpus, "chat", arm_id=1, first_window=2 * windows, count=windows)
    served = sorted(map(tuple, epoch[:, 1:].tolist()))
    targets = stream(folder, "chat")[1 : 1 + windows * BLOCK].reshape(windows, BLOCK)
    assert served == sorted(map(tuple, targets.tolist()))


def test_held_out_windows_are_fixed_spread_and_only_as_many_as_there_are(folder: Path) -> None:
    corpus = Corpus.open(folder, BLOCK, seed=5)
    most = corpus.sources["prose"].heldout_windows
    tokens = stream(folder, "prose.heldout")
    every = corpus.heldout("prose", 1000)
    inputs = tokens[: most * BLOCK].reshape(most, BLOCK)
    assert every[:, :-1].tolist() == inputs[::2].tolist(), "every second window is reported"
    half = len(every)
    some = corpus.heldout("prose", 3)
    assert some.tolist() == every[[0, half // 3, 2 * half // 3]].tolist()
    assert corpus.heldout("chat", 3).shape == (0, BLOCK + 1)
    probed = corpus.probe("prose", 2, most)
    assert probed[:, :-1].tolist() == np.roll(np.tile(inputs[1::2], (3, 1)), -2, axis=0)[:most].tolist()
    assert {row[:-1].tobytes() for row in every}.isdisjoint(row[:-1].tobytes() for row in probed)
    with pytest.raises(FirehoseError, match="no held-out window to probe") as caught:
        corpus.probe("chat", 0, 1)
    assert (caught.value.exit_code, caught.value.arm) == (Exit.REFUSED, "chat")


def test_a_sound_folder_passes(folder: Path) -> None:
    corpus = Corpus.open(folder, BLOCK, seed=5)
    corpus.check("prose", expect_documents=39)
    corpus.check("chat")


def test_a_deleted_source_is_missing_and_the_others_work(folder: Path) -> None:
    (folder / "prose.btok").unlink()
    corpus = Corpus.open(folder, BLOCK, seed=5)
    assert list(corpus.sources) == ["chat"]
    assert corpus.missing == {"prose": f"{folder / 'prose.btok'} does not exist"}
    assert batch(corpus, "chat", 1, 0, 2).shape == (2, BLOCK + 1)
    for name, why in (("prose", r"prose\.btok does not exist"), ("wiki", r"not in manifest\.json")):
        for call in (corpus.check, lambda n: batch(corpus, n, 1, 0, 1), lambda n: corpus.heldout(n, 1)):
            with pytest.raises(FirehoseError, match=why) as caught:
                call(name)
            assert (caught.value.exit_code, caught.value.arm) == (Exit.NOT_FOUND, name)


def assert_damaged(folder: Path, name: str, file: str, words: str) -> None:
    with pytest.raises(FirehoseError, match=words) as caught:
        Corpus.open(folder, BLOCK, seed=5).check(name)
    error = caught.value
    assert (error.exit_code, error.arm, error.path) == (Exit.DAMAGED, name, str(folder / file))
    assert (error.changed, error.next) == ("nothing", "firehose data build CONFIG")


def test_one_changed_token_is_found(folder: Path) -> None:
    flip(folder / "prose.btok", 100)
    assert_damaged(folder, "prose", "prose.btok", "SHA-256 of prose.btok differs")


def test_one_changed_held_out_token_is_found(folder: Path) -> None:
    flip(folder / "prose.heldout.btok", 100)
    assert_damaged(folder, "prose", "prose.heldout.btok", "SHA-256 of prose.heldout.btok differs")


def test_a_truncated_file_is_found(folder: Path) -> None:
    path = folder / "prose.btok"
    path.write_bytes(path.read_bytes()[:-8])
    assert_damaged(folder, "prose", "prose.btok", "header describes")


def test_a_table_that_falls_is_named_before_the_hash(folder: Path) -> None:
    path = folder / "prose.btok"
    data = path.read_bytes()
    path.write_bytes(data[:-24] + data[-16:-8] + data[-24:-16] + data[-8:])
    assert_damaged(folder, "prose", "prose.btok", "does not rise after document 28")


def test_a_lost_held_out_file_is_found(folder: Path) -> None:
    (folder / "prose.heldout.btok").unlink()
    assert_damaged(folder, "prose", "prose.heldout.btok", "held-out file prose.heldout.btok is missing")


def test_another_sources_file_is_found_by_check_and_by_batch(folder: Path) -> None:
    shutil.copy(folder / "chat.btok", folder / "prose.btok")
    assert_damaged(folder, "prose", "prose.btok", "the manifest says")
    with pytest.raises(FirehoseError, match="the manifest says") as caught:
        batch(Corpus.open(folder, BLOCK, seed=5), "prose", 1, 0, 1)
    assert (caught.value.arm, caught.value.path) == ("prose", str(folder / "prose.btok"))


@pytest.mark.parametrize("field", ["bytes", "documents", "tokens", "sha256"])
def test_a_manifest_that_disagrees_is_found(folder: Path, field: str) -> None:
    def change(content: Any) -> None:
        entry = content["sources"]["prose"]["train"]
        entry[field] = "0" * 64 if field == "sha256" else entry[field] + 1

    edit_manifest(folder, change)
    assert_damaged(folder, "prose", "prose.btok", f"{'SHA-256' if field == 'sha256' else field}")


def test_tokens_of_another_tokenizer_are_found(folder: Path) -> None:
    write_btok(folder / "prose.btok", random_documents(30, seed=1), "ab" * 32)
    assert_damaged(folder, "prose", "prose.btok", "another tokenizer")


@pytest.mark.parametrize("file", ["tokenizer.json", "chat_template.json"])
def test_a_changed_or_lost_tokenizer_stops_the_opening(folder: Path, file: str) -> None:
    (folder / file).write_text("changed")
    with pytest.raises(FirehoseError, match=rf"{file} is not the file that was built") as caught:
        Corpus.open(folder, BLOCK, seed=5)
    assert caught.value.exit_code == Exit.DAMAGED
    (folder / file).unlink()
    with pytest.raises(FirehoseError, match=rf"{file} is missing"):
        Corpus.open(folder, BLOCK, seed=5)


@pytest.mark.parametrize(
    ("content", "exit_code", "words"),
    [
        (b"{", Exit.DAMAGED, "damaged"),
        (b"[]", Exit.DAMAGED, "damaged"),
        (b'{"format": "other", "version": 1}', Exit.DAMAGED, "its format is 'other'"),
        (b'{"format": "firehose-data", "version": 3}', Exit.NEWER_SCHEMA, "version 3"),
        (b'{"format": "firehose-data", "version": 1}', Exit.DAMAGED, "missing required field"),
        (b"\xff\xfe", Exit.DAMAGED, "damaged"),
        (None, Exit.NOT_FOUND, "holds no token files"),
    ],
)
def test_a_manifest_that_cannot_be_used(
    folder: Path, content: bytes | None, exit_code: Exit, words: str
) -> None:
    path = folder / "manifest.json"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(FirehoseError, match=words) as caught:
        Corpus.open(folder, BLOCK, seed=5)
    assert (caught.value.exit_code, caught.value.path) == (exit_code, str(path))


def test_a_manifest_cannot_point_outside_its_folder(folder: Path) -> None:
    edit_manifest(folder, lambda content: content["sources"]["prose"]["train"].update(file="../prose.btok"))
    with pytest.raises(FirehoseError, match=r"'\.\./prose\.btok' is not a file name"):
        Corpus.open(folder, BLOCK, seed=5)


def test_a_short_build_is_refused(folder: Path) -> None:
    with pytest.raises(FirehoseError, match="built from 39 documents; the config expects 560,000") as caught:
        Corpus.open(folder, BLOCK, seed=5).check("prose", expect_documents=560_000)
    assert (caught.value.exit_code, caught.value.arm) == (Exit.REFUSED, "prose")


def test_a_source_too_small_for_a_window_is_refused_by_name(folder: Path) -> None:
    corpus = Corpus.open(folder, 10_000, seed=5)
    for call in (corpus.check, lambda name: batch(corpus, name, 1, 0, 1)):
        with pytest.raises(FirehoseError, match=r"source chat has \d+ tokens .* window of 10,000") as caught:
            call("chat")
        assert (caught.value.exit_code, caught.value.arm) == (Exit.REFUSED, "chat")


def test_a_run_keeps_reading_the_file_it_checked(folder: Path) -> None:
    corpus = Corpus.open(folder, BLOCK, seed=5)
    corpus.check("prose")
    before = batch(corpus, "prose", 1, 0, 5)
    write_btok(folder / "prose.btok", random_documents(3, seed=8), "ab" * 32)
    assert batch(corpus, "prose", 1, 0, 5).tolist() == before.tolist()


def test_two_thousand_sources_are_read_with_few_descriptors(folder: Path) -> None:
    """Each is a file of its own in the folder, and all of them are open at once."""
    manifest = manifests.read(folder)
    kept = dict(manifest.sources)
    for number in range(2000):
        entry = kept["prose" if number % 3 else "chat"]
        files = {"train": f"{number}.btok"} | ({"heldout": f"{number}.heldout.btok"} if entry.heldout else {})
        for which, name in files.items():
            (folder / name).hardlink_to(folder / getattr(entry, which).file)
        changed = {
            which: msgspec.structs.replace(getattr(entry, which), file=name) for which, name in files.items()
        }
        kept[f"s{number}"] = msgspec.structs.replace(entry, **changed)
    manifests.write(folder, msgspec.structs.replace(manifest, sources=kept))
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(200, allowed[1]), allowed[1]))
    try:
        corpus = Corpus.open(folder, BLOCK, seed=5)
        expected = {name: batch(corpus, name, 9, 0, 4).tolist() for name in ("prose", "chat")}
        for number in range(2000):
            corpus.check(f"s{number}")
        assert sum(file.tokens.size for file in corpus._open.values()) > 2000 * corpus.info("chat").tokens
        for path in folder.glob("*.btok"):  # what is open stays what it was
            path.unlink()
        for number in range(2000):
            assert (
                batch(corpus, f"s{number}", 9, 0, 4).tolist() == expected["prose" if number % 3 else "chat"]
            )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, allowed)
