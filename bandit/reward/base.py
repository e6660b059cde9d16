"""What every reward has in common: its interface, the loss average of each arm, what it refuses, its snapshot."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar

from bandit.errors import NonFiniteLoss, UnknownArm
from bandit.snapshot import Record

FAST = 0.1
NEUTRAL = 0.5
LARGEST_LOSS = 1e100
SHARED = "shared"


@dataclass(slots=True)
class Average:
    """One arm's pulls and the average of its loss per own pull, not yet corrected for its start at 0."""

    pulls: int = 0
    fast: float = 0.0

    def add(self, loss: float) -> None:
        """Count a loss."""
        self.fast += FAST * (loss - self.fast)
        self.pulls += 1

    def mean(self) -> float:
        """The bias-corrected average; `pulls` must be above 0."""
        return self.fast / (1.0 - (1.0 - FAST) ** self.pulls)


AnyRecord = TypeVar("AnyRecord", bound=Average)


class Reward(ABC, Generic[AnyRecord]):
    """Turns what came home of a pull into a reward in [0, 1]; deterministic, so that picks can be replayed.

    needs: what the trainer has to measure beside the loss. "cosine": of each pull's gradient with the goal's, handed
    to `update` as its signal. "goal": the goal's held-out loss from time to time, handed to `probe`.
    arm_ids: the arms; `names` (id to name) only serves errors.
    """

    needs: ClassVar[Literal["cosine", "goal"] | None] = None
    record: type[AnyRecord]

    def __init__(self, arm_ids: Collection[int], names: Mapping[int, str] | None = None) -> None:
        self._names = dict(names or {})
        self._arms: dict[int, AnyRecord] = {arm_id: self.record() for arm_id in sorted(arm_ids)}

    @abstractmethod
    def _worth(self, arm: AnyRecord, loss: float, signal: float | None) -> float:
        """Count a pull, both numbers usable; its reward in [0, 1]."""

    def update(self, arm_id: int, loss: float, signal: float | None = None) -> float:
        """Count a pull of the arm: its loss in nats a token, and its signal where the reward has one and it came home.

        Returns its reward in [0, 1]. UnknownArm; NonFiniteLoss, naming the arm, for a loss or signal that is no usable
        number; nothing is changed by either.
        """
        arm = self._arm(arm_id)
        loss = self._usable(arm_id, "loss", loss)
        if signal is not None:
            signal = self._usable(arm_id, "signal", signal)
        return self._worth(arm, loss, signal)

    def probe(self, goal_loss: float) -> None:
        """Hear the goal's held-out loss (nats a token), before the updates of the step that it was measured at.

        Nothing to a reward that does not need it. NonFiniteLoss, with nothing changed.
        """

    def loss_ema(self, arm_id: int) -> float | None:
        """The average (0.1 per own pull) of the arm's loss, bias-corrected; None before its first pull."""
        arm = self._arm(arm_id)
        return arm.mean() if arm.pulls > 0 else None

    def snapshot(self) -> dict[str, Any]:
        """Plain data: arm id (as text, for JSON) to the fields of its record; `shared` for what is of all arms."""
        shared = self._shared()
        arms: dict[str, Any] = {
            str(arm_id): {field.name: getattr(arm, field.name) for field in fields(arm)}
            for arm_id, arm in self._arms.items()
        }
        return {**arms, SHARED: shared} if shared else arms

    @classmethod
    def restore(
        cls, arm_ids: Collection[int], snapshot: Mapping[str, Any], names: Mapping[int, str] | None = None
    ) -> Self:
        """Bit-exact inverse of `snapshot`. Arms that it lacks start anew; those not in `arm_ids` are left out.

        SnapshotMismatch names a field that cannot be read.
        """
        reward = cls(arm_ids, names)
        table = Record(dict(snapshot), "reward")
        for key in table:
            if key == SHARED:
                reward._load_shared(table.table(key))
            elif (arm := reward._arms.get(table.key_as_id(key))) is not None:
                reward._load(arm, table.table(key))
        return reward

    def _load(self, arm: AnyRecord, record: Record) -> None:
        for field in fields(arm):
            read = record.whole if field.type in (int, "int") else record.number
            setattr(arm, field.name, read(field.name))

    def _shared(self) -> dict[str, Any]:
        """The part of the snapshot that is of all arms; empty where there is none."""
        return {}

    def _load_shared(self, record: Record) -> None:
        """The inverse of `_shared`."""

    def _arm(self, arm_id: int) -> AnyRecord:
        if arm_id not in self._arms:
            raise UnknownArm(f"no arm has the id {arm_id}")
        return self._arms[arm_id]

    def _usable(self, arm_id: int, what: str, value: float) -> float:
        value = float(value)
        if not abs(value) < LARGEST_LOSS:
            name = self._names.get(arm_id, f"arm {arm_id}")
            raise NonFiniteLoss(f"{name}: {what} {value} is not a usable number", arm=name)
        return value
