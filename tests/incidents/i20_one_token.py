"""I20: one word swallowed the output: "a" was 26 % of the words at step 14,966, "the" 21 % at 14,798 (002)."""

import json
import random
from importlib import resources

import pytest

from curriculum.gate.audits import Audits, TextAudits
from curriculum.gate.coherence import score
from curriculum.text.build import BuildPlan, SourceText, build
from tests.incidents.switch import caught, incident


@pytest.fixture(scope="module")
def turns() -> list[str]:
    """English turns of a chat, those that ship with the demo."""
    shipped = resources.files("curriculum.text").joinpath("chat_turns.jsonl").read_text()
    return [json.loads(line)["text"] for line in shipped.splitlines()]


@pytest.fixture(scope="module")
def look(turns: list[str], tmp_path_factory: pytest.TempPathFactory) -> TextAudits:
    """The audits of every second of them."""
    root = tmp_path_factory.mktemp("turns")
    (root / "chat.jsonl").write_text("\n".join(json.dumps({"text": turn}) for turn in turns[::2]))
    build(
        BuildPlan(root / "data", {"chat": SourceText((root / "chat.jsonl",))}, vocab_size=600, block_size=32)
    )
    return TextAudits.open(root / "data")


def no_dominance(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Audits, "_dominance", lambda self, tokens, why: (None, None))


def swallowed(draw: random.Random, turns: list[str], word: str, share: float, size: int) -> str:
    """A stretch of turns of which so many words, drawn evenly, are the one."""
    words = [
        w for turn in draw.sample(turns, 16) for w in turn.split() if w.strip("<>") and w.lower() != word
    ]
    words = words[:size]
    for at in draw.sample(range(size), round(share * size)):
        words[at] = word
    return " ".join(words)


@pytest.mark.parametrize(("word", "share", "size"), [("a", 0.26, 120), ("the", 0.21, 300)])
@incident(off=no_dominance)
def test_a_word_that_swallows_a_quarter_is_found(
    look: TextAudits, turns: list[str], word: str, share: float, size: int
) -> str:
    draw = random.Random(5)
    honest = [" ".join(" ".join(draw.sample(turns[1::2], 16)).split()[:size]) for _ in range(50)]
    assert not any("top_token_share" in look.judge(text).found for text in honest)
    texts = [swallowed(draw, turns[1::2], word, share, size) for _ in range(50)]
    assert min(score(text).total for text in texts) > 30, "the score takes them for good samples"
    found = sum("top_token_share" in look.judge(text).found for text in texts)
    caught(found == len(texts), f"{found} of {len(texts)}")
    return f'{found} of {len(texts)} samples of {size} words at {share:.0%} "{word}"'
