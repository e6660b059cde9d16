"""The eligibility trace: which arms a bad sample is charged to, without a list of pulls (DESIGN 5.3)."""

import numpy as np

from bandit.arms import FloatArray, cells

AGE_DECAY = 0.98
"""A pull `age` steps before the sample loses shortfall * AGE_DECAY^age of its reward."""


class Trace:
    """Per arm, the sum over counted pulls since the last sample of (0.98 gamma)^-(pick step - origin).

    One number an arm, so that nothing grows with the steps between samples. The origin moves with the estimator's, and
    a pull's part weakens by `keep` at each later one of its arm, as its reward does there.
    """

    def __init__(self, arms: int, gamma: float, keep: float) -> None:
        self.rate = AGE_DECAY * gamma
        self.keep = keep
        self.origin = 0
        self.sums: FloatArray = np.zeros(arms)
        self._cells = cells(self.sums)

    def fold(self, row: int, step: int) -> None:
        """Remember a counted pull picked at `step`."""
        self._cells[row] = self.keep * self._cells[row] + self.rate ** (self.origin - step)

    def rebase(self, origin: int) -> None:
        """Move the origin of the weights to `origin`."""
        self.sums *= self.rate ** (origin - self.origin)
        self.origin = origin

    def adopt(self, gamma: float, step: int) -> None:
        """Go on with sums that were weighted with another discount, from `step` on."""
        own, self.rate = self.rate, AGE_DECAY * gamma
        self.rebase(step)
        self.rate = own

    def take(self, step: int) -> FloatArray:
        """The sum over the remembered pulls of (0.98 gamma)^(step - pick step) (arms,); forgets them."""
        taken: FloatArray = self.sums * self.rate ** (step - self.origin)
        self.sums[:] = 0.0
        return taken
