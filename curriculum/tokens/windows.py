"""The order in which a source's windows are served: a keyed permutation per epoch, computed, never stored.

A window of `block_size` T is tokens `[iT, iT+T]`: T inputs and, one to the right, T targets. Epoch e of an arm
visits every window once, in the order of a permutation keyed by (seed, arm id, e). The permutation is a balanced
Feistel network (Luby and Rackoff 1988) over the smallest even number of bits that holds the number of windows, with
cycle-walking (Black and Rogaway 2002, "Ciphers with arbitrary finite domains", method 2) back into range: under four
walks on average. So position k of an epoch is found in O(1), at any size, and one integer is the whole state.
"""

import functools
from typing import overload

import numpy as np
from numpy.typing import NDArray

from bandit.hashing import MASK, Purpose, mix64

# Four make a pseudorandom permutation of a large set. Over 4,000 epochs of 3 to 6 windows, orders were far from
# evenly spread with four (chi-square p under 1e-200), with six (1e-9), and even with eight (all p over 0.03).
ROUNDS = 8
MOST_WINDOWS = 1 << 62
_STEP = 0x9E3779B97F4A7C15  # the constants of mix64's one step, which is the round function
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
# mix64 ends with `mixed ^= mixed >> 31`, which is left out: a round takes the upper bits, at most 31, and that shift
# moves none of them onto another.
_MANY_FIRST, _MANY_SECOND, _30, _27 = (np.uint64(number) for number in (_FIRST, _SECOND, 30, 27))
_FEW = 16  # values still walking that are done one by one: a call of numpy costs as much as some of them
_MOST_AHEAD = 4096  # windows of an arm that are worked out at once
_MOST_HELD = 1 << 22  # windows of all arms, 32 MiB, beyond which they are forgotten
_NONE: NDArray[np.int64] = np.empty(0, dtype=np.int64)


def windows_in(tokens: int, block_size: int) -> int:
    """How many windows of `block_size` targets a stream of `tokens` holds.

    >>> windows_in(9, 4), windows_in(8, 4), windows_in(0, 4)
    (2, 1, 0)
    """
    if block_size < 1:
        raise ValueError(f"block_size is {block_size}; it must be at least 1")
    return max(0, tokens - 1) // block_size


@overload
def window_index(cursor: int, windows: int, seed: int, arm_id: int) -> int: ...
@overload
def window_index(cursor: NDArray[np.int64], windows: int, seed: int, arm_id: int) -> NDArray[np.int64]: ...
def window_index(
    cursor: int | NDArray[np.int64], windows: int, seed: int, arm_id: int
) -> int | NDArray[np.int64]:
    """The window, in [0, windows), that an arm serves at `cursor` (windows served before it, over all epochs).

    cursor: an int, or an int64 array of any shape, which may cross epochs. Raises ValueError where it is negative
    or `windows` is not in [1, 2^62].

    >>> sorted(window_index(k, 5, seed=1, arm_id=7) for k in range(5))
    [0, 1, 2, 3, 4]
    """
    if not 1 <= windows <= MOST_WINDOWS:
        raise ValueError(f"windows is {windows}; it must be in [1, 2^62]")
    if isinstance(cursor, int):
        if cursor < 0:
            raise ValueError(f"cursor is {cursor}; it must be at least 0")
        epoch, position = divmod(cursor, windows)
        return _permute_one(position, windows, _round_keys(seed, arm_id, epoch))
    cursor = np.asarray(cursor, dtype=np.int64)
    if cursor.size == 0:
        return cursor
    if int(cursor.min()) < 0:
        raise ValueError(f"cursor is {int(cursor.min())}; it must be at least 0")
    epochs, positions = np.divmod(cursor, windows)
    known, which = np.unique(epochs, return_inverse=True)
    keys = [_round_keys(seed, arm_id, epoch) for epoch in known.tolist()]
    return _permute_many(positions.ravel(), which.ravel(), windows, keys).reshape(cursor.shape)


@functools.lru_cache(maxsize=1024)
def _round_keys(seed: int, arm_id: int, epoch: int) -> tuple[int, ...]:
    """One key a round. With mix64's step after it, round r of half h is mix64(seed, WINDOW, arm, epoch, r, h)."""
    return tuple(mix64(seed, Purpose.WINDOW, arm_id, epoch, number) for number in range(ROUNDS))


def _half_bits(windows: int) -> int:
    """Half of the smallest even number of bits, at least 2, that counts to windows - 1."""
    return max(1, ((windows - 1).bit_length() + 1) // 2)


def _permute_one(position: int, windows: int, keys: tuple[int, ...]) -> int:
    half = _half_bits(windows)
    low = (1 << half) - 1
    shift = 64 - half
    while True:
        left, right = position >> half, position & low
        for key in keys:
            mixed = (key + right + _STEP) & MASK
            mixed = ((mixed ^ (mixed >> 30)) * _FIRST) & MASK
            mixed = ((mixed ^ (mixed >> 27)) * _SECOND) & MASK
            left, right = right, left ^ (mixed >> shift)
        position = left << half | right
        if position < windows:
            return position


def _permute_many(
    positions: NDArray[np.int64], which: NDArray[np.int64], windows: int, keys: list[tuple[int, ...]]
) -> NDArray[np.int64]:
    """`_permute_one` of many positions at once; position i goes with keys[which[i]]."""
    half = _half_bits(windows)
    # A column a round, or one number a round where all positions are of one epoch, which is a third faster.
    rounds = (np.array(keys, dtype=np.uint64).T + np.uint64(_STEP))[:, which if len(keys) > 1 else [0]]
    values = positions.astype(np.uint64)
    index = _network(values, half, rounds)
    walking = np.flatnonzero(index >= windows)
    while walking.size > _FEW:
        values = _network(index[walking], half, rounds if len(keys) == 1 else rounds[:, walking])
        index[walking] = values
        walking = walking[values >= windows]
    for at in walking.tolist():
        index[at] = _permute_one(int(index[at]), windows, keys[which[at]])
    return index.astype(np.int64)


def _network(values: NDArray[np.uint64], half: int, rounds: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The Feistel network on uint64 values (n,) below 4^half, with rounds (ROUNDS, n or 1) of mix64's step and key.

    uint64 arithmetic wraps, as mix64's does.
    """
    bits, shift = np.uint64(half), np.uint64(64 - half)
    left, right = values >> bits, values & np.uint64((1 << half) - 1)
    mixed, moved = np.empty_like(values), np.empty_like(values)
    for key in rounds:
        np.add(right, key, out=mixed)
        mixed ^= np.right_shift(mixed, _30, out=moved)
        mixed *= _MANY_FIRST
        mixed ^= np.right_shift(mixed, _27, out=moved)
        mixed *= _MANY_SECOND
        mixed >>= shift
        left ^= mixed
        left, right = right, left
    return left << bits | right


class WindowsAhead:
    """`window_index` for cursors that mostly go forward, worked out for many pulls at once; nothing here needs saving.

    One pull's windows cost about 15 us each, those of 4,096 cursors 0.1 to 0.8 us (bench/loader.py). An arm begins with
    four pulls' worth and doubles, so that a source of a large mixture that is seldom pulled costs little.

    >>> ahead = WindowsAhead(seed=1)
    >>> ahead.take(arm_id=7, windows=5, first=3, count=4).tolist() == [window_index(k, 5, 1, 7) for k in range(3, 7)]
    True
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._held = 0
        self._ahead: dict[tuple[int, int], tuple[int, NDArray[np.int64]]] = {}

    def take(self, arm_id: int, windows: int, first: int, count: int) -> NDArray[np.int64]:
        """The windows of cursors first .. first + count - 1 (count,), of an arm with so many of them."""
        key = (arm_id, windows)
        begins, found = self._ahead.get(key, (0, _NONE))
        skip = first - begins
        if skip < 0 or skip + count > len(found):
            self._held -= len(found)
            if self._held > _MOST_HELD:
                self._ahead.clear()
                self._held = 0
            # Each epoch has keys of its own, which cost more than the windows of a source that has next to none.
            length = max(count, min(max(4 * count, 2 * len(found)), _MOST_AHEAD, 64 * windows))
            found = window_index(np.arange(first, first + length), windows, self.seed, arm_id)
            self._ahead[key] = first, found
            self._held += length
            skip = 0
        return found[skip : skip + count]
