"""The configuration of a run: typed sections read from one TOML file, checked whole before anything starts.

The keys themselves are in `curriculum.config_keys`.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from curriculum import config_rules, config_toml
from curriculum.config_keys import PRESETS as PRESETS
from curriculum.config_keys import Budget as Budget
from curriculum.config_keys import Clean as Clean
from curriculum.config_keys import ConfigFile as ConfigFile
from curriculum.config_keys import Curriculum as Curriculum
from curriculum.config_keys import Data as Data
from curriculum.config_keys import Gate as Gate
from curriculum.config_keys import LrScale as LrScale
from curriculum.config_keys import Model as Model
from curriculum.config_keys import Source as Source
from curriculum.config_keys import Train as Train
from curriculum.config_rules import decay_line as decay_line
from curriculum.config_rules import warnings as warnings

# What no pick, loss or sample depends on; not part of a run's identity. `*` stands for every source.
NOT_TRAINING = frozenset(
    {
        "name",
        "data.dir",
        "data.tokenizer_sample_mb",
        "train.keep_checkpoints",
        "train.keep_every",
        "train.parallel",
        "train.compile",
        "train.cuda_graph",
        "train.deterministic",
        "train.keep_best",
        "sources.*.path",
        "sources.*.expect_documents",
        "sources.*.clean",
        "clean.scripts",
        "clean.foreign_share",
        "clean.longest_paragraph",
        "clean.bigram_diversity",
        "clean.list_share",
        "clean.prompt_signs",
        "clean.near_duplicates",
        "budget.seconds_per_step",
        "budget.watts",
        "budget.price_per_kwh",
        "budget.price_per_hour",
        "budget.max_heldout_loss",
    }
)

# Keys that came later, with the value that leaves a run as it was without them: at that value they are no part of its
# identity, so that a run from before goes on.
NEUTRAL: dict[str, Any] = {
    "train.funnel_steps": 0,
    "train.funnel_start": 200,
    "train.lr_scale": {"embedding": 1.0, "attention": 1.0, "mlp": 1.0, "norms": 1.0, "head": 1.0},
}

# Rewards that mean nothing without a goal.
NEED_A_GOAL = config_rules.NEED_A_GOAL


class Config(ConfigFile, kw_only=True, frozen=True):
    """A loaded file, every default that depends on another key filled in.

    path: the file. base: the folder its relative paths start from, the file's own unless `load` was told otherwise.
    """

    path: Path
    base: Path

    def resolve(self, p: str | Path) -> Path:
        """A path of the config as an absolute path."""
        return Path(os.path.normpath(self.base / Path(p).expanduser()))

    def clean_of(self, source: str) -> Clean:
        """The limits of the cleaning rules for a source: its own where it sets them, else those of `[clean]`."""
        own = self.sources[source].clean
        given = {} if own is None else msgspec.to_builtins(own)
        return msgspec.convert({**msgspec.to_builtins(self.clean), **given}, Clean)


def load(path: str | Path, *, original: str | Path | None = None, rules: bool = True) -> Config:
    """Read and check a config file.

    original: the file this one is a copy of (a run's folder holds one); names and relative paths are the original's.
    rules: whether keys are held against each other too, for which numpy is loaded. Raises FirehoseError: USAGE for what cannot be read (missing file, syntax, unknown key, wrong type or value),
    REFUSED for what reads well and cannot be run (bounds that cannot hold, and the like). Each names file and line.
    """
    path = Path(path).absolute()
    if original is None and path.name == "config.toml":
        original = original_of(path)
    text = config_toml.read_text(path)
    raw, lines = config_toml.parse(text, path)
    config_toml.check_keys(raw, ConfigFile, path, lines)
    config_toml.check_finite(raw, path, lines)
    origin = path if original is None else Path(original).absolute()
    _fill(raw, origin)
    file = config_toml.convert(raw, ConfigFile, path, lines)
    config = Config(
        **{field: getattr(file, field) for field in ConfigFile.__struct_fields__},
        path=path,
        base=origin.parent,
    )
    if rules:
        config_rules.check(config, lines)
    return config


def original_of(path: Path) -> Path | None:
    """The file that a run's `config.toml` is a copy of, by the run's `effective.json`; None where it is no copy.

    Looked for relative to the run first, so that a project may be moved as a whole.
    """
    try:
        record = msgspec.json.decode((path.parent / "effective.json").read_bytes())
        names = (path.parent / record["config_file_from_here"], Path(record["config_file"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return next((Path(os.path.normpath(name)) for name in names if name.parent.is_dir()), names[1])


def _fill(raw: dict[str, Any], path: Path) -> None:
    """Fill in the defaults that depend on another key or on the file's name (the preset's numbers: Model)."""
    name = raw.setdefault("name", path.stem)
    data, train = raw.setdefault("data", {}), raw.setdefault("train", {})
    if isinstance(data, dict):
        data.setdefault("dir", f"data/{name}")
    if isinstance(train, dict):
        train.setdefault("weight_decay", 0.0 if "init_from" in train else 0.01)
    _fill_goal(raw)


def _fill_goal(raw: dict[str, Any]) -> None:
    """Reward and goal depend on each other and on the floors of the sources that may be picked."""
    curriculum, sources = raw.setdefault("curriculum", {}), raw.get("sources")
    if not isinstance(curriculum, dict) or not isinstance(sources, dict):
        return  # told where the types are checked
    excluded = curriculum.get("exclude_sources", ())
    floored = [
        name
        for name, source in sources.items()
        if isinstance(source, dict)
        and _above_zero(source.get("floor", 0))
        and _above_zero(source.get("cap", 1))
        and _above_zero(source.get("max_share", 1))
        and not (isinstance(excluded, list) and name in excluded)
    ]
    curriculum.setdefault("reward", "align" if curriculum.get("goal_sources") or floored else "progress")
    if curriculum["reward"] in NEED_A_GOAL:
        curriculum.setdefault("goal_sources", floored)


def _above_zero(value: object) -> bool:
    return isinstance(value, int | float) and value > 0


def effective(config: Config) -> dict[str, Any]:
    """The whole configuration as plain JSON-able data, every default expanded.

    `focus_size` and `memory` stay null where unset: they follow the number of eligible arms.
    """
    plain: dict[str, Any] = {
        field: msgspec.json.decode(msgspec.json.encode(getattr(config, field)))
        for field in ConfigFile.__struct_fields__
    }
    for key in (
        "curriculum_warmup_sources",
        "exclude_sources",
        "goal_sources",
    ):  # sets: their order changes nothing
        plain["curriculum"][key] = sorted(set(plain["curriculum"][key]))
    return plain


def digest(config: Config) -> str:
    """SHA-256 of the keys that change training, as canonical JSON; names, paths and retention are left out.

    Two configs have the same digest if and only if `differences` of their effective forms is empty.
    """
    return hashlib.sha256(msgspec.json.encode(_training(effective(config)), order="sorted")).hexdigest()


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Dotted keys of training that differ between two effective configs, sorted; absent counts as different."""
    before, after = _training(old), _training(new)
    absent = object()
    return sorted(
        key for key in before.keys() | after.keys() if before.get(key, absent) != after.get(key, absent)
    )


def _training(plain: dict[str, Any]) -> dict[str, Any]:
    """Dotted key -> value, without the keys that change no training."""
    absent = object()
    return {
        key: value
        for key, pattern, value in _leaves(plain)
        if pattern not in NOT_TRAINING and NEUTRAL.get(key, absent) != value
    }


def _leaves(plain: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """(dotted key, the same with `*` for a source's name, value) of every setting."""
    for section, value in plain.items():
        if section == "sources":
            for name, source in value.items():
                for key, setting in source.items():
                    yield f"sources.{name}.{key}", f"sources.*.{key}", setting
        elif isinstance(value, dict):
            for key, setting in value.items():
                yield f"{section}.{key}", f"{section}.{key}", setting
        else:
            yield section, section, value
