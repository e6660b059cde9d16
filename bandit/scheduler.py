"""The scheduler: issues a ticket for every pull, counts the rewards when they are due, and survives a restart exactly.

Picks are a pure function of the configuration, the arms' ids and data, and the rewards by pick step. Every sum and
every search runs over rows in an order that only (seed, id) decides, and a draw is a hash of (seed, purpose, step).

The arms are columns of numbers: a pick or a credit touches a few of them through views of single cells, a refresh of the
weights (a mixture, every dwell) or an index (an argmax, every pick) is a handful of operations on whole columns.
"""

from collections.abc import Collection
from typing import Any

import numpy as np

from bandit.arms import ArmSpec, FloatArray
from bandit.books import Books
from bandit.bounds import fill, intervals
from bandit.errors import CancelTooLate, NothingEligible, ShortfallOutOfRange, StepOutOfOrder, UnknownArm
from bandit.hashing import Purpose, below
from bandit.index import NO_PULLS
from bandit.ledger import Entry, Ticket
from bandit.penalty import AGE_DECAY
from bandit.policies import Candidates, exploration
from bandit.reward import repetition_terms
from bandit.settings import SchedulerConfig
from bandit.views import ArmView, working

__all__ = ["ArmSpec", "ArmView", "Scheduler", "SchedulerConfig", "Ticket"]

NEVER = 1 << 62


class Scheduler(Books):
    """Deals pulls among arms. All arms that can be pulled are awake at first.

    A step: `pick(step)` grad_accum times, steps in order; `credit` each ticket before the pick that counts it.

    >>> config = SchedulerConfig(seed=1, grad_accum=2, windows_per_pull=8, delay=1)
    >>> scheduler = Scheduler(config, [ArmSpec("books", 10, windows=100), ArmSpec("code", 11, windows=100)])
    >>> tickets = [scheduler.pick(1), scheduler.pick(1)]
    >>> for ticket in tickets:
    ...     scheduler.credit(ticket.id, 0.5)
    >>> scheduler.pick(2).id
    3
    """

    def set_eligible(self, ids: Collection[int], *, restart: bool = False) -> list[str]:
        """Let exactly these arms be pulled, less those capped at 0 or without data; returns what was relaxed.

        A change refreshes the weights at the next pick; the same set again changes nothing. restart zeroes credits
        and the counts since the last restart. UnknownArm, NothingEligible, with nothing changed.
        """
        awake = np.zeros(len(self.arms), dtype=np.bool_)
        for identity in ids:
            if identity not in self.arms.row:
                raise UnknownArm(f"no arm has the id {identity}")
            awake[self.arms.row[identity]] = True
        awake &= self.arms.pullable
        if not awake.any():
            raise self._nobody([self.arms.names[identity] for identity in ids])
        if restart or bool((awake != self._awake).any()):
            self._stale = True
            self._ranking.renew()
        self._awake[:] = awake
        if restart:
            self._tally.restart()
        return self._wake()

    def _nobody(self, names: list[str]) -> NothingEligible:
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        return NothingEligible(f"no eligible arm has data and a cap above 0: {', '.join(names[:10])}{more}")

    def pick(self, step: int) -> Ticket:
        """Issue the next ticket of `step`.

        The first pick of a step counts the credits of tickets up to `step - delay`, in ticket order. StepOutOfOrder,
        MissingCredit, NothingEligible, with nothing changed.
        """
        if step != self._step or self._stale or step >= self._dwell_end or self._micro == self._picks:
            self._open(step)
        if self._mixture:
            return self._issue(step, self._dealer.deal(1))[0]
        row = self._deadlines.serve(self._rank)
        (ticket,) = self._issue(step, [row])
        self._ranking.touch(row)
        if self._cursors[row] > self._sizes[row]:
            self._wear(row)
        return ticket

    def pick_all(self, step: int) -> list[Ticket]:
        """The tickets of `step` that are left, as so many calls of `pick` give them; a mixture deals them faster."""
        if not self._mixture:
            first = self.pick(step)
            return [first, *(self.pick(step) for _ in range(self._picks - self._micro))]
        if step != self._step or self._stale or step >= self._dwell_end or self._micro == self._picks:
            self._open(step)
        return self._issue(step, self._dealer.deal(self._picks - self._micro))

    def _issue(self, step: int, rows: list[int]) -> list[Ticket]:
        """Tickets of `step` for pulls of the arms of `rows`, in this order."""
        cursors, windows, pulls, in_flight = self._cursors, self._windows, self._pull_counts, self._in_flight
        ids, issue = self.arms.ids, self._ledger.issue
        shares = self._dealer.shares if self.policy.learn else None
        micro = self._micro
        tickets = []
        for row in rows:
            cursor = cursors[row]
            share = None if shares is None else float(shares[row])
            tickets.append(issue(step, micro, ids[row], cursor, share))
            cursors[row] = cursor + windows
            pulls[row] += 1
            in_flight[row] += 1.0
            micro += 1
        self._micro = micro
        return tickets

    def _open(self, step: int) -> None:
        """What precedes the choice of a pick of `step`; done once, however often it is called before the pick."""
        if len(self._rows) == 0:
            raise self._nobody(list(self.arms.names.values()))
        if step != self._step or self._micro == self._picks:
            self._begin(step)
        if self._stale or step >= self._dwell_end:
            self._refresh(step)

    def _begin(self, step: int) -> None:
        """Open a step: count what is due, move the origin of the weights where the step says so."""
        if self._micro != self._picks:
            raise StepOutOfOrder(f"step {step}: step {self._step} still lacks picks")
        if step != self._step + 1 and (self._step > 0 or step < 1):
            raise StepOutOfOrder(f"step {step} does not follow step {self._step}")
        settled = step - self.config.delay
        due = self._ledger.due(settled)
        origin = step - step % self._estimator.period
        if origin > self._estimator.origin:
            self._estimator.rebase(origin)
            self._trace.rebase(origin)
            self._ranking.renew()
        for entry in due:
            self._count(entry)
        if due:
            self._ledger.close(due)
            self._tally.forget(self._ledger.oldest_open)
        if settled > self._settled:
            self._settled = settled
        self._step, self._micro = step, 0

    def _count(self, entry: Entry) -> None:
        """Count a due ticket. A ticket of an arm that is gone, as after a prune, counts nothing."""
        ticket, reward = entry.ticket, entry.reward
        row = self.arms.row.get(ticket.arm)
        if row is None:
            return
        self._in_flight[row] = self._in_flight[row] - 1.0 or NO_PULLS
        if not self._mixture:
            self._ranking.touch(row)
        if reward is None:
            return
        if self._estimator.add(row, ticket.step, reward, entry.penalty):
            self._ranking.renew()
        if ticket.step > self._last_sample:
            self._trace.fold(row, ticket.step)
        if self.policy.learn and entry.share is not None:
            least = exploration(ticket.step, max(2, len(self.arms)))
            self._scores[row] = self.policy.learn(self._scores[row], reward, entry.share, least)

    def _rank(self) -> FloatArray:
        return self._ranking.index(self._step)

    def _refresh(self, step: int) -> None:
        """Draw a new dwell, and weights and shares for it; an argmax takes its bounds, and has no dwells."""
        config, rows = self.config, self._rows
        dealt, first = np.zeros(len(self.arms)), self._ledger.next_id
        if not self._mixture:
            low, high = intervals(self._floors(), self._cap, self._low, self._high)
            greatest = np.zeros(len(self.arms))
            dealt[rows], greatest[rows] = low, high
            self._deadlines.set_bounds(first, self._awake, dealt, greatest)
            self._wear_all()
            self._ranking.renew()
        else:
            weights = self._weights(step)
            dealt[rows] = fill(weights, self._low, self._high)
            self._weight[:] = 0.0
            self._weight[rows] = weights
            self._dealer.begin(first, self._awake, dealt)
        least, most = config.dwell
        self._dwell_end = step + least + below(most - least + 1, config.seed, Purpose.DWELL, step)
        if not self._mixture and config.floors_override_repetition:
            self._dwell_end = NEVER  # its bounds only change with the arms
        self._stale = False

    def _weights(self, step: int) -> FloatArray:
        """The weights of the awake arms for a dwell (awake arms,), within their floors and caps."""
        assert self.policy.weights is not None
        config, rows = self.config, self._rows
        estimator, pending = self._estimator, self._pending
        common = estimator.common(step, pending)
        index = estimator.bound(common, pending, config.xi, config.zeta, np.empty(len(pending)))
        candidates = Candidates(
            step=step,
            index=index[rows],
            score=self._score[rows],
            windows=self.arms.windows[rows],
            focus_size=config.focus_size,
            background=config.background,
            temperature=config.temperature,
        )
        weights = raw = self.policy.weights(candidates)
        if self.policy.repetition:
            penalty, bonus = repetition_terms(self._cursor[rows], candidates.windows)
            weights = weights * penalty * bonus
        floors = self._floors()
        if self.keeps_working:
            parts = estimator.parts(common, pending, config.xi, config.zeta)
            self._working = working(step, rows, parts, self._cursor, raw=raw, repeated=weights, floor=floors)
        return np.minimum(self._cap, np.maximum(floors, weights))

    def credit(self, ticket_id: int, reward: float | None) -> None:
        """Hand in a ticket's reward in [0, 1], or None for a pull that is void and counts nothing.

        Held until it is due. UnknownTicket, CreditedTwice, NonFiniteReward, RewardOutOfRange, with nothing changed.
        """
        self._ledger.credit(ticket_id, reward)

    def penalize(self, step: int, shortfall: float) -> dict[str, float]:
        """Charge a sample drawn after `step`: every pull since the last sample loses shortfall * 0.98^age.

        To be called at every sample, with 0 for a good one, so that the next one knows where to begin. Pulls whose
        credit is not counted yet carry their part and lose it when it is: the result is the same whenever their
        credits arrive, and a pull that turns out void loses nothing. Pull counts stay as they are. Returns arm name
        to its change, in units of the weight of `step`; the sum is minus the sum over the pulls. A second call for
        the same step finds no pulls. ShortfallOutOfRange, StepOutOfOrder.
        """
        if not 0.0 <= shortfall <= 1.0:
            raise ShortfallOutOfRange(f"step {step}: shortfall {shortfall} is outside [0, 1]")
        earliest = max(self._settled, self._last_sample)
        if not earliest <= step <= self._step:
            raise StepOutOfOrder(f"a sample of step {step} is not within steps {earliest} to {self._step}")
        charged = shortfall * self._trace.take(step)
        self._estimator.charge(charged, step)
        self._ranking.renew()
        for entry in self._ledger:
            age = step - entry.ticket.step
            row = self.arms.row.get(entry.ticket.arm)
            void = entry.credited and entry.reward is None
            if row is not None and not void and self._last_sample < entry.ticket.step <= step:
                entry.penalty = shortfall * AGE_DECAY**age
                charged[row] += entry.penalty * self.gamma**age
        self._last_sample = step
        return {self.arms.specs[row].name: -float(charged[row]) for row in np.flatnonzero(charged)}

    def cancel_from(self, step: int) -> list[Ticket]:
        """Take back every ticket of `step` or later, as if it had not been picked; the next pick is for `step`.

        Cursors, pull counts, credits and pulls in flight go back, and weights are refreshed at the next pick. Ids are
        not used again. What later picks counted stays counted. CancelTooLate if a ticket of `step` is counted.
        """
        if step <= self._settled:
            raise CancelTooLate(f"step {step}: steps up to {self._settled} are counted already")
        cancelled = self._ledger.cancel_from(step)
        for ticket in reversed(cancelled):
            row = self.arms.row.get(ticket.arm)
            if row is not None:
                # min: a cursor that was set back since, as by changed data, stays where it was set.
                self._cursor[row] = min(int(self._cursor[row]), ticket.window)
                self._pulls[row] -= 1
                self._in_flight[row] = self._in_flight[row] - 1.0 or NO_PULLS
                self._tally.undo(ticket.id, row)
        if self._step >= step:
            self._step, self._micro = step - 1, self.config.grad_accum
            self._stale = True
            self._ranking.renew()
        return cancelled

    def explain(self, step: int) -> dict[str, Any]:
        """What decides the next pick, of `step`, as plain data; see `bandit.explain.explain`.

        Counts what is due and draws new weights where they are due, as `pick` itself would first: it changes no
        pick. Raises as `pick` does. `working` is None in a mixture until the first refresh after `restore`, or after
        `keeps_working` was set (which this does): no snapshot holds how the weights in force came about.
        """
        self.keeps_working = True
        self._open(step)
        self._tally.fold()
        tally, found = self._tally, self._working
        columns = {"eligible": self._awake, "weight": self._weight, "served": tally.served}
        if not self._mixture:
            parts = self._ranking.parts(step)
            worn = self._ranking.worn * parts.mean
            found = working(step, self._rows, parts, self._cursor, worn=worn[self._rows])
            columns |= {
                "share_low": self._deadlines.floor,
                "share_high": self._deadlines.cap,
                "urgent": self._awake & self._deadlines.urgent(),
                "shut": self._awake & self._deadlines.shut(),
            }
        else:
            columns |= {"share": tally.shares, "credit": tally.credit + tally.shares}
        return {
            "micro": self._micro,
            "until": self._dwell_end,
            "arms": {key: column.tolist() for key, column in columns.items()},
            "working": found.as_dict(len(self.arms)) if found else None,
        }
