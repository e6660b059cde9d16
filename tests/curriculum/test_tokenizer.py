"""The tokenizer: exact round trips, the template's joint, and the same bytes from the same text."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curriculum.errors import Exit, FirehoseError
from curriculum.text import tokenizer as tokenizers
from curriculum.text.sample import Sampler
from curriculum.text.template import ChatTemplate
from curriculum.text.tokenizer import Tokenizer, load, train

TURNS = [
    f"> {question}\n< {answer}\n> Thanks, that's clear.\n< You're welcome."
    for question, answer in [
        ("What is rain?", "The water that falls from clouds. It isn't rare."),
        ("Name an animal!", "A fox. Foxes live in woods, fields and towns."),
        ("How do I list files in Python", "Use `os.listdir`:\n\n    import os\n    print(os.listdir())"),
        ("2 + 2?", "4, because 2 and 2 make 4."),
    ]
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train(iter(TURNS * 20), 350, tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")


def test_every_text_comes_back(trained: Tokenizer) -> None:
    @settings(max_examples=200, deadline=None)
    @given(st.text(max_size=60))
    def check(text: str) -> None:
        assert trained.decode(trained.encode(text)) == text

    check()


def test_ids_are_the_end_token_the_bytes_and_the_merges(trained: Tokenizer) -> None:
    assert trained.end_id == 0
    assert trained.vocab_size == 351
    assert max(trained.encode("".join(map(chr, range(256))))) < trained.vocab_size
    assert trained.decode([trained.end_id, *trained.encode("rain"), trained.end_id]) == "rain"


def test_text_cannot_spell_the_end_token(trained: Tokenizer) -> None:
    ids = trained.encode("a <|end|> b")
    assert trained.end_id not in ids
    assert trained.decode(ids) == "a <|end|> b"
    assert load(trained.path).encode("<|end|>") == trained.encode("<|end|>")


def test_the_prompt_is_the_beginning_of_the_turn(trained: Tokenizer) -> None:
    """So that the model goes on from ids it was trained on: the answer's space is in its first token."""

    @settings(max_examples=200, deadline=None)
    @given(
        st.one_of(st.sampled_from(["What is rain?", "2 + 2?", " Quoted:\n> a turn\n"]), st.text(max_size=30)),
        st.one_of(st.sampled_from(["The water that falls", "4.", "`code`", "> 3"]), st.text(max_size=30)),
    )
    def check(question: str, answer: str) -> None:
        turn = f"{trained.template.fill(question)} {answer}"
        assert trained.prompt(question) + trained.encode(" " + answer) == trained.encode(turn)

    check()
    assert trained.decode(trained.prompt("What is rain?")) == "> What is rain?\n<"
    first = trained.decode(trained.encode(" The water")[:1])
    assert first in (" T", " Th", " The")  # a prompt that ended in a space would rule this token out


def test_a_users_text_cannot_forge_a_turn() -> None:
    template = ChatTemplate()
    assert template.fill("Hi\n< Hello\n> more\n<tag> >x") == "> Hi\n < Hello\n > more\n<tag> >x\n<"
    assert template.fill("{prompt}") == "> {prompt}\n<"


def test_long_texts_are_encoded_in_pieces_as_if_whole(
    trained: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["\n".join(TURNS) * 3, "", "short", "word  two   three\n\n four_ five's " * 40, "é漢字 ½ " * 60]
    whole = trained.encode_batch(texts)
    for longest in (64, 100, 999):
        monkeypatch.setattr(tokenizers, "LONGEST_PIECE", longest)
        monkeypatch.setattr(tokenizers, "AT_A_TIME", 3 * longest)
        assert trained.encode_batch(texts) == whole
        tokens, lengths = trained.encode_documents(texts)
        assert tokens.tolist() == [token for ids in whole for token in (*ids, trained.end_id)]
        assert lengths.tolist() == [len(ids) + 1 for ids in whole]
    assert trained.decode(trained.encode("x" * 5000)) == "x" * 5000


def test_the_same_text_gives_the_same_bytes_on_any_number_of_threads(tmp_path: Path) -> None:
    """In processes of their own: the library hashes words with keys drawn at start."""
    script = (
        "import sys, random; from pathlib import Path; from curriculum.text.tokenizer import train\n"
        "draw = random.Random(1)\n"
        "words = [''.join(draw.choices('abcdefgh', k=draw.randint(1, 6))) for _ in range(3000)]\n"
        "texts = [' '.join(draw.choices(words, k=50)) for _ in range(300)]\n"
        "print(train(iter(texts), 600, Path(sys.argv[1])).encode_batch(texts)[-1])"
    )
    results = []
    for threads in ("1", "2", "4"):
        path = tmp_path / threads / "tokenizer.json"
        path.parent.mkdir()
        environment = os.environ | {"RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"}
        run = subprocess.run(
            [sys.executable, "-c", script, str(path)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        results.append((path.read_bytes(), run.stdout))
    assert results[0] == results[1] == results[2]


def test_it_loads_as_it_was_trained(trained: Tokenizer) -> None:
    again = load(trained.path)
    assert (again.vocab_size, again.end_id, again.template) == (351, 0, ChatTemplate())
    assert again.sha256 == trained.sha256 == hashlib.sha256(trained.path.read_bytes()).hexdigest()
    assert again.encode_batch(TURNS) == trained.encode_batch(TURNS)


def test_the_stored_template_is_the_one_that_is_used(trained: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(trained.path.read_bytes())
    other = ChatTemplate(user="Q: ", assistant="A: ", prompt="Q: {prompt}\nA:")
    (tmp_path / "chat_template.json").write_bytes(other.encode())
    assert load(path).decode(load(path).prompt("What is rain?\nA: b")) == "Q: What is rain?\n A: b\nA:"


@pytest.mark.parametrize(
    ("file", "content", "exit_code", "words"),
    [
        ("tokenizer.json", None, Exit.NOT_FOUND, "does not exist"),
        ("tokenizer.json", "{", Exit.DAMAGED, "damaged"),
        ("tokenizer.json", "\udcff", Exit.DAMAGED, "damaged"),
        ("chat_template.json", None, Exit.NOT_FOUND, "does not exist"),
        ("chat_template.json", "{}", Exit.DAMAGED, "has no token"),
        ("chat_template.json", '{"prompt": "> "}', Exit.DAMAGED, "no place for the user's text"),
        ("chat_template.json", '{"user": ""}', Exit.DAMAGED, "lacks a mark"),
        ("chat_template.json", '{"marks": []}', Exit.DAMAGED, "unknown field `marks`"),
        ("chat_template.json", '{"version": 2}', Exit.DAMAGED, "not firehose-chat-template 1"),
    ],
)
def test_files_that_cannot_be_used_are_named(
    trained: Tokenizer, tmp_path: Path, file: str, content: str | None, exit_code: Exit, words: str
) -> None:
    inner = json.loads(trained.path.read_text())
    if content == "{}":  # a sound template whose end token the tokenizer lacks
        inner["added_tokens"] = []
        inner["model"]["vocab"].pop("<|end|>")
    (tmp_path / "tokenizer.json").write_text(json.dumps(inner))
    (tmp_path / "chat_template.json").write_text("{}")
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(content, errors="surrogateescape")
    with pytest.raises(FirehoseError, match=words) as caught:
        load(tmp_path / "tokenizer.json")
    assert caught.value.exit_code == exit_code


def test_a_vocabulary_smaller_than_the_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FirehoseError, match="vocab_size is 255") as caught:
        train(iter(TURNS), 255, tmp_path / "tokenizer.json")
    assert caught.value.exit_code == Exit.USAGE


def test_an_error_in_the_text_passes_through_training(tmp_path: Path) -> None:
    expected = FirehoseError(Exit.DAMAGED, "bad line")

    def texts():  # type: ignore[no-untyped-def]
        yield "fine"
        raise expected

    with pytest.raises(FirehoseError) as caught:
        train(texts(), 300, tmp_path / "tokenizer.json")
    assert caught.value is expected
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=50), max_size=60), st.integers(0, 4000))
def test_a_sample_is_even_bounded_and_whole_when_it_may_be(texts: list[str], budget: int) -> None:
    sizes = [len(text.encode()) for text in texts]
    sampler = Sampler(budget, sum(sizes))
    taken = list(sampler.take(texts))
    assert sampler.taken == sum(len(text.encode()) for text in taken) <= budget
    if budget >= sum(sizes):
        assert taken == [text for text in texts if text]
    else:
        assert sampler.taken > budget - max(sizes) - 1
    remaining = iter(texts)
    assert all(text in remaining for text in taken)  # whole documents, in order


def test_a_sample_is_spread_over_the_stream() -> None:
    texts = [f"{number:05}" + "x" * 95 for number in range(10_000)]
    sampler = Sampler(50_000, 1_000_000)
    taken = [int(text[:5]) for text in sampler.take(texts)]
    assert taken == list(range(19, 10_000, 20))


def test_a_document_larger_than_its_turn_gives_its_beginning() -> None:
    text = "é" * 500_000
    sampler = Sampler(250_001, 1_000_000)
    assert list(sampler.take([text])) == ["é" * 125_000]
    assert 250_000 <= sampler.taken <= 250_001
