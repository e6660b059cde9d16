"""What config and data say of every source, held against a state: the one way to it, at launch and in every check."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from curriculum.config import Config
from curriculum.errors import Exit, FirehoseError
from curriculum.sources import check_sources, known_arms
from curriculum.tokens.corpus import Corpus
from state.findings import Finding
from state.pullable import configured as configured
from state.reconcile import Reconciled, reconcile
from state.run_dir import RunDir


def on_disk(corpus: Corpus) -> dict[str, dict[str, Any]]:
    """Name to {sha256, windows}, or to {missing: why}, as `reconcile` wants the data."""
    found: dict[str, dict[str, Any]] = {
        name: {"sha256": info.sha256, "windows": info.windows} for name, info in corpus.sources.items()
    }
    return found | {name: {"missing": why} for name, why in corpus.missing.items()}


def reconciled(
    config: Config,
    corpus: Corpus,
    payload: Mapping[str, Any],
    *,
    step: int,
    read_data: bool = True,
    run: RunDir | None = None,
) -> Reconciled:
    """State against config against data (DESIGN 7.3). payload: of the state, empty for a run that begins.

    read_data: read every source's files whole and compare them with the manifest first; otherwise the manifest is
    believed. run: for the commands that findings name; by default the one whose config this is. Raises FirehoseError
    where a source never seen before has no token files, or none is left.
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
    run = run or RunDir(config.path.parent)
    result.findings = [named(found, config, run) for found in result.findings]
    return result


def named(found: Finding, config: Config, run: RunDir) -> Finding:
    """A finding whose commands name config and run; where there is no such run they stay as they are."""
    called, path, here = run.called() if run.exists() else "RUN", config.path, Path.cwd()
    path = path.relative_to(here) if path.is_relative_to(here) else path

    def fill(text: str) -> str:
        return re.sub(r" RUN\b", lambda _: f" {called}", text.replace("build CONFIG", f"build {path}"))

    return replace(found, message=fill(found.message), fix=found.fix and fill(found.fix))
