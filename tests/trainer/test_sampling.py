"""Sampling: the same tokens from kept keys and values, from replays, and from the whole text read anew each time."""

from collections.abc import Sequence

import pytest
import torch

from bandit.hashing import Purpose, mix64
from tests.trainer.tape import Tape
from trainer.graph import WARM_UP, CudaRecorder
from trainer.model import Decoder, Shape
from trainer.sampling import LOOK_EVERY, Drawn, Sampler, generate

SHAPE = Shape(vocab_size=64, block_size=96, width=32, heads=4, layers=2)
PROMPT = [5, 9, 33, 2, 60]


class Tokenizer:
    """A prompt of one token a word; text is the tokens' numbers."""

    def __init__(self, end_id: int) -> None:
        self.end_id = end_id

    def prompt(self, user_text: str) -> list[int]:
        return [int(word) for word in user_text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))


def model(seed: int = 1, sharp: float = 20.0) -> Decoder:
    """With weights so large that what is drawn depends on all that came before."""
    decoder = Decoder(SHAPE)
    decoder.initialise(seed)
    with torch.no_grad():
        for block in decoder.blocks:
            for weight in block.parameters():
                weight.mul_(sharp if weight.dim() > 1 else 1.0)
        decoder.embedding.weight.mul_(5.0)
    return decoder


def ask(sampler: Sampler, end: int = 63, prompt: list[int] = PROMPT, **changed: float) -> Drawn:
    settings = {"temperature": 0.8, "max_new_tokens": 60, "min_new_tokens": 4, **changed}
    return generate(sampler, Tokenizer(end), " ".join(map(str, prompt)), key=(7, 100), **settings)  # type: ignore[arg-type]


@torch.inference_mode()
def reference(
    decoder: Decoder, end: int, temperature: float = 0.8, withheld: int = 4
) -> tuple[list[int], float]:
    """The whole text read anew for every token, drawn by the cumulative sum of fractions."""
    ids, nats = list(PROMPT), 0.0
    for position in range(60):
        logits = decoder(torch.tensor([ids]))[0, -1]
        log_p = torch.log_softmax(logits, dim=-1)
        if position < withheld:
            logits[end] = -torch.inf
        cumulative = torch.softmax(logits.double() / temperature, dim=-1).cumsum(0)
        uniform = mix64(7, 100, Purpose.SAMPLE, position) / 2.0**64
        token = int(torch.searchsorted(cumulative, uniform * float(cumulative[-1]), right=True))
        if token == end:
            break
        ids.append(token)
        nats -= float(log_p[token])
    return ids[len(PROMPT) :], nats / (len(ids) - len(PROMPT))


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("recorded", [False, True])
def test_the_tokens_are_those_of_the_whole_text_read_anew(seed: int, recorded: bool) -> None:
    decoder = model(seed)
    ids, loss = reference(decoder, end=63)
    assert len(set(ids)) > 8, "a text that could go wrong"
    sampler = Sampler(decoder, Tape() if recorded else None)
    for _ in range(2):  # the second text is in the buffers, and in the recording, of the first
        drawn = ask(sampler)
        assert drawn.ids == ids
        assert drawn.loss == pytest.approx(loss, rel=1e-4)
    assert ask(sampler, prompt=[1, 2, 3]).ids != ids


def test_the_end_is_withheld_at_first_and_ends_the_text_from_then_on() -> None:
    decoder = model()
    ids, _ = reference(decoder, end=63)
    for at in (1, 6, LOOK_EVERY + 3):  # before it may come, soon after, and past the first look
        end = ids[at]
        expected, _ = reference(decoder, end=end)
        for sampler in (Sampler(decoder), Sampler(decoder, Tape())):
            drawn = ask(sampler, end=end)
            assert drawn.ids == expected
            assert end not in drawn.ids
    assert ask(Sampler(decoder), end=ids[0], min_new_tokens=0) == Drawn("", [], 0.0)


def test_what_changes_between_texts_is_not_frozen_in_a_recording() -> None:
    decoder, tape = model(), Tape()
    sampler = Sampler(decoder, tape)
    ask(sampler)
    assert ask(sampler, temperature=2.5).ids == ask(Sampler(decoder), temperature=2.5).ids
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(1.01)  # as training does: in place
    assert ask(sampler).ids == reference(decoder, end=63)[0]
    assert tape.replays == 3 * 60 - WARM_UP, "recorded once"


def test_a_prompt_longer_than_the_context_leaves_room_for_the_text() -> None:
    drawn = ask(Sampler(model()), prompt=[index % 60 for index in range(200)], max_new_tokens=200)
    assert len(drawn.ids) <= SHAPE.block_size // 2
    short = ask(Sampler(model()), prompt=[index % 60 for index in range(200)], max_new_tokens=10)
    assert len(short.ids) <= 10


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_a_text_is_that_of_the_cpu() -> None:
    decoder = model(sharp=5.0)
    expected = ask(Sampler(decoder))
    decoder.cuda()
    recorder = CudaRecorder(decoder.cos.device)
    sampler = Sampler(decoder, recorder)
    for _ in range(2):
        drawn = ask(sampler)
        assert drawn.ids[:20] == expected.ids[:20]
    assert sampler.write is not None and sampler.write.replay is not None
