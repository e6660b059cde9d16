"""A short run of the real thing in a folder of its own, and what its parts made of the config.

Nothing here builds a loop of its own: launch, loop, feed, gate and checkpoints are the run's.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from bandit.ledger import Ticket
from curriculum.config import Budget, Config
from curriculum.errors import Exit
from curriculum.gate.coherence import score
from curriculum.gate.rule import Gate
from state import checkpoints
from state.checkpoints import Checkpoint
from state.lock import RunLock
from state.rows import read_rows
from state.run_dir import RunDir
from trainer.display import Silent
from trainer.doctor.checks import Check, verdict
from trainer.launch import launch
from trainer.loop import Loop
from trainer.model import Decoder
from trainer.parts import Parts
from trainer.signals import Flags

STEPS, BOUNDARY = 8, 4


@dataclass(slots=True)
class Rehearsed:
    """What a rehearsal left: its parts, the weights before, the rows it wrote, how it ended, its last checkpoint.

    fed: every pull's ticket and windows. rates: each step's learning rate as the loop gave it and as each of the
    optimizer's groups had it. rewards: (arm, reward) as they were credited.
    """

    parts: Parts
    start: Decoder
    fed: list[tuple[Ticket, Tensor]]
    rates: list[tuple[int, float, list[float]]]
    rewards: list[tuple[int, float]]
    losses: list[Any]
    pulls: list[Any]
    samples: list[Any]
    heldout: list[Any]
    ended: Exit
    checkpoint: Checkpoint | None

    @property
    def first(self) -> list[tuple[Ticket, Tensor]]:
        """The pulls of step 1."""
        return [(ticket, windows) for ticket, windows in self.fed if ticket.step == 1]


def short(config: Config, **changes: Any) -> Config:
    """The config, eight steps long, with changes to its `[train]`."""
    train = msgspec.structs.replace(
        config.train,
        steps=max(STEPS, config.train.feedback_delay + 1),
        boundary_every=BOUNDARY,
        sample_every=BOUNDARY,
        checkpoint_every=STEPS,
        heldout_every=STEPS,
        init_from=None,
        **changes,
    )
    return msgspec.structs.replace(config, train=train, budget=Budget())


@contextmanager
def rehearse(config: Config, *, until: int = STEPS, uneven: bool = False) -> Iterator[Rehearsed]:
    """Run the config's first steps in a temporary folder, which is gone afterwards.

    uneven: credit other rewards than were earned, since those of the first pulls are all but alike.
    """
    with tempfile.TemporaryDirectory(prefix="firehose-doctor-") as folder:
        run = RunDir(Path(folder) / "rehearsal")
        run.root.mkdir()
        with RunLock(run.lock):
            parts = launch(
                config,
                run,
                flags=Flags(),
                clear_halt=False,
                say=lambda _: None,
                runs_dir=Path(folder),
                ask_model=False,  # all of it is asked later
            )
            start = Decoder(parts.model.shape)
            start.load_state_dict({name: weight.cpu() for name, weight in parts.model.state_dict().items()})
            loop = Loop(parts, Silent())
            done = Rehearsed(parts, start, [], [], [], [], [], [], [], Exit.OK, None)
            _watch(loop, done, uneven=uneven)
            done.ended = loop.run(until)
        newest = checkpoints.complete(run.checkpoints)
        done.checkpoint = newest[-1] if newest else None
        done.losses, done.pulls = list(read_rows(run.loss)), list(read_rows(run.pulls))
        done.samples, done.heldout = (
            list(read_rows(run.samples)),
            list(read_rows(run.root / f"{run.name}.heldout.json")),
        )
        yield done
        shutil.rmtree(run.root, ignore_errors=True)


def _watch(loop: Loop, done: Rehearsed, *, uneven: bool) -> None:
    """Note what goes through the loop: windows, rates, rewards."""
    parts = loop.parts
    feed: Any = parts.feed
    step: Any = parts.train_step
    reward: Any = parts.reward
    take, train, update = feed.take, step.run, reward.update

    def taken(number: int) -> Tensor:
        pulls: Tensor = take(number)
        done.fed.extend(zip(loop.tickets[number], pulls.cpu().clone(), strict=True))
        return pulls

    def trained(number: int, pulls: Tensor, lr: float) -> None:
        train(number, pulls, lr)
        done.rates.append((number, lr, [float(group["lr"]) for group in parts.optimizer.param_groups]))

    def updated(arm: int, *given: Any) -> float:
        value: float = update(arm, *given)
        if uneven:
            value = len(done.rewards) % 5 / 4
        done.rewards.append((arm, value))
        return value

    feed.take, step.run, reward.update = taken, trained, updated


def slim(config: Config, **changes: Any) -> Config:
    """The config with a model that costs next to nothing, on one thread of the CPU in float32, `short`."""
    size = min(64, config.model.block_size)
    small = msgspec.structs.replace(config.model, width=32, heads=2, layers=1, block_size=size)
    changes = {"warmup_steps": 0, "micro_batch": 2, "device": "cpu", "threads": 1} | changes
    made = short(msgspec.structs.replace(config, model=small), **changes)
    fewer = min(24, made.gate.max_new_tokens)
    return msgspec.structs.replace(made, gate=msgspec.structs.replace(made.gate, max_new_tokens=fewer))


def halting(config: Config) -> Config:
    """A slim rehearsal whose every sample is low, and halts at the first; with several pulls a step, and none late."""
    made = slim(
        config,
        grad_accum=3,
        feedback_delay=1,
        funnel_steps=0,
        dtype="float32",
        compile="off",
        cuda_graph="auto",
    )
    gate = msgspec.structs.replace(made.gate, threshold=101.0, consecutive=1, target=100.0)
    layers = msgspec.structs.replace(made.model, layers=2)
    return msgspec.structs.replace(made, gate=gate, model=layers)


def gate(config: Config, done: Rehearsed) -> Check:
    """Every sample that was due was drawn, scored and judged by the rules of the config (I04)."""
    due = len(done.losses) // BOUNDARY
    judged = [row for row in done.samples if isinstance(row.get("score"), float) and row.get("verdict")]
    asked = Gate.of(config.gate)
    own: Any = done.parts.gate
    other = [row for row in judged if row["score"] != score(row["text"]).total]
    same = all(getattr(own, key, None) == getattr(asked, key) for key in ("threshold", "rules", "audit_halt"))
    if not isinstance(own, Gate) or len(judged) != due:
        value, why = (
            f"{len(judged)} of {due} samples judged",
            "samples are drawn that the gate never sees, or none are drawn",
        )
    elif other:
        value = f"{other[0]['score']} for a text worth {score(other[0]['text']).total}"
        why = "what the gate judges is not the score of the sample's text"
    elif not same:
        value, why = "judges by other numbers", "the gate does not judge by the numbers of [gate]"
    else:
        value, why = f"{len(judged)} of {due} samples judged", ""
    return verdict("gate attached", not why, value, "every sample, by the numbers of [gate]", why)


def funnel(done: Rehearsed) -> tuple[list[Check], float]:
    """The softmax of the real step widens, up to the plain loss (I16); and the loss of step 1's first pull, once it has.

    Asked of the windows of step 1 and the weights before it, at learning rate 0, at the funnel's first step, in its middle
    and behind its last.
    """
    step, trained = done.parts.train_step, done.parts.model
    assert step.funnel is not None
    after = {name: weight.detach().clone() for name, weight in trained.state_dict().items()}
    trained.load_state_dict(done.start.state_dict())
    pulls = torch.stack([windows for _, windows in done.first]).to(trained.cos.device)
    sizes, losses = [], []
    for at in (1, 1 + step.funnel.steps // 2, 1 + step.funnel.steps):
        step.run(at, pulls, lr=0.0)
        sizes.append(trained.shape.vocab_size if step.among is None else len(step.among.tokens))
        losses.append(step.ring.read(at).losses)
    trained.load_state_dict(after)
    with torch.no_grad():
        plain = [done.start.loss(windows).item() for windows in pulls.cpu()]
    widens = sizes == sorted(sizes) and losses[0] <= losses[1] <= losses[2]
    same = all(abs(a - b) <= 1e-2 * b for a, b in zip(losses[2], plain, strict=True))
    whole = sizes[2] == trained.shape.vocab_size and same
    why = "it never opens: most of training would tell only some tokens apart" if not whole else "it narrows"
    found = verdict(
        "funnel",
        widens and whole,
        f"{sizes[0]:,}, {sizes[1]:,}, {sizes[2]:,} tokens; loss {losses[0][0]:.2f} to {losses[2][0]:.2f}",
        f"rising to {trained.shape.vocab_size:,} tokens and the plain loss, {plain[0]:.2f}",
        f"the softmax of the training loss does not widen as it should: {why}",
    )
    return [found], losses[2][0]


# Another value of a key, and what of a run it must change: its weights, or what is written of its samples.
READ: dict[str, tuple[Callable[[Any], Any], str]] = {
    "train.lr": (lambda lr: 2 * lr, "weights"),
    "train.min_lr": (lambda lr: lr / 3, "weights"),
    "train.warmup_steps": (lambda _: 3, "weights"),
    "train.weight_decay": (lambda decay: decay + 0.7, "weights"),
    "train.beta1": (lambda beta: beta / 2, "weights"),
    "train.beta2": (lambda beta: beta / 2, "weights"),
    "train.grad_clip": (lambda clip: clip / 1000, "weights"),
    "train.lr_scale": (lambda scale: msgspec.structs.replace(scale, mlp=scale.mlp / 2), "weights"),
    "gate.threshold": (lambda threshold: 100.0 if threshold < 50 else 0.0, "samples"),
    "gate.temperature": (lambda temperature: 2 * temperature, "samples"),
    "gate.max_new_tokens": (lambda tokens: tokens // 2, "samples"),
    "gate.target": (lambda target: 100.0 if target < 100 else 1.0, "samples"),
}


def values_read(config: Config) -> Check:
    """Another value of a key makes another run: eight steps of a small model, once as configured and once for every key (I18)."""
    base = slim(config)
    seen = _traces(base)
    ignored = []
    for key, (other, what) in READ.items():
        section, name = key.split(".")
        part = getattr(base, section)
        changed = msgspec.structs.replace(part, **{name: other(getattr(part, name))})
        if _traces(msgspec.structs.replace(base, **{section: changed}))[what] == seen[what]:
            ignored.append(key)
    return verdict(
        "values read",
        not ignored,
        f"no difference by {', '.join(ignored)}" if ignored else f"{len(READ)} keys make a difference",
        "every key makes a difference",
        "the value in the config is not the one that is used: something is hard-coded",
    )


def _traces(config: Config) -> dict[str, Any]:
    with rehearse(config) as done:
        return {
            "weights": [weight.detach().cpu().numpy().tobytes() for weight in done.parts.model.parameters()],
            "samples": done.samples,
        }


def overfit(start: Decoder, windows: Tensor, *, steps: int = 30) -> Check:
    """A model can learn two windows by heart: loss falls by more than a third in thirty steps of the run's own optimizer."""
    from trainer import optim

    learner = Decoder(start.shape)
    learner.load_state_dict(start.state_dict())
    device = torch.device("cpu")
    optimizer = optim.build(learner, weight_decay=0.0, betas=(0.9, 0.95), device=device)
    optim.set_rate(optimizer, 3e-3)
    text = windows[:2, : min(129, windows.shape[1])]
    losses = []
    for _ in range(steps):
        loss = learner.loss(text)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    fall = losses[-1] / losses[0]
    return verdict(
        "one batch by heart",
        fall < 2 / 3,
        f"{losses[0]:.2f} to {losses[-1]:.2f}",
        f"under {2 / 3 * losses[0]:.2f} after {steps} steps",
        "the model cannot learn even two windows: gradients do not reach its weights, or the optimizer does not move them",
    )
