"""Whether a source can be pulled at all, by config and data: one rule for launch, check and lists; light to import."""

from collections.abc import Mapping
from typing import Any

from curriculum.config import Config
from curriculum.eligibility import BOUNDS as BOUNDS
from curriculum.errors import FirehoseError
from curriculum.tokens import manifest

Described = Mapping[str, Mapping[str, Any]]


def missing(name: str, sources: Described, data: Described) -> str | None:
    """Why a source that is wanted has no data, or None. sources and data: as `state.reconcile` takes them."""
    if sources[name].get("excluded") or sources[name]["cap"] == 0:
        return None
    if name not in data:
        return "its data is missing: the manifest does not have it"
    if "missing" in data[name]:
        return f"its data is missing: {data[name]['missing']}"
    return None if data[name]["windows"] > 0 else "its data has no training window"


def why_not(name: str, sources: Described, data: Described) -> str | None:
    """Why an arm can never be pulled, or None where it can."""
    if name not in sources:
        return "it is not configured"
    if sources[name].get("excluded"):
        return "it is excluded"
    if sources[name]["cap"] == 0:
        return "its cap is 0"
    return missing(name, sources, data)


def configured(config: Config) -> dict[str, dict[str, Any]]:
    """Name to bounds and `excluded`, as `reconcile` wants the sources."""
    excluded = config.curriculum.exclude_sources
    return {
        name: {**{key: getattr(source, key) for key in BOUNDS}, "excluded": name in excluded}
        for name, source in config.sources.items()
    }


def listed(config: Config) -> dict[str, dict[str, Any]] | None:
    """What the manifest says of the data, as `reconcile` wants it, without opening a token file.

    None where there is no manifest that can be read: a launch refuses that, and puts nothing aside for it.
    """
    folder, block = config.resolve(config.data.dir), config.model.block_size
    try:
        entries = manifest.read(folder).sources
    except (FirehoseError, OSError):
        return None
    found: dict[str, dict[str, Any]] = {}
    for name, entry in entries.items():
        path = folder / entry.train.file
        windows = max(0, entry.train.tokens - 1) // block
        found[name] = (
            {"sha256": entry.train.sha256, "windows": windows}
            if path.is_file()
            else {"missing": f"{path} does not exist"}
        )
    return found
