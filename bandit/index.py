"""The index: what each arm may be worth, from discounted rewards and the noise in them (DESIGN 4.1).

Variance-aware discounted UCB: the discounted mean of Garivier and Moulines (2011, arXiv:0805.3415), the
empirical-Bernstein width of Audibert, Munos and Szepesvari (2009, UCB-V), pulls in flight counted in the width
alone (Desautels, Krause and Burdick 2014, GP-BUCB), and a variance from successive differences (von Neumann
1941), which a slow trend does not inflate. Rewards are forgotten by the clock, slowly, and by the arm's own pulls;
the log is of the ratio between an arm's pulls and its even part of all (as in MOSS, Audibert and Bubeck 2009), so that
arms well known are tried no more for being old; and where rewards are independent a test finds a mean that dropped.
What each of these was measured to be worth is in docs/log.md.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bandit.arms import BoolArray, FloatArray, cells

UNCREDITED_MEAN = 0.5
PULL_MEMORY = 64
"""Own pulls an arm remembers: each of its credits weakens its earlier ones by 1/64."""
DIFFERENCE_DECAY = 0.98
# Noise of all arms together: how long it is remembered, in what it begins, and the pulls it stands for in an arm's own.
POOL_DECAY = 0.99
PRIOR_VARIANCE = 0.02
POOL_PULLS = 4.0
# The test of a dropped mean: pulls of the short mean, its weight of a new reward, the mean's worth in pulls once it has
# fired, what the other arms keep of theirs, and the parts of its threshold.
RECENT_PULLS = 16.0
RECENT_RATE = 2.0 / 17.0
KEPT_PULLS = 8.5
OTHERS_KEEP = 0.3
TEST_LEVEL, TEST_RANGE, TEST_LOG = 2.0, 0.2, 2.0
LONGEST_REBASE = 4096
# The largest exponent of a squared weight, gamma^-(2 * period): e^600 leaves room under e^709 for sums of many.
LARGEST_EXPONENT = 600.0
# A sum of weights is not scaled below this: beside any new credit it counts nothing, and it never underflows.
SMALLEST_SUM = 1e-80
# Stands for no pulls: no division by zero, and a width beyond any other's. An index above UNSEEN is of such an arm.
NO_PULLS = 1e-290
UNSEEN = 1e100


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


class Common(NamedTuple):
    """What the indices of all arms share at a step.

    scale: gamma^(step - origin), which turns weights into effective pulls. even: an arm's even part of all pulls, (1 / K)
    sum_j n_j over the live arms, at least one pull's. noise: of a reward, over all arms.
    """

    scale: float
    even: float
    noise: float


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
    mean: FloatArray,
    variance: FloatArray,
    pulls: FloatArray,
    log: FloatArray | float,
    xi: float,
    zeta: float,
) -> IndexParts:
    """U = m + sqrt(2 xi v l / n) + zeta b l / n with reward range b = 1; +inf where n = 0.

    All arrays (arms,). pulls: effective pulls plus pulls in flight. log: l, an arm's own or one for all. With v = xi =
    1, zeta = 0 and l = ln t this is UCB1 (Auer, Cesa-Bianchi and Fischer 2002).
    """
    seen = pulls > NO_PULLS
    per_pull = log / np.where(seen, pulls, 1.0)
    variance_width = np.where(seen, np.sqrt(2.0 * xi * variance * per_pull), np.inf)
    range_width = np.where(seen, zeta * per_pull, np.inf)
    return IndexParts(mean + variance_width + range_width, mean, variance_width, range_width, pulls)


class Estimator:
    """Discounted sums of each arm's counted pulls, weighted by g = gamma^-(pick step - origin).

    Columns, all (arms,): weight_sum S and reward_sum X, sums of g and g r that lose 1/64 (`pull_memory`) at each credit
    of the arm; difference_sum and difference_weight, the discounted squared successive differences halved, and their
    weight; last_reward, of the last counted pull (NaN before the first); recent_mean, of the last 16 pulls or so.
    pool_sum and pool_weight: squared differences of all arms together.

    live (arms,): the arms whose pulls the index's log counts. drop_test: whether an arm whose recent mean is
    well below its mean is taken to have changed: it keeps 8.5 pulls at the recent mean, the others 30 % of theirs. Only
    for rewards that are independent: with an autocorrelation of 0.9 it fires 45 times in 10,000 pulls of nothing.

    What the index reads of an arm changes only when one of its pulls is counted, so it is worked out for the arms that
    changed since the last index, and an index of all arms is a few operations on whole columns.
    """

    def __init__(
        self,
        arms: int,
        gamma: float,
        live: BoolArray | None = None,
        *,
        pull_memory: float = PULL_MEMORY,
        drop_test: bool = False,
    ) -> None:
        self.gamma = gamma
        self.keep = 1.0 - 1.0 / pull_memory
        self.drop_test = drop_test
        self.period = rebase_period(gamma)
        self.origin = 0
        self._live: FloatArray = np.ones(arms) if live is None else live.astype(np.float64)
        self._live_count = max(1.0, float(np.sum(self._live)))
        self.weight_sum: FloatArray = np.zeros(arms)
        self.reward_sum: FloatArray = np.zeros(arms)
        self.difference_sum: FloatArray = np.zeros(arms)
        self.difference_weight: FloatArray = np.zeros(arms)
        self.last_reward: FloatArray = np.full(arms, np.nan)
        self.recent_mean: FloatArray = np.zeros(arms)
        self.pool_sum = 0.0
        self.pool_weight = 0.0
        # Worked out from the columns: the mean, and an arm's own part and the pool's part of its variance.
        self._mean: FloatArray = np.full(arms, UNCREDITED_MEAN)
        self._own: FloatArray = np.zeros(arms)
        self._pooled: FloatArray = np.ones(arms)
        self._weight_sums = cells(self.weight_sum)
        self._reward_sums = cells(self.reward_sum)
        self._difference_sums = cells(self.difference_sum)
        self._difference_weights = cells(self.difference_weight)
        self._last_rewards = cells(self.last_reward)
        self._recent_means = cells(self.recent_mean)
        self._means = cells(self._mean)
        self._owns = cells(self._own)
        self._pooleds = cells(self._pooled)
        self._outdated: set[int] = set()  # arms whose columns changed since
        self._work = np.empty((2, arms))

    def add(self, row: int, step: int, reward: float, penalty: float) -> bool:
        """Count a pull picked at `step`. The penalty lowers the mean; the noise is that of the bare rewards.

        Returns whether other arms changed too, because the test of a drop fired.
        """
        weight = self.gamma ** (self.origin - step)
        self._weight_sums[row] = total = self.keep * self._weight_sums[row] + weight
        self._reward_sums[row] = self.keep * self._reward_sums[row] + weight * (reward - penalty)
        last = self._last_rewards[row]
        if last == last:
            difference = (reward - last) * (reward - last) / 2.0
            self._difference_sums[row] = DIFFERENCE_DECAY * self._difference_sums[row] + difference
            self._difference_weights[row] = DIFFERENCE_DECAY * self._difference_weights[row] + 1.0
            self.pool_sum = POOL_DECAY * self.pool_sum + difference
            self.pool_weight = POOL_DECAY * self.pool_weight + 1.0
        self._last_rewards[row] = reward
        self._outdated.add(row)
        if self.drop_test:
            pulls = total / weight
            self._recent_means[row] += max(1.0 / pulls, RECENT_RATE) * (reward - self._recent_means[row])
            if pulls > RECENT_PULLS:
                return self._test(row, weight, pulls)
        return False

    def _test(self, row: int, weight: float, pulls: float) -> bool:
        """Forget most of what is known where an arm's recent mean is too far below its mean to be noise."""
        recent = self._recent_means[row]
        drop = self._reward_sums[row] / self._weight_sums[row] - recent
        log = math.log1p(pulls) + TEST_LOG
        variance = (self._difference_sums[row] + POOL_PULLS * self._pool()) / (
            self._difference_weights[row] + POOL_PULLS
        )
        spread = 2.0 * TEST_LEVEL * variance * log * (1.0 / RECENT_PULLS - 1.0 / pulls)
        if drop <= math.sqrt(spread) + TEST_RANGE * log / RECENT_PULLS:
            return False
        self.weight_sum *= OTHERS_KEEP
        self.reward_sum *= OTHERS_KEEP
        self._weight_sums[row] = KEPT_PULLS * weight
        self._reward_sums[row] = KEPT_PULLS * weight * recent
        self.outdate()
        return True

    def _pool(self) -> float:
        """Noise of a reward over all arms."""
        return (self.pool_sum + PRIOR_VARIANCE) / (self.pool_weight + 1.0)

    def outdate(self) -> None:
        """The columns of every arm may have changed, as after they were loaded."""
        self._outdated.update(range(len(self.weight_sum)))

    def _derive(self) -> None:
        """Work out what the index reads of the arms that changed; the same columns always give the same bits."""
        for row in self._outdated:
            weight_sum = self._weight_sums[row]
            self._means[row] = self._reward_sums[row] / weight_sum if weight_sum > 0.0 else UNCREDITED_MEAN
            known = self._difference_weights[row] + POOL_PULLS
            self._owns[row] = self._difference_sums[row] / known
            self._pooleds[row] = POOL_PULLS / known
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
        self.origin = origin
        self.outdate()

    def adopt(self, gamma: float, step: int) -> None:
        """Go on with sums that were weighted with another discount: at `step`, the new origin, both weigh 1.

        Means stay what they were; from here on everything ages with this estimator's gamma.
        """
        own, self.gamma = self.gamma, gamma
        self.rebase(step)
        self.gamma = own

    def mean(self) -> FloatArray:
        """Discounted mean reward (arms,), 0.5 before the first counted pull."""
        self._derive()
        return self._mean.copy()

    def variance(self) -> FloatArray:
        """Noise of a reward (arms,): the arm's own, with four pulls' worth of that of all arms."""
        self._derive()
        return self._own + self._pooled * self._pool()

    def effective_pulls(self, step: int) -> FloatArray:
        """n = S at the weight of `step` (arms,): it ages by the clock, and an arm's own pulls hold it under 64."""
        return self.weight_sum * self.gamma ** (step - self.origin)

    def common(self, step: int, pending: FloatArray) -> Common:
        """What the indices share at `step`. pending (arms,): pulls in flight, which count as pulls."""
        scale = self.gamma ** (step - self.origin)
        total = self.weight_sum.dot(self._live) * scale + pending.dot(self._live)
        return Common(scale, max(1.0, float(total)) / self._live_count, self._pool())

    def parts(self, common: Common, pending: FloatArray, xi: float, zeta: float) -> IndexParts:
        """The index of every arm and its parts, l_i = ln(1 + sum_j n_j / (K n_i)) over the live arms."""
        pulls = self.weight_sum * common.scale + pending
        log = np.log(1.0 + common.even / np.maximum(pulls, NO_PULLS))
        mean = self.mean()  # which works out `_own` and `_pooled` too
        return ucb_v(mean, self._own + self._pooled * common.noise, pulls, log, xi, zeta)

    def bound(
        self, common: Common, pending: FloatArray, xi: float, zeta: float, out: FloatArray
    ) -> FloatArray:
        """The index of every arm into `out` (arms,), as `parts` gives it but for rounding, without temporary arrays.

        An arm without a pull gets a finite number above UNSEEN. pending (arms,): pulls in flight, NO_PULLS for none.
        """
        if self._outdated:
            self._derive()
        multiply, add, (inverse, per_pull) = np.multiply, np.add, self._work
        multiply(self.weight_sum, common.scale, inverse)
        add(inverse, pending, inverse)
        np.reciprocal(inverse, inverse)
        multiply(inverse, common.even, per_pull)
        add(per_pull, 1.0, per_pull)
        np.log(per_pull, per_pull)
        multiply(per_pull, inverse, per_pull)
        multiply(self._pooled, common.noise, out)
        add(out, self._own, out)
        multiply(out, per_pull, out)
        multiply(out, 2.0 * xi, out)
        np.sqrt(out, out)
        multiply(per_pull, zeta, per_pull)
        add(out, per_pull, out)
        add(out, self._mean, out)
        return out
