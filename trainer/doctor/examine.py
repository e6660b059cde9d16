"""`firehose doctor`: all checks in the order in which things usually are to blame, the harness first, the model last."""

import gc
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from curriculum.config import Config
from curriculum.errors import FirehoseError
from curriculum.sources import open_corpus
from curriculum.text import tokenizer as tokenizers
from trainer import weights
from trainer.doctor import against, harness, model, rehearsal, traces
from trainer.doctor.checks import Check, verdict
from trainer.doctor.rehearsal import Rehearsed

Say = Callable[[str], None]


def examine(config: Config, runs_dir: Path, *, quick: bool = False, say: Say = lambda _: None) -> list[Check]:
    """Every check of a config, none of whose runs is touched: what trains here does so in a temporary folder.

    quick: data by size and not by hash, and neither the batch learnt by heart nor another run for every key. A check
    that cannot be made, since one before it failed, fails as such. Raises FirehoseError only for data that is not there.
    """
    gc.freeze()  # a rehearsal's collections need not walk all that torch is made of
    try:
        return list(_examined(config, runs_dir, quick, say))
    finally:
        gc.unfreeze()


def _examined(config: Config, runs_dir: Path, quick: bool, say: Say) -> Iterator[Check]:
    corpus = open_corpus(config)
    say("reading the data")
    data = harness.data(config, corpus, quick=quick)
    yield from data
    sound = all(check.ok for check in data)
    if sound:
        yield harness.template(config, corpus, tokenizers.load(corpus.tokenizer))
    yield harness.signals()
    yield harness.file_system(runs_dir)
    yield harness.disk(runs_dir, config, weights.build(config, corpus.vocab_size).parameter_count())
    if not sound:
        yield _not_made("rehearsal", "the data comes first")
        return
    say(f"training {rehearsal.STEPS} steps in a temporary folder")
    rehearsed = rehearsal.short(config)
    try:
        with rehearsal.rehearse(rehearsed) as done:
            yield from _of_the_rehearsal(config, rehearsed, done)
        halting = rehearsal.halting(config)
        with rehearsal.rehearse(halting, uneven=True) as halted:
            yield traces.halts(halted)
            yield traces.credited(halting, halted)
            yield from against.one_step(halting, halted.parts, torch.cat([fed for _, fed in halted.first]))
    except FirehoseError as error:
        yield _not_made("rehearsal", error.message, error.next or "")
        return
    windows = done.first[0][1]
    say("asking the model")
    yield against.initial_weights(done.start)
    yield against.forward_pass(done.start, windows[:1, :-1][:, : against.MOST_TOKENS])
    for ask in model.MODEL_CHECKS:
        yield ask(done.start)
    for look in model.WINDOW_CHECKS:
        yield look(done.start, windows)
    if quick:
        return
    yield rehearsal.overfit(done.start, windows)
    say(f"training {1 + len(rehearsal.READ)} small models, one for every key that must make a difference")
    yield rehearsal.values_read(config)


def _of_the_rehearsal(config: Config, rehearsed: Config, done: Rehearsed) -> Iterator[Check]:
    """The gate sees every sample, the feed hands over the files' text, the loss is of the next token, sampling is the model
    that was trained, every weight moves, a checkpoint comes back."""
    fed, measured = done.first[0][1], done.pulls[0]["pulls"][0][1]
    yield rehearsal.gate(config, done)
    yield traces.fed(rehearsed, done)
    yield traces.rates(config, rehearsed, done)
    yield traces.heldout(done)
    yield traces.comes_back(rehearsed, done)
    yield model.reached(dict(done.start.named_parameters()), done.parts.model)
    if done.parts.train_step.funnel is not None:
        opened, measured = rehearsal.funnel(done)
        yield from opened
    yield model.labels(done.start, fed, math.inf if measured is None else measured)
    yield against.sampling(config, done.parts)


def _not_made(name: str, why: str, to_do: str = "") -> Check:
    return verdict(name, False, "not made", "a run of eight steps", f"{why}; {to_do}" if to_do else why)
