"""The keyed permutation: exact for every size, pinned in order, a pure function of (seed, arm, epoch, position)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.hashing import Purpose, mix64
from curriculum.tokens import windows
from curriculum.tokens.windows import WindowsAhead, window_index, windows_in


def epoch_order(count: int, epoch: int = 0, seed: int = 1, arm: int = 7) -> list[int]:
    return window_index(np.arange(count) + epoch * count, count, seed, arm).tolist()


@pytest.mark.parametrize("count", [*range(1, 35), 63, 64, 65, 255, 256, 257, 1023, 1025, 4096, 4097, 20_000])
def test_every_epoch_is_a_permutation(count: int) -> None:
    for epoch in range(3):
        assert sorted(epoch_order(count, epoch)) == list(range(count))


@given(st.integers(1, 10**12), st.integers(0, 10**15), st.integers(0, 2**63 - 1), st.integers(0, 2**48 - 1))
def test_one_cursor_and_an_array_of_them_agree(count: int, cursor: int, seed: int, arm: int) -> None:
    cursors = np.arange(cursor, cursor + 5)
    many = window_index(cursors, count, seed, arm)
    assert many.dtype == np.int64
    assert many.tolist() == [window_index(k, count, seed, arm) for k in cursors.tolist()]
    assert all(0 <= index < count for index in many.tolist())


def test_the_order_is_the_documented_feistel_network() -> None:
    """Written again from the definition, with mix64 itself as the round function."""

    def walk(position: int, count: int, seed: int, arm: int, epoch: int) -> int:
        half = max(1, ((count - 1).bit_length() + 1) // 2)
        while True:
            left, right = divmod(position, 1 << half)
            for number in range(windows.ROUNDS):
                mixed = mix64(seed, Purpose.WINDOW, arm, epoch, number, right)
                left, right = right, left ^ (mixed >> (64 - half))
            position = (left << half) + right
            if position < count:
                return position

    for count in (1, 2, 3, 10, 100, 10**12):
        for position in {0, count // 2, count - 1}:
            for epoch in (0, 3):
                expected = walk(position, count, 1337, 99, epoch)
                assert window_index(epoch * count + position, count, 1337, 99) == expected


def test_pinned_orders_never_change() -> None:
    """A run in flight depends on them: a change here breaks every resume."""
    assert epoch_order(10) == [5, 8, 3, 1, 4, 0, 6, 2, 9, 7]
    assert epoch_order(10, epoch=1) == [6, 9, 3, 1, 7, 0, 2, 5, 4, 8]
    assert window_index(123_456_789_012, 10**12, 1337, 2**47 + 5) == 575_153_223_017


def test_epoch_seed_and_arm_each_change_the_order() -> None:
    orders = [epoch_order(100), epoch_order(100, epoch=1), epoch_order(100, seed=2), epoch_order(100, arm=8)]
    assert len({tuple(order) for order in orders}) == 4


def test_first_windows_of_many_epochs_are_spread_evenly() -> None:
    """Chi-square over 20 windows: 19 degrees of freedom, and 50 is exceeded once in 7,000 fair draws."""
    epochs = 2000
    first = window_index(np.arange(epochs) * 20, 20, 1, 7)
    counts = np.bincount(first, minlength=20)
    assert ((counts - epochs / 20) ** 2 / (epochs / 20)).sum() < 50


def test_a_trillion_windows_need_no_table() -> None:
    count = 10**12
    some = window_index(np.arange(count - 50_000, count + 50_000), count, 1, 7)
    assert len(np.unique(some[:50_000])) == 50_000
    assert len(np.unique(some[50_000:])) == 50_000
    assert some.min() >= 0
    assert some.max() < count


@pytest.mark.parametrize(("cursor", "count"), [(-1, 5), (0, 0), (0, (1 << 62) + 1)])
def test_what_cannot_be_served_is_refused(cursor: int, count: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        window_index(cursor, count, 1, 7)
    with pytest.raises(ValueError, match="must be"):
        window_index(np.array([cursor]), count, 1, 7)


@given(st.integers(0, 200), st.integers(1, 20))
def test_windows_in_counts_the_blocks_with_a_target_for_every_input(tokens: int, block_size: int) -> None:
    starts = range(0, tokens + 1, block_size)
    assert windows_in(tokens, block_size) == sum(start + block_size + 1 <= tokens for start in starts)


def test_a_block_has_a_token() -> None:
    with pytest.raises(ValueError, match="block_size"):
        windows_in(10, 0)


@given(
    st.integers(1, 300),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 900), st.integers(1, 40)), max_size=30),
)
def test_what_is_worked_out_ahead_is_the_same_wherever_the_cursors_go(
    count: int, asked: list[tuple[int, int, int]]
) -> None:
    ahead = WindowsAhead(seed=3)
    for arm, first, pull in asked:
        expected = window_index(np.arange(first, first + pull), count + arm, 3, arm)
        assert ahead.take(arm, count + arm, first, pull).tolist() == expected.tolist()


def test_what_is_worked_out_ahead_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "_MOST_HELD", 500)
    ahead = WindowsAhead(seed=3)
    most = 0
    for turn in range(40):
        for arm in range(20):
            ahead.take(arm, 10**6, 8 * turn, 8)
            held = sum(len(found) for _, found in ahead._ahead.values())
            most = max(most, held)
            assert held == ahead._held
    assert 500 < most <= 500 + 32 * 20
