"""What a rehearsal left behind, against what it should have: windows, rates, held-out losses, a checkpoint, rewards, a halt."""

import math
from typing import Any

import torch
from torch import Tensor

from curriculum.config import Config
from curriculum.errors import Exit, FirehoseError
from curriculum.tokens.btok import Btok
from curriculum.tokens.windows import window_index
from state import checkpoints
from state.checkpoints import MODEL, OPTIMIZER
from trainer import checkpoint, optim, weights
from trainer.checkup import HELDOUT_WINDOWS
from trainer.doctor import reference
from trainer.doctor.checks import Check, verdict
from trainer.doctor.rehearsal import Rehearsed
from trainer.model import Decoder

EXACT = 1e-6  # relative, of a number that is worked out twice
LOOKS = 200  # steps of the whole run whose learning rate is worked out


def fed(config: Config, done: Rehearsed) -> Check:
    """Every pull of every step reached the model as the file of its source holds it, inputs and labels one apart."""
    size, corpus = config.model.block_size, done.parts.corpus
    names = {arm_id: name for name, arm_id in done.parts.arm_ids.items()}
    wrong = []
    for ticket, windows in done.fed:
        info = corpus.info(names[ticket.arm])
        tokens = Btok.open(info.path).tokens
        for row, window in enumerate(windows.tolist()):
            at = size * window_index(ticket.window + row, info.windows, config.seed, ticket.arm)
            if window != tokens[at : at + size + 1].tolist():
                wrong.append(f"step {ticket.step}, pull {ticket.micro + 1}, of {info.name}")
                break
    return verdict(
        "windows",
        bool(done.fed) and not wrong,
        f"{len(wrong)} of {len(done.fed)} pulls differ"
        if wrong
        else f"{len(done.fed)} pulls as in their files",
        "as in the files of their sources",
        f"the feed hands over other tokens than the file holds, first at {wrong[0] if wrong else 'step 1'}: nothing "
        "that is trained on them means what it says",
    )


def rates(whole: Config, config: Config, done: Rehearsed) -> Check:
    """Every step had the learning rate of the formula, in every group of the optimizer; so will those of the whole run.

    whole: the config of the run; config: of its rehearsal.
    """
    names = {id(weight): name for name, weight in done.parts.model.named_parameters()}
    parts = []
    for group in done.parts.optimizer.param_groups:
        of = [reference.scale_of(names[id(w)], w, config.train.lr_scale) for w in group["params"]]
        parts.append(of[0] if of else 0.0)
    wrong = ""
    for step, lr, groups in done.rates:
        wanted = reference.learning_rate(config.train, step)
        had = [rate / part for rate, part in zip(groups, parts, strict=True) if part]
        other = next((rate for rate in (lr, *had) if not math.isclose(rate, wanted, rel_tol=1e-5)), None)
        if other is not None:
            wrong = f"{other:.4g} instead of {wanted:.4g} at step {step} of {config.train.steps}"
            break
    train = whole.train
    for step in range(1, train.steps + 1, max(1, train.steps // LOOKS)):
        wanted = reference.learning_rate(train, step)
        rate = optim.learning_rate(
            step, peak=train.lr, floor=train.min_lr, warmup_steps=train.warmup_steps, steps=train.steps
        )
        if not wrong and not math.isclose(rate, wanted, rel_tol=EXACT, abs_tol=1e-15):
            wrong = f"{rate:.4g} instead of {wanted:.4g} at step {step} of {train.steps}"
    return verdict(
        "learning rate",
        bool(done.rates) and not wrong,
        wrong or f"{len(done.rates)} steps, and {train.steps:,} ahead",
        "a cosine over all steps times the warm-up, by lr_scale",
        "the schedule is not what train.lr, min_lr, warmup_steps, steps and lr_scale say: another horizon, ramp or floor",
    )


def heldout(done: Rehearsed) -> Check:
    """What is written down as held-out loss is the model's, of windows of the held-out files."""
    parts, wrong, measured = done.parts, "", 0
    if done.ended is Exit.HALTED and not done.heldout:
        return verdict("held-out text", True, "not reached: the gate halts the rehearsal", "", "")
    told: dict[str, Any] = done.heldout[-1]["loss"] if done.heldout else {}
    size = parts.corpus.block_size
    for name in parts.arm_ids:
        info = parts.corpus.info(name)
        reported = (info.heldout_windows + 1) // 2
        if info.heldout_path is None or reported == 0:
            continue
        measured += 1
        tokens, count = Btok.open(info.heldout_path).tokens, min(HELDOUT_WINDOWS, reported)
        first = [2 * (row * reported // count) * size for row in range(count)]
        windows = torch.tensor([tokens[at : at + size + 1].tolist() for at in first])
        if parts.corpus.heldout(name, HELDOUT_WINDOWS).tolist() != windows.tolist():
            wrong = wrong or f"other windows for {name}"
        found = told.get(name)
        if found is None:
            wrong = wrong or f"no loss for {name}"
        elif measured == 1:  # all are measured alike, and it takes its time
            with torch.no_grad():
                loss = parts.model.loss(windows.to(parts.device)).item()
            exact = parts.device.type == "cpu" and not _fewer_bits(parts)
            if not math.isclose(found, loss, rel_tol=1e-4 if exact else 5e-3):
                wrong = wrong or f"{found:.5g} instead of {loss:.5g} for {name}"
    return verdict(
        "held-out text",
        not wrong,
        wrong or f"{measured} sources",
        "the model's loss of the held-out file's own windows",
        "held-out losses are measured on other text, such as that which is trained on, or by another loss",
    )


def _fewer_bits(parts: Any) -> bool:
    with parts.train_step.autocast:
        return torch.is_autocast_enabled(parts.device.type)


def comes_back(config: Config, done: Rehearsed) -> Check:
    """The last checkpoint, loaded into a new model and a new optimizer, is what the run has: every bit of both."""
    expected, saved = f"step_{len(done.losses)} with weights and moments", done.checkpoint
    if saved is None or saved.step != len(done.losses):
        value = saved.path.name if saved else "None"
        return verdict(
            "checkpoint", False, value, expected, "no checkpoint was written where one was due: the run's end"
        )
    model, wrong = Decoder(done.start.shape), []
    train, live = config.train, dict(done.parts.model.named_parameters())
    optimizer = optim.build(
        model,
        weight_decay=train.weight_decay,
        betas=(train.beta1, train.beta2),
        device=torch.device("cpu"),
        scales=train.lr_scale,
    )
    try:
        read, _ = checkpoints.sound(saved.path)
        weights.load(model, checkpoint.tensors(read, MODEL), saved.path)
        optim.load_state(optimizer, dict(model.named_parameters()), checkpoint.tensors(read, OPTIMIZER))
    except FirehoseError as error:
        return verdict("checkpoint", False, saved.path.name, expected, error.message)
    memory: Any = done.parts.optimizer.state
    for name, weight in model.named_parameters():
        back: dict[str, Tensor] = {"weight": weight.detach(), **optimizer.state.get(weight, {})}
        have: dict[str, Tensor] = {"weight": live[name].detach(), **memory.get(live[name], {})}
        for key in sorted(have.keys() | back.keys()):
            if key not in back or key not in have:
                wrong.append(f"{name} has no {key}")
            elif not torch.equal(back[key].cpu(), have[key].cpu()):
                wrong.append(f"another {key} of {name}")
    return verdict(
        "checkpoint",
        not wrong,
        f"{saved.path.name}: {wrong[0]}" if wrong else f"{saved.path.name} reads back",
        expected,
        "what is written is not what the run has: a resume would go on from another model or another optimizer",
    )


def halts(done: Rehearsed) -> Check:
    """A run whose every sample is low, by a gate that halts at the first, ends there with exit 20 and a checkpoint.

    done: a rehearsal under such a gate (`rehearsal.halting`).
    """
    first = done.samples[0]["step"] if done.samples else None
    kind = done.samples[0]["verdict"]["kind"] if done.samples else "no sample"
    saved = None if done.checkpoint is None else done.checkpoint.step
    why = ""
    if kind != "halt":
        why = "the gate does not halt where its rule holds"
    elif done.ended is not Exit.HALTED or len(done.losses) != first:
        why = "the loop does not end where the gate halts it: it would train on"
    elif saved != first:
        why = "a halted run leaves no checkpoint of the step it halted at"
    return verdict(
        "gate halts",
        not why,
        f"exit {int(done.ended)} after {len(done.losses)} steps, verdict {kind}",
        "exit 20 at the first low sample, with a checkpoint",
        why,
    )


def credited(config: Config, done: Rehearsed) -> Check:
    """The bandit's mean of every arm is that of the rewards of its counted pulls, less the penalties of low samples."""
    bandit = done.parts.scheduler.snapshot()
    came = [(row["step"], pull[0]) for row in done.pulls if not row["skipped"] for pull in row["pulls"]]
    told = [
        (step, arm, reward)
        for (step, arm), (_, reward) in zip(came, done.rewards, strict=False)
        if step <= bandit["settled_step"]
    ]
    target = config.gate.target
    samples = [(row["step"], max(0.0, (target - row["score"]) / target)) for row in done.samples]
    wanted = reference.penalised_means(told, samples, gamma=bandit["gamma"])
    bare = reference.penalised_means(told, [], gamma=bandit["gamma"])
    wrong, why = "", ""
    for name, record in bandit["arms"].items():
        mean, expected = record["mean"], wanted.get(record["id"])
        if mean is expected is None:
            continue
        if mean is None or expected is None or not math.isclose(mean, expected, rel_tol=EXACT, abs_tol=1e-9):
            wrong = wrong or f"{name}: {mean} instead of {expected}"
            alone = bare.get(record["id"])
            if mean is not None and alone is not None and math.isclose(mean, alone, abs_tol=1e-9):
                why = "low samples cost the sources nothing: penalties do not reach the bandit"
    why = why or "rewards do not reach the bandit as they were earned: it would feed by other numbers"
    return verdict(
        "rewards",
        bool(wanted) and not wrong,
        wrong or f"{len(told)} pulls of {len(wanted)} sources, {len(samples)} samples",
        "each source's mean of its rewards less its penalties",
        why,
    )
