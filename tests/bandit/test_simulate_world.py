"""The simulated world: what junk, transfer, repetition and memorisation are, exactly."""

import numpy as np
import pytest

from bandit.arms import ArmSpec, FloatArray, new_id
from bandit.simulation.world import World, draw_world

NAMES = ["books", "forum", "code", "noise"]


def arms(names: list[str], windows: int = 1000) -> list[ArmSpec]:
    return [ArmSpec(name, new_id(name, ()), windows=windows) for name in names]


def world(names: list[str] = NAMES, windows: int = 1000, goal: tuple[str, ...] = ("books",)) -> World:
    return draw_world(
        arms(names, windows),
        seed=3,
        junk=[new_id("noise", ())],
        goal=[new_id(name, ()) for name in goal],
    )


def served(*counts: float) -> FloatArray:
    return np.array(counts, dtype=np.float64)


def test_junk_never_learns_and_teaches_nothing() -> None:
    here = world()
    before, after = served(0, 0, 0, 0), served(0, 0, 0, 900)
    assert (here.heldout(before) == here.heldout(after)).all()
    assert here.heldout(served(500, 500, 500, 5000))[3] == here.heldout(before)[3]
    assert here.training(served(0, 0, 0, 50_000))[3] == here.heldout(before)[3]
    assert here.worth(before)[3] == 0.0
    assert (here.worth(before)[:3] > 0.0).all()


def test_a_source_learns_by_a_power_law_from_itself_and_by_transfer_from_others() -> None:
    here = world()
    for other, count in ((0, 100.0), (1, 300.0), (2, 700.0)):
        windows = served(0, 0, 0, 0)
        windows[other] = count
        reached = 1.0 + here.transfer[0, other] * count / here.scale[0]
        expected = here.floor[0] + here.amplitude[0] * reached ** -here.exponent[0]
        assert here.heldout(windows)[0] == pytest.approx(expected, abs=1e-12)
    assert here.transfer[0, 0] == 1.0
    assert 0.0 < here.transfer[0, 1] < 1.0
    assert here.transfer[0, 1] == here.transfer[1, 0]


def test_a_window_served_again_teaches_nothing_and_is_memorised() -> None:
    here = world()
    once, often = served(1000, 0, 0, 0), served(9000, 0, 0, 0)
    assert (here.heldout(once) == here.heldout(often)).all()
    assert here.worth(once)[0] == 0.0
    assert here.worth(served(999, 0, 0, 0))[0] > 0.0
    assert here.training(once)[0] == here.heldout(once)[0]
    assert here.training(served(2000, 0, 0, 0))[0] == pytest.approx(here.heldout(once)[0] / np.e)
    assert here.training(often)[0] < 0.01


def test_worth_is_the_gradient_of_the_goals_loss() -> None:
    here = world(goal=("books", "code"))
    at = served(200, 30, 0, 500)
    for row in range(4):
        more, less = at.copy(), at.copy()
        more[row] += 0.005
        less[row] -= 0.005
        fall = (here.goal_loss(less) - here.goal_loss(more)) / 0.01
        assert here.worth(at)[row] == pytest.approx(fall, rel=1e-6, abs=1e-12)
    assert here.goal_loss(at) == pytest.approx((here.heldout(at)[0] + here.heldout(at)[2]) / 2)


def test_a_source_is_the_same_in_whatever_company_and_order() -> None:
    all_four, two = world(), world(["code", "books"])
    for name, other in (("books", 1), ("code", 0)):
        for column in ("floor", "amplitude", "exponent", "scale", "noise"):
            assert getattr(all_four, column)[NAMES.index(name)] == getattr(two, column)[other]
    assert all_four.transfer[0, 2] == two.transfer[1, 0]


def test_another_seed_is_another_world_and_the_goal_defaults_to_what_learns() -> None:
    specs, junk = arms(NAMES), [new_id("noise", ())]
    first, second = (draw_world(specs, seed=seed, junk=junk, goal=()) for seed in (0, 1))
    assert (first.floor != second.floor).all()
    assert first.goal.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0.0])
