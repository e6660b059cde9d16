"""Audits: each finds its own kind of collapse in a small made language, leaves real text alone, and says what it saw."""

import itertools
import json
import random
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from curriculum import config as configs
from curriculum.errors import Exit, FirehoseError
from curriculum.gate import bigrams, copies, reference
from curriculum.gate.audits import Audits, TextAudits
from curriculum.gate.bigrams import LEVELS, Bigrams, Counter, hashes, quantise
from curriculum.gate.coherence import score, tokenize
from curriculum.gate.copies import SHINGLE, Copies
from curriculum.text.build import BuildPlan, SourceText, build
from curriculum.text.tokenizer import load
from curriculum.tokens import manifest as manifests
from curriculum.tokens.btok import Btok
from tests.fixtures import tiny
from tests.fixtures.language import WORDS, document, spoken


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token files and audits of two sources of the language, the second not trusted and partly Cyrillic."""
    root = tmp_path_factory.mktemp("audits")
    for name, count in (("talk", 500), ("other", 100)):
        lines = [json.dumps({"text": document(at + 10_000 * (name == "other"))}) for at in range(count)]
        lines += [json.dumps({"text": "здравствуй мир " * 20})] * (name == "other")
        (root / f"{name}.jsonl").write_text("\n".join(lines))
    sources = {name: SourceText((root / f"{name}.jsonl",)) for name in ("talk", "other")}
    build(BuildPlan(root / "data", sources, vocab_size=600, block_size=32, trusted=["talk"]))
    return root / "data"


@pytest.fixture(scope="module")
def audits(folder: Path) -> TextAudits:
    return TextAudits.open(folder)


@pytest.mark.parametrize("length", [20, 60, 300])
def test_word_salad_is_found_and_text_is_not(audits: TextAudits, length: int) -> None:
    draw = random.Random(length)
    salad = [audits.judge(" ".join(draw.choices(WORDS, k=length))) for _ in range(25)]
    assert [judged.found for judged in salad] == [("local_coherence",)] * 25
    assert all(
        score(" ".join(draw.choices(WORDS, k=length))).bigram > 30 for _ in range(5)
    )  # the score sees none
    text = [audits.judge(" ".join(spoken(draw, length))) for _ in range(25)]
    assert not any("local_coherence" in judged.found for judged in text)
    assert "do not follow" in salad[0].why["local_coherence"]


def test_unknown_words_are_salad_and_short_samples_are_not_judged(audits: TextAudits) -> None:
    assert "local_coherence" in audits.judge(" ".join(f"word{at}" for at in range(30))).found
    short = audits.judge(" ".join(random.Random(1).choices(WORDS, k=15)))
    assert short.local_coherence is None
    assert short.found == ()


def test_a_recited_document_is_found_with_its_source(audits: TextAudits, folder: Path) -> None:
    file = Btok.open(folder / "other.btok")
    judged = audits.judge(
        load(folder / "tokenizer.json").decode(file.tokens[: int(file.starts[1]) - 1].tolist())
    )
    assert judged.copied_from == "other"
    assert judged.longest_copy is not None and judged.longest_copy > 64
    assert judged.found == ("longest_copy",)
    assert "are those of other, in order" in judged.why["longest_copy"]
    fresh = audits.judge(document(99_999))
    assert (fresh.found, fresh.longest_copy) == ((), 0)


def test_one_word_in_every_third_place_is_found(audits: TextAudits) -> None:
    draw = random.Random(5)
    text = " ".join(WORDS[0] if draw.random() < 0.35 else word for word in spoken(draw, 120))
    judged = audits.judge(text)
    assert "top_token_share" in judged.found
    assert judged.top_token == WORDS[0]
    assert judged.top_token_share == pytest.approx(0.35, abs=0.1)


def test_another_script_is_found_also_one_that_other_sources_hold(audits: TextAudits) -> None:
    said = document(77_777).split()
    for count, found in ((0, False), (30, True), (80, True)):
        text = " ".join([f"слово{at}" if at < count else word for at, word in enumerate(said)])
        judged = audits.judge(text)
        assert ("script_share" in judged.found) is found
    assert judged.script_share == 1.0


@pytest.mark.parametrize("text", ["", " \n", "... !!", "1984 2001", "a", "\ud83d half"])
def test_there_is_no_text_that_cannot_be_judged(folder: Path, text: str) -> None:
    found = reference.load(folder, manifests.read(folder))
    assert found is not None
    judged = Audits(found).judge(text, [1, 2, 3])
    assert judged.found == ()


# The bigram model.


def by_hand(text: str, pair: tuple[str, str]) -> float:
    """Witten and Bell's estimate with one more context and follower, over add-a-half, from plain counts."""
    words = tokenize(text)
    pairs = list(itertools.pairwise(words))
    seen, followers = words.count(pair[0]), len({b for a, b in pairs if a == pair[0]})
    alone = (words.count(pair[1]) + 0.5) / (len(words) + 1)
    together = (pairs.count(pair) / alone + followers + 1) / (seen + 1 + followers + 1)
    return float(min(np.log(together), bigrams.MOST_RATIO))


@pytest.mark.parametrize(
    "pair", [("the", "cat"), ("cat", "the"), ("the", "new"), ("new", "the"), ("new", "one")]
)
def test_the_ratio_is_witten_and_bells(pair: tuple[str, str]) -> None:
    text = "The cat saw the cat and the dog, the dog saw a cat; and so the dog sat."
    counter = Counter()
    counter.add(text)
    model = Bigrams(counter.arrays(), counter.total)
    assert model.coherence(pair) == pytest.approx(by_hand(text, pair), abs=0.1)  # counts are 4 % apart
    assert model.share("the") == pytest.approx(5 / 18, rel=0.05)
    assert model.share("never") == 0.0


def test_counts_come_back_within_two_per_cent() -> None:
    counts = np.array([0, 1, 2, 3, 10, 1_000, 60_000])
    assert LEVELS[quantise(counts)] == pytest.approx(counts, rel=0.03)


def test_counting_in_parts_is_counting_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = Counter(), Counter()
    for at in range(50):
        whole.add(document(at))
    monkeypatch.setattr(bigrams, "PENDING", 100)
    monkeypatch.setattr(bigrams, "CACHED", 20)
    for at in range(50):
        parts.add(document(at))
    for name, array in whole.arrays().items():
        assert np.array_equal(array, parts.arrays()[name]), name


def test_a_model_of_no_text_finds_nothing() -> None:
    model = Bigrams(Counter().arrays(), 0)
    assert model.share("a") == 0.0
    assert model.ratios(hashes(["a", "b"])) == pytest.approx([np.log(0.5)])


# The copy index.


@pytest.mark.parametrize("chunk", [copies.CHUNK, 200])
def test_every_copy_of_the_stated_length_is_found_whole(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "CHUNK", chunk)
    random_tokens = np.random.default_rng(0)
    files = {name: random_tokens.integers(0, 500, 3_000).astype(np.uint16) for name in ("a", "b")}
    arrays, window = copies.build(files)
    index = Copies(arrays, window, files)
    assert index.sure == SHINGLE + 31 == 39
    assert arrays["places"].size < 2.6 * 6_000 / window
    for start in range(0, 3_000 - 39, 61):
        for name, tokens in files.items():
            before, after = random_tokens.integers(500, 900, 20), random_tokens.integers(500, 900, 30)
            found = index.longest([*before.tolist(), *tokens[start : start + 39].tolist(), *after.tolist()])
            assert (found.tokens, found.at, found.source, found.place) == (39, 20, name, start)
    assert index.longest(random_tokens.integers(500, 900, 100).tolist()) == copies.NO_COPY


def test_a_larger_text_gets_a_thinner_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "MOST", 100)
    tokens = np.random.default_rng(1).integers(0, 500, 6_000).astype(np.uint16)
    arrays, window = copies.build({"a": tokens})
    assert window == 128
    assert arrays["places"].size < 130
    found = Copies(arrays, window, {"a": tokens}).longest(
        tokens[1_000 : 1_000 + SHINGLE + window - 1].tolist()
    )
    assert found.tokens == SHINGLE + window - 1


# Scripts.


@pytest.mark.parametrize("stored", [["latin"], ["Latin"], ["cjk", "latin"]])
def test_names_of_scripts_that_an_earlier_version_stored_are_known(folder: Path, stored: list[str]) -> None:
    found = reference.load(folder, manifests.read(folder))
    assert found is not None
    earlier = Audits(replace(found, header={**found.header, "scripts": stored}))
    assert earlier.judge(document(77_777)).script_share == 0.0
    assert earlier.judge("слово " * 30).script_share == 1.0
    assert earlier.judge("漢字 " * 30).script_share == (0.0 if "cjk" in stored else 1.0)


def test_letters_of_formulas_are_of_every_script_and_make_none_a_runs_own(folder: Path) -> None:
    assert reference.own({"Latin": 60, "Common": 40, "Greek": 2}) == ["Latin"]
    assert reference.own({"Latin": 0}) == []
    assert TextAudits.open(folder).judge("𝛼 𝛽 𝑥 " * 20).script_share == 0.0


# The file.


def test_the_file_is_a_fraction_of_its_text_and_names_what_it_holds(folder: Path) -> None:
    found = reference.load(folder, manifests.read(folder))
    assert found is not None
    assert found.header["trusted"] == ["talk"]
    assert found.header["scripts"] == ["Latin"]
    assert [name for name, _ in found.header["files"]] == ["talk", "other"]
    assert found.coherence_works
    tokens = sum(Btok.open(folder / file).count for _, file in found.header["files"])
    assert found.copies._places.size < 3 * tokens / found.copies.window


def test_a_folder_of_an_earlier_version_has_no_audits(folder: Path) -> None:
    assert reference.load(folder, msgspec.structs.replace(manifests.read(folder), audits=None)) is None


@pytest.mark.parametrize("damage", ["cut", "magic", "header", "gone"])
def test_a_damaged_file_is_named(folder: Path, tmp_path: Path, damage: str) -> None:
    for file in folder.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / reference.NAME
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        if damage == "cut":
            del data[-1_000:]
        else:
            data[3 if damage == "magic" else 40] ^= 1
        path.write_bytes(data)
    with pytest.raises(FirehoseError, match=r"audits\.bin") as caught:
        TextAudits.open(tmp_path)
    assert (caught.value.exit_code, str(caught.value.path)) == (Exit.DAMAGED, str(path))


def test_trusted_are_the_goal_then_the_floored_then_all(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    for edits, expected in (
        ((), ["alpha", "beta"]),
        ((('goal_sources = ["alpha", "beta"]', 'reward = "progress"'),), ["beta"]),
        (
            (('goal_sources = ["alpha", "beta"]', 'reward = "progress"'), ("floor = 0.3", "")),
            ["alpha", "beta", "gamma"],
        ),
    ):
        assert reference.trusted(configs.load(tiny.write_config(tmp_path, *edits))) == expected


def test_too_little_text_switches_local_coherence_off(folder: Path) -> None:
    found = reference.load(folder, manifests.read(folder))
    assert found is not None
    header = {**found.header, "coherence": {"text": 300, "text_found": 0.1, "salad_found": 1.0}}
    weak = replace(found, header=header)
    salad = " ".join(random.Random(3).choices(WORDS, k=100))

    assert Audits(found).judge(salad).found == ("local_coherence",)
    judged = Audits(weak).judge(salad)
    assert judged.found == ()
    assert judged.local_coherence is not None
