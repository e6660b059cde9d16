"""Text from the model: one prompt through the chat template, drawn at a temperature, with a key-value cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from bandit.hashing import Purpose, mix64
from trainer.model import Decoder, KeyValueCache


class ChatTokenizer(Protocol):
    """What sampling needs of the tokenizer: its template and its end token."""

    end_id: int

    def prompt(self, user_text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


@dataclass(frozen=True, slots=True)
class Drawn:
    """A generated text: only what the model wrote, its token ids, and its mean loss in nats a token."""

    text: str
    ids: list[int]
    loss: float


@torch.inference_mode()
def generate(
    model: Decoder,
    tokenizer: ChatTokenizer,
    prompt: str,
    *,
    temperature: float,
    max_new_tokens: int,
    min_new_tokens: int,
    key: Sequence[int],
) -> Drawn:
    """Answer a prompt; the draw of position i is a function of (*key, i) alone.

    No top-k: greedy or truncated output of a healthy young model scores like a collapsed one. The end token is
    withheld for the first `min_new_tokens`, so that a model fed on short documents still gives text to score.
    A long prompt loses its beginning, so that at least half the context is left for the text. `loss` is the mean negative log-likelihood, at temperature 1, of the
    tokens drawn.
    """
    device = model.cos.device
    context = model.shape.block_size
    ids = tokenizer.prompt(prompt)[-(context - min(max_new_tokens, context // 2)) :]
    room = min(max_new_tokens, context - len(ids))
    cache = KeyValueCache(model.shape, 1, len(ids) + room, model.embedding.weight)
    feed = torch.tensor([ids], device=device)
    drawn: list[int] = []
    nats = 0.0
    for position in range(room):
        logits = model(feed, cache)[0, -1].float().cpu()
        log_p = torch.log_softmax(logits, dim=-1)
        if position < min_new_tokens:
            logits[tokenizer.end_id] = -torch.inf
        probability = torch.softmax(logits.double() / temperature, dim=-1)
        # Inverse transform: the first token whose cumulative probability passes a uniform draw.
        uniform = mix64(*key, Purpose.SAMPLE, position) / 2.0**64
        cumulative = torch.cumsum(probability, dim=-1)
        token = int(torch.searchsorted(cumulative, uniform * float(cumulative[-1]), right=True))
        token = min(token, len(logits) - 1)
        if token == tokenizer.end_id:
            break
        drawn.append(token)
        nats -= float(log_p[token])
        feed = torch.tensor([[token]], device=device)
    loss = nats / len(drawn) if drawn else 0.0
    return Drawn(text=tokenizer.decode(drawn), ids=drawn, loss=loss)
