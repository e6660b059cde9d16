"""The sources of a run: their token files, checked, and the arms that the bandit makes of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bandit.arms import ArmSpec
from bandit.scheduler import Scheduler
from curriculum.arms import arm_spec
from curriculum.config import Config
from curriculum.eligibility import Phase, phases, why_not
from curriculum.errors import Exit, FirehoseError
from curriculum.text.tables import is_named
from curriculum.tokens.corpus import Corpus


def open_corpus(config: Config) -> Corpus:
    """The config's token files. Raises FirehoseError(NOT_FOUND) that says what is missing and what to run."""
    folder = config.resolve(config.data.dir)
    try:
        return Corpus.open(folder, config.model.block_size, config.seed)
    except FirehoseError as error:
        if error.exit_code is not Exit.NOT_FOUND:
            raise
        wanted = [name for name in config.sources if name not in config.curriculum.exclude_sources]
        absent = [
            f"{name} ({config.resolve(path)})"
            for name in wanted
            for path in config.sources[name].paths
            if not (is_named(Path(path)) or any(config.base.glob(path)) or config.resolve(path).exists())
        ]
        missing = f"; their text is missing too: {', '.join(absent)}" if absent else ""
        first = "put the missing text there, then " if absent else ""
        raise FirehoseError(
            Exit.NOT_FOUND,
            f"the token files of {len(wanted)} sources are not built{missing}",
            path=folder,
            next=f"{first}firehose data build {config.path}",
        ) from error


def known_arms(payload: Mapping[str, Any]) -> set[str]:
    """The arms a state's payload has a record of, live or put aside."""
    return set(payload.get("bandit", {}).get("arms", {})) | set(payload.get("pruned", {}))


def check_present(config: Config, corpus: Corpus, *, known: set[str]) -> list[str]:
    """The sources that may be picked at some step; one never seen before must have token files.

    known: arms of an earlier state; one whose data is gone is reconciled away instead of refused.
    """
    wanted = [name for name in config.sources if why_not(config, name, config.train.steps) is None]
    absent = [name for name in wanted if name not in corpus.sources and name not in known]
    if absent:
        why = [f"{name} ({corpus.missing.get(name, 'not in the manifest')})" for name in absent]
        raise FirehoseError(
            Exit.NOT_FOUND,
            f"no token files for {', '.join(why)}",
            path=corpus.folder,
            arm=absent[0],
            next=f"firehose data build {config.path}",
        )
    return [name for name in wanted if name in corpus.sources]


def check_sources(config: Config, corpus: Corpus, *, known: set[str]) -> None:
    """`check_present`, then read every source's files whole and compare them with the manifest."""
    for name in check_present(config, corpus, known=known):
        corpus.check(name, expect_documents=config.sources[name].expect_documents)


def specs(config: Config, corpus: Corpus, ids: dict[str, int]) -> list[ArmSpec]:
    """The bandit's arms: id from the state, bounds from the config, windows from the data."""
    return [arm_spec(config, name, arm_id, corpus.sources[name].windows) for name, arm_id in ids.items()]


def open_phase(config: Config, scheduler: Scheduler, phase: Phase, ids: dict[str, int]) -> list[str]:
    """Let the bandit pick the sources of a phase and share among them anew; what had to be relaxed for it.

    Raises FirehoseError where none of them has data.
    """
    live = [ids[name] for name in phase.sources if name in ids]
    if not live:
        raise FirehoseError(
            Exit.REFUSED,
            f"no source of the {phase.name} phase has data: {', '.join(phase.sources)}",
            path=config.path,
            next=f"firehose data build {config.path}",
        )
    return [f"bounds relaxed: {message}" for message in scheduler.set_eligible(live, restart=True)]


def rest(config: Config, scheduler: Scheduler, ids: dict[str, int], step: int) -> list[str]:
    """After a change of arms, bounds or data: take back what was issued and not trained, and share anew."""
    scheduler.cancel_from(step + 1)
    now = [phase for phase in phases(config) if phase.first_step <= step + 1][-1]
    return open_phase(config, scheduler, now, ids)
