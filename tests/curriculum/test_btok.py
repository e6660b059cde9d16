"""The .btok file: bytes as documented, damage of every kind named, whole files or none."""

import hashlib
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_folders import VOCAB, files_in, no_file_over, random_documents, write_btok
from hypothesis import given, settings
from hypothesis import strategies as st

from curriculum.errors import Exit, FirehoseError
from curriculum.tokens import btok
from curriculum.tokens.btok import Btok, BtokWriter

SHA = hashlib.sha256(b"a tokenizer").hexdigest()


@settings(max_examples=40, deadline=None)
@given(
    vocab_size=st.sampled_from([256, 65_536, 65_537, 200_000]),
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=20),
    seed=st.integers(0, 1000),
)
def test_documents_come_back(
    tmp_path_factory: pytest.TempPathFactory, vocab_size: int, lengths: list[int], seed: int
) -> None:
    path = tmp_path_factory.mktemp("btok") / "a.btok"
    random = np.random.default_rng(seed)
    documents = [random.integers(0, vocab_size, length) for length in lengths]
    documents[0][0] = vocab_size - 1
    with BtokWriter(path, vocab_size, SHA) as writer:
        for document in documents[:3]:
            writer.add(document)
        if documents[3:]:
            writer.extend(np.concatenate(documents[3:]), lengths[3:])
    file = Btok.open(path, tokenizer_sha256=SHA)
    assert (file.documents, file.count, file.vocab_size) == (len(lengths), sum(lengths), vocab_size)
    assert file.tokens.itemsize == (2 if vocab_size <= 65_536 else 4)
    for number, document in enumerate(documents):
        assert file.tokens[file.starts[number] : file.starts[number + 1]].tolist() == document.tolist()
    file.check_table()


def test_bytes_are_as_documented(tmp_path: Path) -> None:
    """docs/formats.md, field by field."""
    path = tmp_path / "a.btok"
    write_btok(path, [[1, 2, 299], [4, 5]], SHA)
    header = struct.pack("<4sHHIIQQ", b"BTOK", 1, 2, VOCAB, 0, 5, 2)
    header += bytes.fromhex(SHA)[:16] + struct.pack("<QI", 80, 0)
    header += struct.pack("<I", zlib.crc32(header))
    tokens = struct.pack("<5H", 1, 2, 299, 4, 5) + bytes(6)
    assert path.read_bytes() == header + tokens + struct.pack("<3Q", 0, 3, 5)
    assert len(header) == 64


def with_crc(header: bytes) -> bytes:
    return header[:60] + struct.pack("<I", zlib.crc32(header[:60]))


def patch(at: int, layout: str, value: int) -> Callable[[bytes], bytes]:
    """A change of one field, the header's checksum made right again."""

    def change(data: bytes) -> bytes:
        raw = bytearray(data)
        struct.pack_into(layout, raw, at, value)
        return with_crc(bytes(raw[:64])) + bytes(raw[64:])

    return change


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "0 bytes, fewer than a header"),
    "header cut": (lambda data: data[:63], "63 bytes, fewer than a header"),
    "wrong magic": (lambda data: b"JUNK" + data[4:], "not a .btok file"),
    "never finished": (lambda data: bytes(64) + data[64:], "not a .btok file"),
    "table cut": (lambda data: data[:-1], "header describes"),
    "tokens cut": (lambda data: data[:80], "header describes"),
    "bytes behind": (lambda data: data + b"x", "header describes"),
    "header flipped": (lambda data: data[:20] + bytes([data[20] ^ 4]) + data[21:], "checksum is wrong"),
    "width": (patch(6, "<H", 4), "tokens have 4 bytes"),
    "table elsewhere": (patch(48, "<Q", 1 << 60), "puts the document table at"),
    "huge counts": (patch(24, "<Q", 1 << 60), "header describes"),
    "table past the end": (lambda data: data[:-8] + struct.pack("<Q", 1 << 40), "past the end of its"),
    "table short of the end": (lambda data: data[:-8] + struct.pack("<Q", 7), "short of its"),
    "table starts late": (lambda data: data[:-8 * 21] + struct.pack("<Q", 1) + data[-8 * 20 :], "starts at token 1"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "prose.btok"
    write_btok(path, random_documents(20), SHA)
    change, words = DAMAGE[kind]
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(FirehoseError, match=words) as caught:
        Btok.open(path, source="prose", tokenizer_sha256=SHA)
    error = caught.value
    assert (error.exit_code, error.path, error.arm) == (Exit.DAMAGED, str(path), "prose")
    assert (error.changed, error.next) == ("nothing", "firehose data build CONFIG")


def test_every_flipped_header_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.btok"
    write_btok(path, random_documents(5), SHA)
    good = path.read_bytes()
    for bit in range(64 * 8):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises(FirehoseError) as caught:
            Btok.open(path)
        assert caught.value.exit_code == Exit.DAMAGED


def test_a_table_that_falls_is_found_by_the_full_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.btok"
    write_btok(path, [[1, 2]] * 20, SHA)
    data = path.read_bytes()
    path.write_bytes(data[: -8 * 5] + struct.pack("<Q", 30) + data[-8 * 4 :])
    monkeypatch.setattr(btok, "_TABLE_PIECE", 16)  # the fall is between two pieces
    file = Btok.open(path)
    with pytest.raises(FirehoseError, match="does not rise after document 15"):
        file.check_table()


def test_another_tokenizer_a_newer_version_and_no_file_have_their_own_words(tmp_path: Path) -> None:
    path = tmp_path / "a.btok"
    write_btok(path, random_documents(5), SHA)
    with pytest.raises(FirehoseError, match="another tokenizer") as caught:
        Btok.open(path, tokenizer_sha256=hashlib.sha256(b"b").hexdigest())
    assert caught.value.exit_code == Exit.DAMAGED
    path.write_bytes(patch(4, "<H", 2)(path.read_bytes()))
    with pytest.raises(FirehoseError, match="version 2") as caught:
        Btok.open(path)
    assert caught.value.exit_code == Exit.NEWER_SCHEMA
    with pytest.raises(FirehoseError, match="does not exist") as caught:
        Btok.open(tmp_path / "b.btok", source="b")
    assert (caught.value.exit_code, caught.value.arm) == (Exit.NOT_FOUND, "b")


def test_a_failed_write_leaves_the_file_before_it(tmp_path: Path) -> None:
    path = tmp_path / "a.btok"
    write_btok(path, [[1, 2]], SHA)
    before = files_in(tmp_path)
    with pytest.raises(RuntimeError), BtokWriter(path, VOCAB, SHA) as writer:
        writer.add([3, 4, 5])
        raise RuntimeError
    assert files_in(tmp_path) == before


def test_a_full_disk_is_named_and_leaves_the_file_before_it(tmp_path: Path) -> None:
    path = tmp_path / "a.btok"
    write_btok(path, [[1, 2]], SHA)
    before = files_in(tmp_path)
    for piece in (1_000, 2_000_000):  # met when the file is finished, and while it is written
        with (
            no_file_over(1_500),
            pytest.raises(FirehoseError, match=r"cannot write a\.btok: File too large") as caught,
            BtokWriter(path, VOCAB, SHA) as writer,
        ):
            writer.extend(np.ones(piece, dtype=np.int64), [piece])
        assert (caught.value.exit_code, caught.value.changed) == (Exit.WRITE_FAILED, "nothing")
        assert files_in(tmp_path) == before


@pytest.mark.parametrize(
    ("tokens", "lengths"),
    [([1, VOCAB], [2]), ([1, -1], [2]), ([1, 2], [1]), ([1, 2], [2, 0]), ([1], [-1, 2])],
)
def test_what_is_not_documents_is_refused(tmp_path: Path, tokens: list[int], lengths: list[int]) -> None:
    with (
        pytest.raises(ValueError, match=r"vocabulary|document lengths"),
        BtokWriter(tmp_path / "a.btok", VOCAB, SHA) as writer,
    ):
        writer.extend(tokens, lengths)
    assert files_in(tmp_path) == {}


def test_a_large_file_is_mapped_not_read(tmp_path: Path) -> None:
    """A sparse file of 16 GiB opens, and its last tokens are read, within a few MiB of anonymous memory."""
    path = tmp_path / "a.btok"
    tokens = 1 << 33
    with path.open("wb") as file:
        file.write(btok.pack_header(VOCAB, tokens, 1, SHA))
        file.seek(64 + 2 * tokens)
        file.write(struct.pack("<QQ", 0, tokens))
    before = anonymous_mib()
    opened = Btok.open(path)
    opened.check_table()
    assert opened.tokens[-1025:].sum() == 0
    assert anonymous_mib() - before < 16


def anonymous_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")) / 1024
