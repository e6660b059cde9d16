"""Text from the model: one prompt through the chat template, drawn at a temperature, with keys and values kept.

A text is made in buffers of one size, and what a token needs of the host (its uniform draw, whether it may be the end)
lies on the device before the first one. So on CUDA a token is one replay of a recorded graph, and the host looks at what
was drawn only every so often.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from bandit.hashing import Purpose, mix64
from trainer.graph import CudaRecorder, Recorded, Recorder
from trainer.model import Block, Decoder

# On CUDA, tokens between two looks for the end of the text.
LOOK_EVERY = 32
# A text's room is made for a multiple of so many tokens, so that few sizes are ever recorded.
ROOM_STEP = 128
# Probabilities become whole numbers of this many: sums of those are the same in any order, fractions' are not.
WHOLE = 2.0**52


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


class Writing:
    """A text in the making, up to `capacity` tokens with its prompt. All it is made of are buffers made once.

    end: the token that ends a text. Nothing here asks the device for a number; `write` is alike for every token.
    """

    def __init__(self, model: Decoder, capacity: int, end: int) -> None:
        self.model, self.capacity, self.end = model, capacity, end
        self.blocks = cast(Sequence[Block], model.blocks)
        weight, shape = model.embedding.weight, model.shape
        self.head_width = shape.width // shape.heads
        # Keys and values: [layer, which, head, position, channel].
        self.kept = weight.new_zeros(shape.layers, 2, shape.heads, capacity, self.head_width)
        # The angles as `turn` wants them, each [position, channel].
        self.cos = torch.cat((model.cos, model.cos), dim=-1)
        self.sin = torch.cat((-model.sin, model.sin), dim=-1)
        device = weight.device
        self.slots = torch.arange(capacity, device=device)
        self.logits = torch.zeros(shape.vocab_size, device=device)
        self.last = torch.zeros(1, dtype=torch.int64, device=device)
        self.position, self.index = torch.zeros_like(self.last), torch.zeros_like(self.last)
        self.temperature = torch.ones((), dtype=torch.float64, device=device)
        self.uniforms = torch.zeros(capacity, dtype=torch.float64, device=device)
        self.withheld = torch.zeros(capacity, device=device)  # added to the end's logit
        self.ids = torch.zeros(capacity, dtype=torch.int64, device=device)
        self.nats = torch.zeros(capacity, device=device)

    def begin(
        self, prompt: list[int], uniforms: list[float], *, temperature: float, min_new_tokens: int
    ) -> None:
        """Read a prompt. uniforms: one for each token that may be drawn."""
        self.temperature.fill_(temperature)
        self.uniforms[: len(uniforms)] = torch.tensor(uniforms, dtype=torch.float64)
        self.withheld.zero_()
        self.withheld[:min_new_tokens] = -torch.inf
        self.index.zero_()
        self.position.fill_(len(prompt))
        read = torch.tensor(prompt, device=self.last.device)
        positions = self.slots[: len(prompt)]
        self.logits.copy_(self.forward(read, positions, len(prompt), positions <= positions[:, None]))

    def write(self) -> None:
        """Draw a token and read it."""
        self.choose()
        self.read(self.capacity, self.slots <= self.position[:, None])

    def choose(self) -> None:
        """Draw the next token from the logits into `last`; it and its negative log-likelihood are noted."""
        log_p = torch.log_softmax(self.logits, dim=-1)
        self.logits[self.end] += self.withheld.index_select(0, self.index)[0]
        probability = torch.softmax(self.logits.double() / self.temperature, dim=-1)
        # Inverse transform: the first token whose cumulative probability passes a uniform draw.
        cumulative = torch.cumsum((probability * WHOLE).long(), dim=-1)
        wanted = (self.uniforms.index_select(0, self.index) * cumulative[-1]).long()
        torch.searchsorted(cumulative, wanted, right=True, out=self.last)
        self.last.clamp_(max=len(cumulative) - 1)
        self.ids.index_copy_(0, self.index, self.last)
        self.nats.index_copy_(0, self.index, -log_p.index_select(0, self.last))
        self.index += 1

    def read(self, upto: int, seen: Tensor | None = None) -> None:
        """Put the last token behind the text. upto, seen: as of `forward`."""
        self.logits.copy_(self.forward(self.last, self.position, upto, seen))
        self.position += 1

    def forward(self, tokens: Tensor, positions: Tensor, upto: int, seen: Tensor | None) -> Tensor:
        """Logits after the last of tokens [time] at their positions, [vocabulary] in fp32.

        Attention looks at the first `upto` positions; seen: [time, upto], which of them each token sees, None for all.
        Written out for few small operations, since they and not arithmetic take the time here.
        """
        model, time = self.model, len(tokens)
        cos, sin = (table.index_select(0, positions)[:, None] for table in (self.cos, self.sin))
        x = F.embedding(tokens, model.embedding.weight)
        for block, kept in zip(self.blocks, self.kept, strict=True):
            qkv = block.attention.qkv(block.attention_norm(x)).view(time, 3, -1, self.head_width)
            q, k = self.turn(qkv[:, 0], cos, sin), self.turn(qkv[:, 1], cos, sin)
            kept[0].index_copy_(1, positions, k.transpose(0, 1))
            kept[1].index_copy_(1, positions, qkv[:, 2].transpose(0, 1))
            keys, values = kept[:, None, :, :upto]
            y = F.scaled_dot_product_attention(q.transpose(0, 1)[None], keys, values, attn_mask=seen)
            x.addmm_(y[0].transpose(0, 1).reshape(time, -1), block.attention.out.weight.T)
            x.addmm_(F.gelu(block.up(block.mlp_norm(x))), block.down.weight.T)
        logits: Tensor = model.head(model.norm(x[-1:]))[0].float()
        return logits

    def turn(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """`trainer.model.rotate` in three operations: with the halves swapped, sines have the sign of their half."""
        return torch.addcmul(x * cos, x.roll(self.head_width // 2, dims=-1), sin)


class Sampler:
    """Answers prompts with one model, again and again.

    recorder: what records the writing of a token; None makes token after token as it is and looks at each, which is
    the fastest where there is nothing to launch.
    """

    def __init__(self, model: Decoder, recorder: Recorder | None = None) -> None:
        self.model, self.recorder = model, recorder
        self.writing: Writing | None = None
        self.write: Recorded | None = None

    @classmethod
    def on_device(cls, model: Decoder) -> "Sampler":
        """The sampler that suits where the model is."""
        device = model.cos.device
        return cls(model, CudaRecorder(device) if device.type == "cuda" else None)

    @torch.inference_mode()
    def draw(
        self, prompt: list[int], end: int, uniforms: list[float], *, temperature: float, min_new_tokens: int
    ) -> tuple[list[int], list[float]]:
        """Tokens after a prompt, one a uniform or fewer where the text ends, and the negative log-likelihood of each."""
        writing = self.room(len(prompt) + len(uniforms), end)
        writing.begin(prompt, uniforms, temperature=temperature, min_new_tokens=min_new_tokens)
        written = self.one_by_one if self.write is None else self.replayed
        count = written(writing, len(uniforms))
        return writing.ids[:count].tolist(), writing.nats[:count].tolist()

    def room(self, tokens: int, end: int) -> Writing:
        """Buffers for a text of so many tokens: those that are there, where they do."""
        found = self.writing
        if found is None or found.capacity < tokens or found.end != end:
            found = self.writing = Writing(self.model, -(-tokens // ROOM_STEP) * ROOM_STEP, end)
            if self.recorder is not None:
                self.write = Recorded(found.write, self.recorder)
        return found

    def one_by_one(self, writing: Writing, room: int) -> int:
        """Write token by token; how many there are before the end."""
        begin = int(writing.position)
        for count in range(room):
            writing.choose()
            if int(writing.last) == writing.end:
                return count
            if count + 1 < room:
                writing.read(begin + count + 1)
        return room

    def replayed(self, writing: Writing, room: int) -> int:
        """The same by replays, some of them in vain."""
        assert self.write is not None
        for begin in range(0, room, LOOK_EVERY):
            upto = min(begin + LOOK_EVERY, room)
            for _ in range(begin, upto):
                self.write()
            ids = writing.ids[begin:upto].tolist()
            if writing.end in ids:
                return begin + int(ids.index(writing.end))
        return room


def generate(
    sampler: Sampler,
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
    A long prompt loses its beginning, so that at least half the context is left for the text. `loss` is the mean negative
    log-likelihood, at temperature 1, of the tokens drawn.
    """
    context = sampler.model.shape.block_size
    ids = tokenizer.prompt(prompt)[-(context - min(max_new_tokens, context // 2)) :]
    room = min(max_new_tokens, context - len(ids))
    uniforms = [mix64(*key, Purpose.SAMPLE, position) / 2.0**64 for position in range(room)]
    drawn, nats = sampler.draw(
        ids, tokenizer.end_id, uniforms, temperature=temperature, min_new_tokens=min_new_tokens
    )
    return Drawn(text=tokenizer.decode(drawn), ids=drawn, loss=sum(nats) / len(nats) if nats else 0.0)
