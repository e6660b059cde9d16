"""The score of a sample: the documents' samples, each axis by hand, and the command that shows it."""

import json
import random
import re
import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from curriculum.gate.coherence import score, tokenize
from curriculum.gate.words import dictionary, is_english
from curriculum.gate_cli import app

# Quoted from the published account of the 120M runs: what the collapsed one said at these steps, ...
COLLAPSED = {
    80_000: "region region region region region region region",
    110_000: "''''' ''''' '' ''' '' ''' '''?' ''' ' '' '' '",
    140_000: "games, games, games, games, games, games",
    165_000: "Budy Budy Budy Budy Budy Budy Budy Budy Budy",
}
# ... and the polished one.
COHERENT = {
    "biology": "black spider montano is alive, carolina parakeet is extinct.",
    "signal processing": "The Fourier transform decomposes signals into frequency components, allowing analysis of "
    "signal characteristics & filtering in the frequency domain.",
    "haiku": "Rain's rhythmic refrain, Rivulets on the window, Respite from life's pain.",
    "python": "Use pip list --outdated names to see the pip packages list in your project management...",
}


@pytest.mark.parametrize("text", COLLAPSED.values(), ids=map(str, COLLAPSED))
def test_collapsed_samples_are_low(text: str) -> None:
    assert score(text).total < 30


@pytest.mark.parametrize("text", COHERENT.values(), ids=COHERENT)
def test_coherent_samples_are_high(text: str) -> None:
    assert score(text).total > 70
    assert score(f"< {text}").total > 70


def test_repetition_by_hand() -> None:
    got = score(COLLAPSED[80_000])
    assert (got.bigram, got.trigram, got.english) == (0.0, 0.0, 20.0)
    assert got.characters == 10 * 6 / 20  # r e g i o n
    assert got.total == 23.0


def test_axes_by_hand() -> None:
    got = score("a b a b a b a b a c")
    # 9 bigrams, of which ab ba ac are distinct; 8 trigrams, of which aba bab bac; "a" alone is a word; a b c.
    assert got.bigram == 35 * 2 / 8
    assert got.trigram == 35 * 2 / 7
    assert got.english == 20 * 5 / 10
    assert got.characters == 10 * 3 / 20
    assert got.total == pytest.approx(got.bigram + got.trigram + got.english + got.characters)
    assert (got.tokens, got.short) == (10, False)


def test_nothing_repeated_is_the_whole_of_an_axis() -> None:
    got = score("The quick brown fox jumps over a lazy dog near that old stone bridge.")
    assert (got.bigram, got.trigram, got.english, got.characters) == (35.0, 35.0, 20.0, 10.0)
    assert got.total == 100.0


@pytest.mark.parametrize("text", ["", " \n\t "])
def test_empty_text_scores_0(text: str) -> None:
    got = score(text)
    assert (got.total, got.tokens, got.short) == (0.0, 0, True)


def test_fewer_than_two_grams_score_0() -> None:
    assert score("river").bigram == 0.0
    assert (score("two words").bigram, score("two words").trigram) == (0.0, 0.0)
    assert (score("only three words").bigram, score("only three words").trigram) == (35.0, 0.0)
    assert score("now there are four").trigram == 35.0


def test_short_is_under_eight_tokens() -> None:
    assert score("one two three four five six seven").short
    assert not score("one two three four five six seven eight").short


def test_tokens() -> None:
    assert tokenize('He said: "Don\'t!" -- _twice_, (in 1984).') == [
        "he",
        "said",
        "don't",
        "",
        "twice",
        "in",
        "1984",
    ]
    assert tokenize("Ünïted СЛОВО, 「漢字」") == ["ünïted", "слово", "漢字"]


def test_tokens_are_what_is_left_without_the_punctuation_at_both_ends() -> None:
    draw = random.Random(5)
    for pool in (
        "ab_-",
        "aé_ßİ1٣²½ⅷ中ǅ-’'\" \u2028\x1c",
        "".join(map(chr, draw.choices(range(0x110000), k=5_000))),
    ):
        for _ in range(1_000):
            text = "".join(draw.choices(pool, k=draw.randint(0, 20)))
            plain = [re.sub(r"^[\W_]+|[\W_]+$", "", token) for token in text.lower().split()]
            assert tokenize(text) == plain, text


@pytest.mark.parametrize("mark", ["-", "_", "a-", "- "])
def test_a_long_run_of_one_mark_takes_no_time(mark: str) -> None:
    """A model gone wrong writes these; the square of this length would be hours of computing."""

    def too_long(*_: object) -> None:
        raise AssertionError("20 seconds of computing")

    handler = signal.signal(signal.SIGVTALRM, too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, 20)
    try:
        got = score(f"a{mark * (200_000 // len(mark))}b")
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, handler)
    assert got.total < 30 or got.short


def test_punctuation_is_one_symbol_and_no_word() -> None:
    got = score("' ''' !? -- ○ ● ... '' ;; //")
    assert (got.bigram, got.trigram, got.english) == (0.0, 0.0, 0.0)
    got = score("the year 1984 and the year 2001 --")
    assert got.english == 20.0  # numbers and punctuation are no words, and not held against the rest


def test_case_and_white_space() -> None:
    assert score("Region REGION region\n\nregion\tregion").bigram == 0.0
    assert score("a\u00a0a\u3000a").characters == 0.5  # one character; Unicode spaces are spaces


def test_another_language_keeps_only_the_english_axis_down() -> None:
    got = score("Собака лежит на крыльце и смотрит на дорогу, по которой утром ушёл хозяин")
    assert got.english == 0.0
    assert got.bigram > 30


def test_gibberish_is_not_english() -> None:
    draw = random.Random(7)
    words = ["".join(draw.choices("etaoinshrdlucmfwypvbgkqjxz", k=draw.randint(3, 9))) for _ in range(400)]
    assert score(" ".join(words)).english < 20 * 0.05


@pytest.mark.parametrize(
    "line",
    [
        "walk walked walking walks games stopped running bigger jogging tapped flies tried makes making churches nicest",
        "don't isn't can't it's i'm we'll they’ve boys' self-made and/or a i",
    ],
)
def test_english_words_and_their_regular_forms(line: str) -> None:
    assert [word for word in line.split() if not is_english(word)] == []


def test_what_is_not_english() -> None:
    line = "budy b z xs qing zzed tne n't x's слово 漢字 don'q self-budy budy's s 1984"
    assert [word for word in line.split() if is_english(word)] == []


def test_the_dictionary_is_read_once() -> None:
    assert dictionary() is dictionary()
    assert len(dictionary()) > 100_000


def run(args: list[str], text: str | bytes = "") -> tuple[int, str, str]:
    result = CliRunner().invoke(app, args, input=text)
    return result.exit_code, result.stdout, result.stderr


def test_command_scores_a_text(tmp_path: Path) -> None:
    path = tmp_path / "sample.txt"
    path.write_text(COLLAPSED[80_000], encoding="utf-8")
    code, out, _ = run(["score", str(path), "--json"])
    assert code == 0
    assert json.loads(out) == {
        "schema": "gate-score/1",
        "score": 23.0,
        "axes": {"bigram": 0.0, "trigram": 0.0, "english": 20.0, "characters": 3.0},
        "short": True,
    }
    code, out, _ = run(["score", "-"], COLLAPSED[80_000])
    assert code == 0
    assert "23.0" in out
    assert "short" in out


TWO = [{"step": 100, "text": COLLAPSED[80_000]}, {"step": 200, "text": COHERENT["haiku"]}]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(TWO),
        "[\n" + ",\n".join(map(json.dumps, TWO)) + ",\n",  # a log that is being written
        "\n".join(map(json.dumps, TWO)) + "\n\n",
        json.dumps([row["text"] for row in TWO]),
    ],
    ids=["array", "torn log", "jsonl", "strings"],
)
def test_command_scores_many(text: str) -> None:
    code, out, _ = run(["score", "-", "--json"], text)
    body = json.loads(out)
    assert code == 0
    assert [sample["score"] for sample in body["samples"]] == [23.0, 100.0]


@pytest.mark.parametrize("text", ["[music] plays on", "{not json} at all", "{}x\n"])
def test_text_that_only_begins_like_json_is_text(text: str) -> None:
    code, out, _ = run(["score", "-", "--json"], text)
    assert code == 0
    assert "samples" not in json.loads(out)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (b"\xff\xfe", "-"),
        ('{"text": "a"}\nnot json', "-:2"),
        ('{"text": "a"}\n{"txt": "b"}', "-:2"),
        ('["a", 3]', "-, element 2"),
    ],
)
def test_command_names_what_it_cannot_read(text: str | bytes, where: str) -> None:
    code, out, _ = run(["score", "-", "--json"], text)
    assert (code, json.loads(out)["error"]["path"]) == (2, where)


ROWS = list(map(json.dumps, TWO))


@pytest.mark.parametrize(
    ("text", "torn"),
    [
        ("\ufeff" + "\n".join(ROWS), None),
        ("\n".join(json.dumps(row | {"note": "a\u2028b"}, ensure_ascii=False) for row in TWO), None),
        ("\n".join(json.dumps(row, indent=2) for row in TWO), None),
        ("\n".join(ROWS) + '\n{"step": 300, "te', ":3"),
        ("[\n" + ",\n".join(ROWS) + ',\n{"step": 300, "text": "a', ":4"),
        (("\n".join(ROWS) + '\n{"step": 300, "text": "é').encode()[:-1], ":3"),
    ],
    ids=[
        "byte order mark",
        "line separator in a text",
        "indented",
        "torn lines",
        "torn array",
        "torn letter",
    ],
)
def test_a_log_is_no_prose(text: str | bytes, torn: str | None) -> None:
    code, out, err = run(["score", "-", "--json"], text)
    assert code == 0
    assert [sample["score"] for sample in json.loads(out)["samples"]] == [23.0, 100.0]
    assert (f"-{torn}: torn; the 2 rows" in err) if torn else err == ""


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"step": 100, "text": "It rai', "-:1"),  # nothing before the tear
        ("[" + ROWS[0][:-9], "-:1"),
        ("\n".join((ROWS[0], ROWS[0][:-9], ROWS[1])), "-:2"),
        ("[\n" + ",\n".join((ROWS[0], ROWS[1][:-9], ROWS[1])) + "\n]", "-:3"),
        ("[" + ROWS[0] + "] and more", "-:1"),
        ('["one text", "anoth', "-"),
        (ROWS[0] + '\n{"text": ' + "[" * 100_000, "-:2"),
        (ROWS[0] + '\n{"step": 2, "text": "a", "n": ' + "1" * 5_000 + "}\n" + ROWS[1], "-:2"),
    ],
)
def test_a_log_that_is_damaged_before_its_end_is_refused(text: str, where: str) -> None:
    code, out, _ = run(["score", "-", "--json"], text)
    error = json.loads(out)["error"]
    assert (code, error["path"]) == (2, where)
    assert error["next"]


def test_command_needs_a_file(tmp_path: Path) -> None:
    code, _, err = run(["score", str(tmp_path / "absent")])
    assert code == 2
    assert "absent" in err
