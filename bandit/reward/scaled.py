"""The rewards whose raw values have a unit and are scaled by quantiles: loss, improvement, align, heldout."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from bandit.errors import NonFiniteLoss
from bandit.reward.base import LARGEST_LOSS, NEUTRAL, AnyRecord, Average, Reward
from bandit.reward.scaling import WINDOW, QuantileScaler
from bandit.snapshot import Record

# Share of a probe's unexplained drop that is taken into the arms' worths at once.
LEARNING = 0.2


class ScaledReward(Reward[AnyRecord]):
    """A reward that is the quantile scaling, over all arms, of a raw value."""

    def __init__(self, arm_ids: Collection[int], names: Mapping[int, str] | None = None) -> None:
        super().__init__(arm_ids, names)
        self._scaler = QuantileScaler()

    def _shared(self) -> dict[str, Any]:
        return {"recent": list(self._scaler.recent)}

    def _load_shared(self, record: Record) -> None:
        recent = record.data.get("recent")
        if not isinstance(recent, list) or len(recent) > WINDOW:
            raise record.wrong("recent", f"a list of at most {WINDOW} numbers")
        values = Record({str(at): value for at, value in enumerate(recent)}, f"{record.place}.recent")
        self._scaler = QuantileScaler(values.number(key) for key in values)


class LossReward(ScaledReward[Average]):
    """The loss itself: the harder the source, the more of it (online data mixing, Albalak et al. 2023)."""

    record = Average

    def _worth(self, arm: Average, loss: float, signal: float | None) -> float:
        arm.add(loss)
        return self._scaler.scale(loss)


class ImprovementReward(ScaledReward[Average]):
    """max(0, average - loss), what the original rewarded, to replay old runs. It pays for noise: see ProgressReward."""

    record = Average

    def _worth(self, arm: Average, loss: float, signal: float | None) -> float:
        before = arm.mean() if arm.pulls > 0 else loss
        arm.add(loss)
        return self._scaler.scale(max(0.0, before - loss))


class AlignReward(ScaledReward[Average]):
    """The cosine of the pull's gradient with the goal's (its signal); a half for a pull without one."""

    needs = "cosine"
    record = Average

    def _worth(self, arm: Average, loss: float, signal: float | None) -> float:
        arm.add(loss)
        return NEUTRAL if signal is None else self._scaler.scale(signal)


@dataclass(slots=True)
class Share(Average):
    """waiting: pulls since the last probe. worth: drop of the goal's loss a pull that is put down to the arm, in nats."""

    waiting: int = 0
    worth: float = 0.0


class HeldoutReward(ScaledReward[Share]):
    """The drop of the goal's held-out loss, credited over the pulls since the probe before.

    The arms' worths predict each drop from their pulls, and what they miss corrects them in proportion to the pulls
    (normalised least mean squares, Widrow and Hoff 1960). A pull's raw value is its arm's worth; a half until there
    was a drop.
    """

    needs = "goal"
    record = Share

    def __init__(self, arm_ids: Collection[int], names: Mapping[int, str] | None = None) -> None:
        super().__init__(arm_ids, names)
        self._goal: float | None = None
        self._drops = 0

    def probe(self, goal_loss: float) -> None:
        goal_loss = float(goal_loss)
        if not abs(goal_loss) < LARGEST_LOSS:
            raise NonFiniteLoss(f"the goal's held-out loss {goal_loss} is not a usable number")
        pulled = [arm for arm in self._arms.values() if arm.waiting > 0]
        if self._goal is not None and pulled:
            squares = sum(arm.waiting**2 for arm in pulled)
            missed = self._goal - goal_loss - sum(arm.waiting * arm.worth for arm in pulled)
            for arm in pulled:
                arm.worth += LEARNING * missed * (arm.waiting / squares)
            self._drops += 1
        for arm in pulled:
            arm.waiting = 0
        self._goal = goal_loss

    def _worth(self, arm: Share, loss: float, signal: float | None) -> float:
        arm.add(loss)
        arm.waiting += 1
        return self._scaler.scale(arm.worth) if self._drops > 0 else NEUTRAL

    def _shared(self) -> dict[str, Any]:
        return {**super()._shared(), "goal": self._goal, "drops": self._drops}

    def _load_shared(self, record: Record) -> None:
        super()._load_shared(record)
        self._goal, self._drops = record.number_or_none("goal"), record.whole("drops")
