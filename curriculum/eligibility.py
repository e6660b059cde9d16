"""Which sources may be picked, when, and why the others may not."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from curriculum.config import Config


BOUNDS = ("cap", "floor", "min_share", "max_share")  # the keys of a source that bound its arm


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of steps with one set of eligible sources, in the config's order; it starts at `first_step`."""

    name: Literal["warm-up", "full"]
    first_step: int
    sources: tuple[str, ...]


def phases(config: "Config") -> list[Phase]:
    """The phases of a run by the config alone (whether a source has data is known at launch): warm-up if any, full."""
    warmup_steps = config.curriculum.curriculum_warmup_steps
    allowed = tuple(name for name in config.sources if never_picked(config, name) is None)
    warmup_set = set(config.curriculum.curriculum_warmup_sources)
    full = Phase("full", warmup_steps + 1, allowed)
    if warmup_steps == 0:
        return [full]
    return [Phase("warm-up", 1, tuple(name for name in allowed if name in warmup_set)), full]


def why_not(config: "Config", source: str, step: int) -> str | None:
    """Why a configured source may not be picked at a step (from 1), or None where it may."""
    never = never_picked(config, source)
    if never is not None:
        return never
    curriculum = config.curriculum
    if step <= curriculum.curriculum_warmup_steps and source not in curriculum.curriculum_warmup_sources:
        return f"not in the warm-up set until step {curriculum.curriculum_warmup_steps + 1}"
    return None


def never_picked(config: "Config", source: str) -> str | None:
    """Why a configured source is picked in no phase, or None where it is in some."""
    if source in config.curriculum.exclude_sources:
        return "excluded"
    if config.sources[source].cap == 0:
        return "cap 0"
    if config.sources[source].max_share == 0:
        return "max_share 0"
    return None
