"""The pipeline: copies found in order and in little memory, the same verdicts from any number of processes."""

import hashlib
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from curriculum.config import Clean
from curriculum.errors import Exit, FirehoseError
from curriculum.text import clean as cleaning
from curriculum.text.clean import ALL_RULES, KEPT, Cleaner, Judges, Tally, judges, kept
from curriculum.text.read import Document
from curriculum.text.seen import DIGEST, Near, Seen, digest, sketch

LIMITS = Clean()


def words(count: int, seed: int) -> str:
    draw = random.Random(seed)
    return " ".join(f"{draw.choice('abcdefgh')}{draw.randrange(500)}" for _ in range(count))


def mixed(count: int) -> list[str]:
    """Good documents, and of every kind that is dropped some."""
    odd = [
        "",
        "rain " * 50,
        "Это не по-английски.",
        "- a\n- b\n- c",
        "> # A\n## B\n### C",
        "x" * 3000,
        words(30, 1),
    ]
    return [odd[n // 2 % 7] if n % 2 else words(40, n) for n in range(count)]


def documents(texts: list[str]) -> Iterator[Document]:
    return (Document(text, len(text)) for text in texts)


def cleaned(
    texts: list[str], limits: Clean = LIMITS, by: Judges | None = None
) -> tuple[list[str], bytes, Tally]:
    cleaner = Cleaner(limits, by or Judges())
    stay, verdicts = [], b""
    for batch, found in cleaner.clean(documents(texts)):
        stay += [document.text for document in kept(batch, found)]
        verdicts += found
    return stay, verdicts, cleaner.tally


def test_every_document_is_counted_once_and_what_stays_is_as_it_was() -> None:
    texts = mixed(140)
    stay, verdicts, tally = cleaned(texts)
    assert stay == [text for text, verdict in zip(texts, verdicts, strict=True) if verdict == KEPT]
    assert {words(40, n) for n in range(0, 140, 2)} <= set(stay)
    assert (tally.documents_in, tally.documents_out) == (140, len(stay)) == (140, 71)
    assert tally.dropped == {
        "empty": 10,
        "oversize paragraph": 10,
        "script drift": 10,
        "repetition": 10,
        "list": 10,
        "prompt shape": 10,
        "duplicate": 9,
        "near-duplicate": 0,
    }
    assert list(tally.dropped) == list(ALL_RULES)
    assert tally.dropped_share == pytest.approx(69 / 140)


def test_the_first_of_copies_stays_whatever_its_white_space() -> None:
    stay, _, tally = cleaned(
        ["Rain fell\non us.", "Hail fell.", "Rain fell on us.", "Rain  fell on us.\n", "rain fell on us."]
    )
    assert stay == ["Rain fell\non us.", "Hail fell.", "rain fell on us."]
    assert tally.dropped["duplicate"] == 2


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = mixed(300)
    expected = cleaned(texts)
    monkeypatch.setattr(cleaning.in_batches, "__defaults__", (150,))
    assert cleaned(texts) == expected


def test_processes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = mixed(300)
    monkeypatch.setattr(cleaning.in_batches, "__defaults__", (500,))
    with judges(0, processes=2) as several:
        assert several._executor is not None
        assert cleaned(texts, by=several) == cleaned(texts)


def test_few_bytes_start_no_process() -> None:
    with judges(1000) as one:
        assert one._executor is None


def test_an_error_of_the_reader_comes_through_the_processes() -> None:
    def broken() -> Iterator[Document]:
        yield Document("rain", 4)
        raise FirehoseError(Exit.DAMAGED, "line 2")

    with judges(0, processes=2) as several, pytest.raises(FirehoseError, match="line 2"):
        list(Cleaner(LIMITS, several).clean(broken()))


def test_a_process_that_dies_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaning, "judge", die)
    with judges(0, processes=2) as several, pytest.raises(FirehoseError, match="cleaning process ended"):
        list(Cleaner(LIMITS, several).clean(documents(["rain"])))


def die(texts: object, limits: object) -> None:
    import os

    os._exit(9)


def test_seen_is_a_set() -> None:
    draw = random.Random(3)
    seen, known = Seen(), set()
    for _ in range(30_000):
        each = hashlib.blake2b(draw.randrange(20_000).to_bytes(4), digest_size=DIGEST).digest()
        assert seen.add(each) is (each not in known)
        known.add(each)
    assert len(seen) == len(known)


def test_seen_is_not_misled_by_bytes_across_two_digests() -> None:
    seen = Seen()
    first, second = bytes(range(16)), bytes(range(16, 32))
    assert seen.add(first) and seen.add(second)
    assert seen.add((first + second)[5:21]) and not seen.add(second) and not seen.add((first + second)[5:21])


def test_seen_holds_little_more_than_the_digests() -> None:
    seen, count = Seen(), 50_000
    for number in range(count):
        seen.add(digest(str(number)))
    held = sum(sys.getsizeof(bucket) for bucket in seen._buckets) + sys.getsizeof(seen._buckets)
    assert held < count * 24  # measured 19; a set of them holds 92


def test_near_duplicates() -> None:
    pytest.importorskip("rensa", reason="the extra `near` is not installed: pip install 'firehose[near]'")
    base = words(200, 1).split()
    near = " ".join([*base[:100], "other", *base[101:]])
    far = " ".join([*base[:100], *words(100, 2).split()])
    texts = [" ".join(base), near, far, words(200, 3), " ".join(base).upper()]
    stay, _, tally = cleaned(texts, Clean(near_duplicates=0.8))
    assert stay == [texts[0], far, texts[3]]
    assert (tally.dropped["near-duplicate"], tally.dropped["duplicate"]) == (2, 0)
    assert cleaned(texts)[2].dropped["near-duplicate"] == 0
    with judges(0, processes=2) as several:  # the MinHashes are made in the processes
        assert cleaned(texts, Clean(near_duplicates=0.8), by=several)[0] == stay
    assert Near(0.8).add(sketch("short")) is True


def test_near_duplicates_without_their_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rensa", None)
    with pytest.raises(FirehoseError, match="MinHash of rensa, which is not installed") as caught:
        cleaned(["rain"], Clean(near_duplicates=0.8))
    assert caught.value.exit_code is Exit.REFUSED
    assert caught.value.next is not None and "pip install 'firehose[near]'" in caught.value.next


def test_a_document_as_a_line_keeps_every_key_of_its_own(tmp_path: Path) -> None:
    assert json.loads(Document("ä\n", 1).as_line()) == {"text": "ä\n"}
    assert Document("a", 1, line=b'{"b":1,"text":"a"}').as_line() == b'{"b":1,"text":"a"}'
