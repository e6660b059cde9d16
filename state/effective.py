"""`effective.json`: the config a run goes by, every default expanded, and where its file came from; its one writer."""

import os
from pathlib import Path
from typing import Any

import msgspec

from curriculum import config as configs
from curriculum.config import Config


def first(config: Config, config_file: Path, root: Path, origin: dict[str, Any] | None) -> bytes:
    """The file's bytes for a config that is a copy of `config_file`.

    root: the run's folder, from which that file is also found when both are moved. origin: the checkpoint whose
    weights the run began with, None for its own.
    """
    return _encoded(
        {
            "sha256": configs.digest(config),
            "config_file": str(config_file),
            "config_file_from_here": os.path.relpath(config_file, root.resolve()),
            "config": configs.effective(config),
            "origin": origin,
        }
    )


def changed(old: dict[str, Any], config: Config) -> bytes:
    """The file's bytes with another config in it. old: what is in the file now."""
    return _encoded({**old, "sha256": configs.digest(config), "config": configs.effective(config)})


def _encoded(body: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(body), indent=2) + b"\n"
