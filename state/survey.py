"""What config and data say of every source, held against a state: the one way to it, at launch and in every check."""

from collections.abc import Mapping
from typing import Any

from curriculum.config import Config
from curriculum.errors import Exit, FirehoseError
from curriculum.sources import check_sources, known_arms
from curriculum.tokens.corpus import Corpus
from state.reconcile import BOUNDS, Reconciled, reconcile


def configured(config: Config) -> dict[str, dict[str, Any]]:
    """Name to bounds and `excluded`, as `reconcile` wants the sources."""
    excluded = config.curriculum.exclude_sources
    return {
        name: {**{key: getattr(source, key) for key in BOUNDS}, "excluded": name in excluded}
        for name, source in config.sources.items()
    }


def on_disk(corpus: Corpus) -> dict[str, dict[str, Any]]:
    """Name to {sha256, windows}, or to {missing: why}, as `reconcile` wants the data."""
    found: dict[str, dict[str, Any]] = {
        name: {"sha256": info.sha256, "windows": info.windows} for name, info in corpus.sources.items()
    }
    return found | {name: {"missing": why} for name, why in corpus.missing.items()}


def reconciled(
    config: Config, corpus: Corpus, payload: Mapping[str, Any], *, step: int, read_data: bool = True
) -> Reconciled:
    """State against config against data (DESIGN 7.3). payload: of the state, empty for a run that begins.

    read_data: read every source's files whole and compare them with the manifest first; otherwise the manifest is
    believed. Raises FirehoseError where a source never seen before has no token files, or none is left.
    """
    if read_data:
        check_sources(config, corpus, known=known_arms(payload))
    result = reconcile(configured(config), on_disk(corpus), payload, step=step)
    if not result.ids:
        raise FirehoseError(
            Exit.NOT_FOUND,
            "no configured source has data",
            path=corpus.folder,
            next=f"firehose data build {config.path}",
        )
    return result
