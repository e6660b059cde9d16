"""The index: what each arm may be worth, from discounted rewards and the noise in them (DESIGN 4.1).

Variance-aware discounted UCB: the discounted mean of Garivier and Moulines (2011, arXiv:0805.3415), the
empirical-Bernstein width of Audibert, Munos and Szepesvari (2009, UCB-V), pulls in flight counted in the width
alone (Desautels, Krause and Burdick 2014, GP-BUCB), and a variance from successive differences (von Neumann
1941), which a slow trend does not inflate.
"""

import math
from dataclasses import dataclass

import numpy as np

from bandit.arms import BoolArray, FloatArray, IntArray, cells

UNCREDITED_MEAN = 0.5
DIFFERENCE_DECAY = 0.98
PRIOR_VARIANCE = 0.02
LONGEST_REBASE = 4096
# The largest exponent of a squared weight, gamma^-(2 * period): e^600 leaves room under e^709 for sums of many.
LARGEST_EXPONENT = 600.0
# A sum of weights is not scaled below this: beside any new credit it counts nothing, and it never underflows.
SMALLEST_SUM = 1e-80
# Stands for no pulls: no division by zero, and a width beyond any other's.
NO_PULLS = 1e-290
LARGEST_INDEX = 1e300


def discount(memory: float, grad_accum: int) -> float:
    """gamma = 2^(-1/h) a step, h = ln 2 * memory / grad_accum steps, memory counted in pulls.

    >>> round(discount(memory=400, grad_accum=4), 6) == round(math.exp(-1 / 100), 6)
    True
    """
    return float(2.0 ** (-grad_accum / (math.log(2.0) * memory)))


def rebase_period(gamma: float) -> int:
    """Steps between two moves of the origin: 4096, or the largest power of two at which gamma^-2s stays finite.

    >>> rebase_period(0.99), rebase_period(math.exp(-1.0))
    (4096, 256)
    """
    period = LONGEST_REBASE
    while period > 1 and -2.0 * period * math.log(gamma) > LARGEST_EXPONENT:
        period //= 2
    return period


@dataclass(frozen=True, slots=True)
class IndexParts:
    """The index and what it is the sum of, each (arms,): `index` = `mean` + `variance_width` + `range_width`.

    index is +inf, and the widths are, for an arm without a pull to judge by. pulls: effective ones plus in flight.
    """

    index: FloatArray
    mean: FloatArray
    variance_width: FloatArray
    range_width: FloatArray
    pulls: FloatArray


def ucb_v(
    mean: FloatArray, variance: FloatArray, pulls: FloatArray, log_total: float, xi: float, zeta: float
) -> IndexParts:
    """U = m + sqrt(2 xi v l / n) + zeta b l / n with reward range b = 1; +inf where n = 0.

    All arrays (arms,). pulls: effective pulls plus pulls in flight. With v = xi = 1, zeta = 0 and l = ln t this
    is UCB1 (Auer, Cesa-Bianchi and Fischer 2002).
    """
    seen = pulls > NO_PULLS
    per_pull = log_total / np.where(seen, pulls, 1.0)
    variance_width = np.where(seen, np.sqrt(2.0 * xi * variance * per_pull), np.inf)
    range_width = np.where(seen, zeta * per_pull, np.inf)
    return IndexParts(mean + variance_width + range_width, mean, variance_width, range_width, pulls)


class Estimator:
    """Discounted sums of each arm's counted pulls, weighted by g = gamma^-(pick step - origin).

    Columns, all (arms,): weight_sum S = sum g, weight_square_sum S2 = sum g^2, reward_sum X = sum g r;
    difference_sum and difference_weight, the discounted squared successive differences halved, and their weight;
    last_reward (NaN before the first) and last_step (0 before the first) of the last counted pull.

    What the index reads of an arm changes only when one of its pulls is counted, so it is worked out for the arms that
    changed since the last index, and an index of all arms is a few operations on whole columns. live (arms,): the arms whose pulls the
    index's log counts.
    """

    def __init__(self, arms: int, gamma: float, live: BoolArray | None = None) -> None:
        self.gamma = gamma
        self.period = rebase_period(gamma)
        self.origin = 0
        self._live: FloatArray = np.ones(arms) if live is None else live.astype(np.float64)
        self.weight_sum: FloatArray = np.zeros(arms)
        self.weight_square_sum: FloatArray = np.zeros(arms)
        self.reward_sum: FloatArray = np.zeros(arms)
        self.difference_sum: FloatArray = np.zeros(arms)
        self.difference_weight: FloatArray = np.zeros(arms)
        self.last_reward: FloatArray = np.full(arms, np.nan)
        self.last_step: IntArray = np.zeros(arms, dtype=np.int64)
        # Worked out from the columns: mean, variance, effective pulls as they would be at the origin.
        self._mean: FloatArray = np.full(arms, UNCREDITED_MEAN)
        self._variance: FloatArray = np.full(arms, PRIOR_VARIANCE)
        self._deviation: FloatArray = np.sqrt(self._variance)
        self._pulls_at_origin: FloatArray = np.zeros(arms)
        self._weight_sums = cells(self.weight_sum)
        self._weight_square_sums = cells(self.weight_square_sum)
        self._reward_sums = cells(self.reward_sum)
        self._difference_sums = cells(self.difference_sum)
        self._difference_weights = cells(self.difference_weight)
        self._last_rewards = cells(self.last_reward)
        self._last_steps = cells(self.last_step)
        self._means = cells(self._mean)
        self._variances = cells(self._variance)
        self._deviations = cells(self._deviation)
        self._pulls_at_origins = cells(self._pulls_at_origin)
        self._outdated: set[int] = set()  # arms whose columns changed since
        self._work = np.empty((3, arms))

    def add(self, row: int, step: int, reward: float, penalty: float) -> None:
        """Count a pull picked at `step`. The penalty lowers the mean; the noise is that of the bare rewards."""
        weight = self.gamma ** (self.origin - step)
        self._weight_sums[row] += weight
        self._weight_square_sums[row] += weight * weight
        self._reward_sums[row] += weight * (reward - penalty)
        last = self._last_rewards[row]
        if last == last:
            difference = reward - last
            self._difference_sums[row] = (
                DIFFERENCE_DECAY * self._difference_sums[row] + difference * difference / 2.0
            )
            self._difference_weights[row] = DIFFERENCE_DECAY * self._difference_weights[row] + 1.0
        self._last_rewards[row] = reward
        self._last_steps[row] = step
        self._outdated.add(row)

    def outdate(self) -> None:
        """The columns of every arm may have changed, as after they were loaded."""
        self._outdated.update(range(len(self.weight_sum)))

    def _derive(self) -> None:
        """Work out what the index reads of the arms that changed; the same columns always give the same bits."""
        for row in self._outdated:
            weight_sum = self._weight_sums[row]
            if weight_sum > 0.0:
                kept = weight_sum * weight_sum / self._weight_square_sums[row]
                self._means[row] = self._reward_sums[row] / weight_sum
                self._pulls_at_origins[row] = kept * self.gamma ** (self.origin - self._last_steps[row])
            else:
                self._means[row] = UNCREDITED_MEAN
                self._pulls_at_origins[row] = 0.0
            variance = (self._difference_sums[row] + PRIOR_VARIANCE) / (self._difference_weights[row] + 1.0)
            self._variances[row] = variance
            self._deviations[row] = math.sqrt(variance)
        self._outdated.clear()

    def charge(self, amounts: FloatArray, step: int) -> None:
        """Take `amounts` (arms,), in units of the weight of `step`, from the reward sums; pulls stay as they are."""
        self.reward_sum -= amounts * self.gamma ** (self.origin - step)
        self._outdated.update(np.flatnonzero(amounts).tolist())

    def rebase(self, origin: int) -> None:
        """Move the origin of the weights forward to `origin`; means and effective pulls stay what they were."""
        scale = np.full(len(self.weight_sum), self.gamma ** (origin - self.origin))
        seen = self.weight_sum > 0.0
        scale[seen] = np.maximum(scale[seen], np.minimum(1.0, SMALLEST_SUM / self.weight_sum[seen]))
        self.weight_sum *= scale
        self.reward_sum *= scale
        self.weight_square_sum *= scale * scale
        self.origin = origin
        self.outdate()

    def adopt(self, gamma: float, step: int) -> None:
        """Go on with sums that were weighted with another discount: at `step`, the new origin, both weigh 1.

        Means stay what they were; from here on everything ages with this estimator's gamma.
        """
        own, self.gamma = self.gamma, gamma
        self.rebase(step)
        self.gamma = own
        self.outdate()

    def mean(self) -> FloatArray:
        """Discounted mean reward (arms,), 0.5 before the first counted pull."""
        self._derive()
        return self._mean.copy()

    def variance(self) -> FloatArray:
        """Noise of a reward (arms,), with one pull's worth of prior at 0.02."""
        self._derive()
        return self._variance.copy()

    def effective_pulls(self, step: int) -> FloatArray:
        """n = gamma^(step - last) S^2 / S2 (arms,): the variance of the discounted mean is v / n, and it ages."""
        self._derive()
        return self._pulls_at_origin * self.gamma ** (step - self.origin)

    def log_total(self, pulls: FloatArray) -> float:
        """l = ln(1 + sum over the live arms of effective pulls and pulls in flight (arms,))."""
        return math.log1p(pulls.dot(self._live))

    def parts(self, step: int, pending: FloatArray, xi: float, zeta: float) -> IndexParts:
        """The index of every arm at `step` and its parts. pending (arms,): pulls in flight."""
        pulls = self.effective_pulls(step) + pending
        return ucb_v(self._mean, self._variance, pulls, self.log_total(pulls), xi, zeta)

    def bound(self, step: int, pending: FloatArray, xi: float, zeta: float) -> FloatArray:
        """The index of every arm at `step` (arms,) for a pick; the array is used again by the next call.

        As `parts` gives it but for rounding, and without temporary arrays; an arm without a pull gets a finite number
        above any other's. pending (arms,): pulls in flight, NO_PULLS where there are none.
        """
        if xi == 0.0:
            return np.minimum(self.parts(step, pending, xi, zeta).index, LARGEST_INDEX)
        if self._outdated:
            self._derive()
        multiply, add, (pulls, root, bound) = np.multiply, np.add, self._work
        multiply(self._pulls_at_origin, self.gamma ** (step - self.origin), pulls)
        add(pulls, pending, pulls)
        np.divide(2.0 * xi * self.log_total(pulls), pulls, root)
        np.sqrt(root, root)
        # m + r (d + zeta / (2 xi) r), r = sqrt(2 xi l / n), d = sqrt(v): a step fewer than term by term.
        multiply(root, zeta / (2.0 * xi), bound)
        add(bound, self._deviation, bound)
        multiply(bound, root, bound)
        add(bound, self._mean, bound)
        return bound
