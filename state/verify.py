"""A whole run replayed: how many picks of how many are found, and whether every stored state is what it comes to."""

from dataclasses import dataclass, field
from typing import Any

from state.replay import NotFound, Replay, begin, first
from state.story import Story


@dataclass(slots=True)
class Verified:
    """What a replay of everything found. picks: in the files; found: those the replay makes too; missing: what is not."""

    picks: int
    found: int = 0
    missing: list[NotFound] = field(default_factory=list)


def verify(story: Story) -> Verified:
    """Replay everything, comparing picks, charges and the bandit's state in every checkpoint kept and in the state file.

    After something that the replay does not make, it goes on from the next checkpoint.
    """
    result = Verified(picks=(story.last - story.began) * story.config.train.grad_accum)
    try:
        replay: Replay | None = first(story)
    except NotFound as problem:
        replay = None
        result.missing.append(problem)
    if replay is not None and replay.began > story.began:
        what = f"steps up to {replay.began} are from before the oldest checkpoint since the run began anew"
        result.missing.append(NotFound(story.began + 1, what))
    while replay is not None:
        failed = _replay_all(story, replay)
        result.found += replay.found
        replay = None
        if failed is not None:
            result.missing.append(failed)
            later = (at for at in sorted(story.checkpoints) if failed.step <= at < story.last)
            replay = next((again for at in later if (again := begin(story, at)) is not None), None)
            if replay is not None:
                story.notes.append(f"the replay goes on from the checkpoint of step {replay.began}")
    return result


def _replay_all(story: Story, replay: Replay) -> NotFound | None:
    """Go on to the end, comparing the state wherever the files have one; the first thing that is not found, if any."""
    try:
        for step in replay.steps(story.last):
            if step in story.checkpoints and (copy := story.checkpoint(step)) is not None:
                _same_state(replay, copy.payload, f"the checkpoint of step {step}")
        if not story.payload.get("edits"):
            _same_state(replay, story.payload, "the state file")
    except NotFound as problem:
        return problem
    return None


def _same_state(replay: Replay, payload: dict[str, Any], whose: str) -> None:
    own = {"bandit": replay.scheduler.snapshot(), "reward": replay.reward.snapshot()}
    path = difference(own, {key: payload.get(key) for key in own})
    if path is not None:
        raise NotFound(replay.step, f"{path} of {whose} is not what the replay comes to")


def difference(own: Any, other: Any, path: str = "") -> str | None:
    """The path of the first value that differs between two pieces of plain data, or None.

    >>> difference({"a": [1, 2.5]}, {"a": [1, 2.25]}), difference({"a": 1}, {"a": 1.0})
    ('a.1', None)
    """
    if isinstance(own, dict) and isinstance(other, dict) and own.keys() == other.keys():
        pairs = [(str(key), own[key], other[key]) for key in own]
    elif isinstance(own, list) and isinstance(other, list) and len(own) == len(other):
        pairs = [(str(at), a, b) for at, (a, b) in enumerate(zip(own, other, strict=True))]
    else:
        return None if own == other else path or "all"
    below = (difference(a, b, f"{path}.{key}".lstrip(".")) for key, a, b in pairs)
    return next((found for found in below if found is not None), None)
