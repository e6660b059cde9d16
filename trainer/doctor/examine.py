"""`firehose doctor`: all checks in the order in which things usually are to blame, the harness first, the model last."""

from collections.abc import Callable, Iterator
from pathlib import Path

from curriculum.config import Config
from curriculum.errors import FirehoseError
from curriculum.sources import open_corpus
from curriculum.text import tokenizer as tokenizers
from trainer import weights
from trainer.doctor import harness, model, rehearsal
from trainer.doctor.checks import Check, verdict

Say = Callable[[str], None]


def examine(config: Config, runs_dir: Path, *, quick: bool = False, say: Say = lambda _: None) -> list[Check]:
    """Every check of a config, none of whose runs is touched: what trains here does so in a temporary folder.

    quick: data by size and not by hash, and neither the batch learnt by heart nor another run for every key. A check
    that cannot be made, since one before it failed, fails as such. Raises FirehoseError only for data that is not there.
    """
    return list(_examined(config, runs_dir, quick, say))


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
    try:
        with rehearsal.rehearse(rehearsal.short(config)) as done:
            yield from rehearsal.checks(config, done)
    except FirehoseError as error:
        yield _not_made("rehearsal", error.message, error.next or "")
        return
    windows = done.first[0][1]
    say("asking the model")
    for ask in model.MODEL_CHECKS:
        yield ask(done.start)
    for look in model.WINDOW_CHECKS:
        yield look(done.start, windows)
    if quick:
        return
    yield rehearsal.overfit(done.start, windows)
    say(f"training {1 + len(rehearsal.READ)} small models, one for every key that must make a difference")
    yield rehearsal.values_read(config)


def _not_made(name: str, why: str, to_do: str = "") -> Check:
    return verdict(name, False, "not made", "a run of eight steps", f"{why}; {to_do}" if to_do else why)
