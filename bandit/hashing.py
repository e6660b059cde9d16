"""Random draws as pure functions of integers, so that no generator state has to survive a restart.

Every draw in the product is `mix64(seed, purpose, ...)`: the same integers give the same draw on any machine,
in any order, at any time. The mixer is splitmix64's finaliser (Steele, Lea, Flood 2014, "Fast splittable
pseudorandom number generators", figure 6), applied once per part.
"""

from collections.abc import Sequence
from enum import IntEnum

MASK = (1 << 64) - 1


class Purpose(IntEnum):
    """What a draw is for; part of every key, so that two uses never share a stream."""

    DWELL = 1
    TIE = 2
    WINDOW = 3
    WEIGHTS = 4
    SAMPLE = 5


def mix64(*parts: int) -> int:
    """Hash integers (taken modulo 2^64) to an unsigned 64-bit integer.

    >>> mix64(1, 2) == mix64(1, 2), mix64(1, 2) == mix64(2, 1)
    (True, False)
    """
    state = 0
    for part in parts:
        state = (state + (part & MASK) + 0x9E3779B97F4A7C15) & MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
        state ^= state >> 31
    return state


def below(limit: int, *parts: int) -> int:
    """A whole number in [0, limit), uniform to within limit / 2^64.

    >>> all(0 <= below(7, 3, k) < 7 for k in range(100))
    True
    """
    return (mix64(*parts) * limit) >> 64


def preference(seed: int, ids: Sequence[int]) -> list[int]:
    """The ids in the order in which equal ones are served: by a hash of (seed, id), never by position or name."""
    return sorted(ids, key=lambda identity: (mix64(seed, Purpose.TIE, identity), identity))
