"""The index: what each arm may be worth, from discounted rewards and the noise in them (DESIGN 4.1).

Variance-aware discounted UCB: the discounted mean of Garivier and Moulines (2011, arXiv:0805.3415), the
empirical-Bernstein width of Audibert, Munos and Szepesvari (2009, UCB-V), pulls in flight counted in the width
alone (Desautels, Krause and Burdick 2014, GP-BUCB), and a variance from successive differences (von Neumann
1941), which a slow trend does not inflate.
"""

import math

import numpy as np

from bandit.arms import BoolArray, FloatArray, IntArray

UNCREDITED_MEAN = 0.5
DIFFERENCE_DECAY = 0.98
PRIOR_VARIANCE = 0.02
LONGEST_REBASE = 4096
# The largest exponent of a squared weight, gamma^-(2 * period): e^600 leaves room under e^709 for sums of many.
LARGEST_EXPONENT = 600.0
# A sum of weights is not scaled below this: beside any new credit it counts nothing, and it never underflows.
SMALLEST_SUM = 1e-80


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


def ucb_v(
    mean: FloatArray, variance: FloatArray, pulls: FloatArray, log_total: float, xi: float, zeta: float
) -> FloatArray:
    """U = m + sqrt(2 xi v l / n) + zeta b l / n with reward range b = 1; +inf where n = 0.

    All arrays (arms,). pulls: effective pulls plus pulls in flight. With v = xi = 1, zeta = 0 and l = ln t this
    is UCB1 (Auer, Cesa-Bianchi and Fischer 2002).
    """
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        per_pull = log_total / pulls
        bound = mean + np.sqrt(2.0 * xi * variance * per_pull) + zeta * per_pull
    return np.where(pulls > 0.0, bound, np.inf)


class Estimator:
    """Discounted sums of each arm's counted pulls, weighted by g = gamma^-(pick step - origin).

    Columns, all (arms,): weight_sum S = sum g, weight_square_sum S2 = sum g^2, reward_sum X = sum g r;
    difference_sum and difference_weight, the discounted squared successive differences halved, and their weight;
    last_reward (NaN before the first) and last_step (0 before the first) of the last counted pull.
    """

    def __init__(self, arms: int, gamma: float) -> None:
        self.gamma = gamma
        self.period = rebase_period(gamma)
        self.origin = 0
        self.weight_sum: FloatArray = np.zeros(arms)
        self.weight_square_sum: FloatArray = np.zeros(arms)
        self.reward_sum: FloatArray = np.zeros(arms)
        self.difference_sum: FloatArray = np.zeros(arms)
        self.difference_weight: FloatArray = np.zeros(arms)
        self.last_reward: FloatArray = np.full(arms, np.nan)
        self.last_step: IntArray = np.zeros(arms, dtype=np.int64)

    def add(self, row: int, step: int, reward: float, penalty: float) -> None:
        """Count a pull picked at `step`. The penalty lowers the mean; the noise is that of the bare rewards."""
        weight = self.gamma ** (self.origin - step)
        self.weight_sum[row] += weight
        self.weight_square_sum[row] += weight * weight
        self.reward_sum[row] += weight * (reward - penalty)
        last = self.last_reward[row]
        if last == last:
            self.difference_sum[row] = (
                DIFFERENCE_DECAY * self.difference_sum[row] + (reward - last) ** 2 / 2.0
            )
            self.difference_weight[row] = DIFFERENCE_DECAY * self.difference_weight[row] + 1.0
        self.last_reward[row] = reward
        self.last_step[row] = step

    def charge(self, amounts: FloatArray, step: int) -> None:
        """Take `amounts` (arms,), in units of the weight of `step`, from the reward sums; pulls stay as they are."""
        self.reward_sum -= amounts * self.gamma ** (self.origin - step)

    def rebase(self, origin: int) -> None:
        """Move the origin of the weights forward to `origin`; means and effective pulls stay what they were."""
        scale = np.full(len(self.weight_sum), self.gamma ** (origin - self.origin))
        seen = self.weight_sum > 0.0
        scale[seen] = np.maximum(scale[seen], np.minimum(1.0, SMALLEST_SUM / self.weight_sum[seen]))
        self.weight_sum *= scale
        self.reward_sum *= scale
        self.weight_square_sum *= scale * scale
        self.origin = origin

    def adopt(self, gamma: float, step: int) -> None:
        """Go on with sums that were weighted with another discount: at `step`, the new origin, both weigh 1.

        Means stay what they were; from here on everything ages with this estimator's gamma.
        """
        own, self.gamma = self.gamma, gamma
        self.rebase(step)
        self.gamma = own

    def mean(self) -> FloatArray:
        """Discounted mean reward (arms,), 0.5 before the first counted pull."""
        mean = np.full(len(self.weight_sum), UNCREDITED_MEAN)
        np.divide(self.reward_sum, self.weight_sum, out=mean, where=self.weight_sum > 0.0)
        return mean

    def variance(self) -> FloatArray:
        """Noise of a reward (arms,), with one pull's worth of prior at 0.02."""
        return (self.difference_sum + PRIOR_VARIANCE) / (self.difference_weight + 1.0)

    def effective_pulls(self, step: int) -> FloatArray:
        """n = gamma^(step - last) S^2 / S2 (arms,): the variance of the discounted mean is v / n, and it ages."""
        kept = np.zeros(len(self.weight_sum))
        np.divide(self.weight_sum**2, self.weight_square_sum, out=kept, where=self.weight_square_sum > 0.0)
        ages = np.maximum(step - self.last_step, 0)
        return kept * np.power(self.gamma, ages.astype(np.float64))

    def index(self, step: int, pending: IntArray, live: BoolArray, xi: float, zeta: float) -> FloatArray:
        """U of every arm at `step` (arms,); the log counts the arms of `live` alone."""
        pulls = self.effective_pulls(step) + pending
        log_total = math.log1p(float(np.sum(pulls * live)))
        return ucb_v(self.mean(), self.variance(), pulls, log_total, xi, zeta)
