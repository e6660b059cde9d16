"""The named errors of the bandit: each says which arm, ticket or field it is about, and leaves the state as it was."""


class BanditError(ValueError):
    """Base of the errors below. `arm` is the name of the arm at fault, where there is one."""

    def __init__(self, message: str, *, arm: str | None = None) -> None:
        super().__init__(message)
        self.arm = arm


class InvalidConfig(BanditError):
    """A scheduler setting is out of range or unknown."""


class InvalidArms(BanditError):
    """Arms that cannot stand together: a repeated name or id, or bounds that contradict each other."""


class InfeasibleBounds(BanditError):
    """Shares cannot sum to one inside the given bounds."""


class UnknownArm(BanditError):
    """An arm id that the scheduler does not hold."""


class NothingEligible(BanditError):
    """No arm may be pulled."""


class StepOutOfOrder(BanditError):
    """A pick or a penalty for a step that is not the next one."""


class UnknownTicket(BanditError):
    """A credit for a ticket that was never issued, or was cancelled."""


class CreditedTwice(BanditError):
    """A second credit for one ticket."""


class MissingCredit(BanditError):
    """A credit that the next pick must count has not arrived."""


class NonFiniteReward(BanditError):
    """A reward that is NaN or infinite."""


class RewardOutOfRange(BanditError):
    """A reward outside [0, 1]."""


class NonFiniteLoss(BanditError):
    """A loss that is NaN, infinite, or too large to be squared."""


class ShortfallOutOfRange(BanditError):
    """A sample's shortfall outside [0, 1]."""


class CancelTooLate(BanditError):
    """A ticket to be cancelled has been counted already."""


class SnapshotMismatch(BanditError):
    """A snapshot that does not fit the arms, or a field of it that cannot be read."""
