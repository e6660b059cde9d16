"""The scheduler: issues a ticket for every pull, counts the rewards when they are due, and survives a restart exactly.

Picks are a pure function of the configuration, the arms' ids and data, and the rewards by pick step. Every sum and
every search runs over rows in an order that only (seed, id) decides, and a draw is a hash of (seed, purpose, step).

The arms are columns of numbers: a pick or a credit touches a few of them through views of single cells, a refresh of the
weights (a mixture, every dwell) or an index (an argmax, every pick) is a handful of operations on whole columns.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit.arms import ArmSpec, ArmTable, BoolArray, FloatArray, IntArray, bounds_record, cells
from bandit.bounds import intervals, relax, shares
from bandit.deadlines import Deadlines
from bandit.deal import Dealer, Tally
from bandit.errors import (
    CancelTooLate,
    NothingEligible,
    ShortfallOutOfRange,
    SnapshotMismatch,
    StepOutOfOrder,
    UnknownArm,
)
from bandit.hashing import Purpose, below
from bandit.index import NO_PULLS, Estimator, discount
from bandit.ledger import Entry, Ledger, Ticket
from bandit.packed import expand, pack_arms, pack_spans
from bandit.penalty import AGE_DECAY, Trace
from bandit.policies import POLICIES, Candidates, exploration
from bandit.reward import repetition_terms
from bandit.settings import SchedulerConfig
from bandit.snapshot import Record, dump_rows, load_row
from bandit.views import ArmView, Working, arm_view, working

NEVER = 1 << 62
__all__ = ["ArmSpec", "ArmView", "Scheduler", "SchedulerConfig", "Ticket"]


class Scheduler:
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

    def __init__(self, config: SchedulerConfig, arms: Sequence[ArmSpec]) -> None:
        self.config = config
        self.policy = POLICIES[config.policy]
        self.arms = ArmTable(arms, config.seed)
        count = len(self.arms)
        self.memory = config.memory or max(400, 96 * count, config.grad_accum)
        self.gamma = discount(self.memory, config.grad_accum)
        self._estimator = Estimator(count, self.gamma, self.arms.pullable, drop_test=config.drop_test)
        self._trace = Trace(count, self.gamma, self._estimator.keep)
        self._tally: Tally
        if self.policy.weights is None:
            self._deadlines = self._tally = Deadlines(count)
        else:
            self._dealer = self._tally = Dealer(count)
        self._ledger = Ledger(self.arms.names)
        self._cursor: IntArray = np.zeros(count, dtype=np.int64)
        self._pulls: IntArray = np.zeros(count, dtype=np.int64)
        self._pending: FloatArray = np.full(count, NO_PULLS)  # pulls in flight
        self._score: FloatArray = np.full(count, self.policy.score)
        self._weight: FloatArray = np.zeros(count)
        self._worn: FloatArray | None = None  # repetition penalty - 1, once a source has been read through
        self._awake: BoolArray = self.arms.pullable.copy()
        self._wake()
        self._step = 0  # of the last pick
        self._micro = config.grad_accum  # picks made in that step
        self._settled = 0  # every ticket of this step or before has been counted
        self._dwell_end = 0
        self._stale = True  # weights are refreshed at the next pick, whatever the dwell
        self._last_sample = 0
        self._working: Working | None = None  # of the weights in force, to be explained
        self._cursors, self._pull_counts = cells(self._cursor), cells(self._pulls)
        self._in_flight, self._scores = cells(self._pending), cells(self._score)
        self._sizes = self.arms.windows.tolist()
        # Every column of an arm's record in a snapshot that is state rather than configuration.
        self._columns: dict[str, NDArray[Any]] = {
            "eligible": self._awake,
            "cursor": self._cursor,
            "pulls": self._pulls,
            "weight": self._weight,
            "credit": self._tally.credit,
            "served": self._tally.served,
            "offered": self._tally.offered,
            "weight_sum": self._estimator.weight_sum,
            "reward_sum": self._estimator.reward_sum,
            "difference_sum": self._estimator.difference_sum,
            "difference_weight": self._estimator.difference_weight,
            "last_reward": self._estimator.last_reward,
            "last_step": self._estimator.last_step,
            "penalty_trace": self._trace.sums,
        }
        if config.drop_test:
            self._columns["recent_mean"] = self._estimator.recent_mean
        if self.policy.weights is None:
            self._columns |= {"share_floor": self._deadlines.floor, "share_cap": self._deadlines.cap}
        if self.policy.learn is not None:
            self._columns["score"] = self._score

    def _wake(self) -> list[str]:
        """Recompute what depends on the awake set; returns what had to be relaxed."""
        self._rows = np.flatnonzero(self._awake)
        names = [self.arms.specs[row].name for row in self._rows]
        self._low, self._high, messages = relax(
            self.arms.min_share[self._rows], self.arms.max_share[self._rows], names
        )
        return messages

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
            raise NothingEligible("no eligible arm has data and a cap above 0")
        self._stale |= restart or bool((awake != self._awake).any())
        self._awake[:] = awake
        if restart:
            self._tally.restart()
        return self._wake()

    def pick(self, step: int) -> Ticket:
        """Issue the next ticket of `step`.

        The first pick of a step counts the credits of tickets up to `step - delay`, in ticket order. StepOutOfOrder,
        MissingCredit, NothingEligible, with nothing changed.
        """
        self._open(step)
        row = self._dealer.deal() if self.policy.weights else self._deadlines.serve(self._bound)
        cursor = self._cursors[row]
        share = float(self._dealer.shares[row]) if self.policy.learn else None
        ticket = self._ledger.issue(step, self._micro, self.arms.ids[row], cursor, share)
        self._cursors[row] = cursor = cursor + self.config.windows_per_pull
        self._pull_counts[row] += 1
        self._in_flight[row] += 1.0
        if cursor > self._sizes[row] and not self.policy.weights:
            self._wear(row)
        self._micro += 1
        return ticket

    def _open(self, step: int) -> None:
        """What precedes the choice of a pick of `step`; done once, however often it is called before the pick."""
        if len(self._rows) == 0:
            raise NothingEligible("no eligible arm has data and a cap above 0")
        if step != self._step or self._micro == self.config.grad_accum:
            self._begin(step)
        if self._stale or step >= self._dwell_end:
            self._refresh(step)

    def _begin(self, step: int) -> None:
        """Open a step: count what is due, move the origin of the weights where the step says so."""
        if self._micro != self.config.grad_accum:
            raise StepOutOfOrder(f"step {step}: step {self._step} still lacks picks")
        if step != self._step + 1 and (self._step > 0 or step < 1):
            raise StepOutOfOrder(f"step {step} does not follow step {self._step}")
        due = self._ledger.due(step - self.config.delay)
        origin = step - step % self._estimator.period
        if origin > self._estimator.origin:
            self._estimator.rebase(origin)
            self._trace.rebase(origin)
        for entry in due:
            self._count(entry)
            self._ledger.close(entry)
        if due:
            self._tally.forget(self._ledger.oldest_open)
        self._settled = max(self._settled, step - self.config.delay)
        self._step, self._micro = step, 0

    def _count(self, entry: Entry) -> None:
        """Count a due ticket. A ticket of an arm that is gone, as after a prune, counts nothing."""
        row = self.arms.row.get(entry.ticket.arm)
        if row is None:
            return
        self._in_flight[row] = self._in_flight[row] - 1.0 or NO_PULLS
        if entry.reward is not None:
            ticket = entry.ticket
            self._estimator.add(row, ticket.step, entry.reward, entry.penalty)
            if ticket.step > self._last_sample:
                self._trace.fold(row, ticket.step)
            if self.policy.learn is not None and entry.share is not None:
                least = exploration(ticket.step, max(2, len(self.arms)))
                self._scores[row] = self.policy.learn(self._scores[row], entry.reward, entry.share, least)

    def _bound(self) -> FloatArray:
        """The index of every arm for the pick that is being made (arms,), repetition counted in the means."""
        config = self.config
        bound = self._estimator.bound(self._step, self._pending, config.xi, config.zeta)
        if self._worn is not None:
            bound += self._worn * self._estimator.mean()
        return bound

    def _wear(self, row: int) -> None:
        """Work out the repetition penalty of an arm of an argmax."""
        if self._worn is None:
            self._worn = np.zeros(len(self.arms))
        self._worn[row] = 1.0 / max(1.0, self._cursors[row] / max(1, self._sizes[row])) - 1.0

    def _refresh(self, step: int) -> None:
        """Draw a new dwell, and weights and shares for it; an argmax takes its bounds, and has no dwells."""
        config, rows = self.config, self._rows
        dealt, first = np.zeros(len(self.arms)), self._ledger.next_id
        if self.policy.weights is None:
            low, high = intervals(self._floors(), self.arms.cap[rows], self._low, self._high)
            greatest = np.zeros(len(self.arms))
            dealt[rows], greatest[rows] = low, high
            self._deadlines.set_bounds(first, self._awake, dealt, greatest)
            self._worn = None
            for row in np.flatnonzero(self._cursor > self.arms.windows).tolist():
                self._wear(row)
        else:
            weights = self._weights(step)
            dealt[rows] = shares(weights, self._low, self._high)
            self._weight[:] = 0.0
            self._weight[rows] = weights
            self._dealer.begin(first, self._awake, dealt)
        least, most = config.dwell
        self._dwell_end = step + least + below(most - least + 1, config.seed, Purpose.DWELL, step)
        if self.policy.weights is None and config.floors_override_repetition:
            self._dwell_end = NEVER  # its bounds only change with the arms
        self._stale = False

    def _weights(self, step: int) -> FloatArray:
        """The weights of the awake arms for a dwell (awake arms,), within their floors and caps."""
        assert self.policy.weights is not None
        config, rows = self.config, self._rows
        parts = self._estimator.parts(step, self._pending, config.xi, config.zeta)
        candidates = Candidates(
            step=step,
            index=parts.index[rows],
            score=self._score[rows],
            windows=self.arms.windows[rows],
            focus_size=config.focus_size,
            background=config.background,
            temperature=config.temperature,
        )
        weights = raw = self.policy.weights(candidates)
        if self.policy.repetition:
            penalty, bonus = repetition_terms(self._cursor[rows], self.arms.windows[rows])
            weights = weights * penalty * bonus
        floors = self._floors()
        self._working = working(step, rows, parts, self._cursor, raw=raw, repeated=weights, floor=floors)
        return np.minimum(self.arms.cap[rows], np.maximum(floors, weights))

    def _floors(self) -> FloatArray:
        """Floors of the awake arms as they bind now (awake arms,)."""
        floor = self.arms.floor[self._rows]
        if self.config.floors_override_repetition:
            return floor
        return floor * repetition_terms(self._cursor[self._rows], self.arms.windows[self._rows])[0]

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
        return cancelled

    def cursors(self) -> dict[int, int]:
        """Arm id to windows served, lifetime."""
        return {identity: self._cursors[row] for identity, row in self.arms.row.items()}

    def open_tickets(self) -> list[Ticket]:
        """Tickets not counted yet, in the order of their ids."""
        return [entry.ticket for entry in self._ledger]

    def exploration_total(self) -> float:
        """Sum of effective pulls and pulls in flight over the arms that can be pulled at all; 4.1's log is of 1 + it."""
        pulls = self._estimator.effective_pulls(self._step) + self._pending
        return float(np.sum(pulls * self.arms.pullable))

    def views(self, step: int) -> list[ArmView]:
        """Every arm as it stands at `step`, in the order of ids."""
        low, high = np.zeros(len(self.arms)), np.zeros(len(self.arms))
        if len(self._rows) > 0:
            low[self._rows], high[self._rows] = intervals(
                self._floors(), self.arms.cap[self._rows], self._low, self._high
            )
        share = self._tally.served / max(1, int(np.sum(self._tally.served)))
        parts = self._estimator.parts(step, self._pending, self.config.xi, self.config.zeta)
        columns = {
            "eligible": self._awake,
            "weight": self._weight,
            "share": share,
            "target": self._tally.shares if self.policy.weights else share,
            "share_low": low,
            "share_high": high,
            "pulls": self._pulls,
            "mean_reward": parts.mean,
            "index": parts.index,
        }
        views = [
            arm_view(spec, self._cursors[row], {key: column[row].item() for key, column in columns.items()})
            for row, spec in enumerate(self.arms.specs)
        ]
        return sorted(views, key=lambda view: view.id)

    def explain(self, step: int) -> dict[str, Any]:
        """What decides the next pick, of `step`, as plain data; see `bandit.explain.explain`.

        Counts what is due and draws new weights where they are due, as `pick` itself would first: it changes no
        pick. Raises as `pick` does. `working` is None in a mixture until the first refresh after `restore`: no
        snapshot holds how the weights in force came about.
        """
        self._open(step)
        self._tally.fold()
        tally, found = self._tally, self._working
        columns = {"eligible": self._awake, "weight": self._weight, "served": tally.served}
        if self.policy.weights is None:
            config, total = self.config, int(np.sum(tally.served))
            parts = self._estimator.parts(step, self._pending, config.xi, config.zeta)
            worn = np.zeros(len(self.arms)) if self._worn is None else self._worn * parts.mean
            found = working(step, self._rows, parts, self._cursor, worn=worn[self._rows])
            columns |= {
                "share_low": self._deadlines.floor,
                "share_high": self._deadlines.cap,
                "urgent": self._awake & (self._deadlines.floor * (tally.offered + 1) > tally.served),
                "shut": self._awake & (tally.served > self._deadlines.cap * (total + 1)),
            }
        else:
            columns |= {"share": tally.shares, "credit": tally.credit + tally.shares}
        return {
            "micro": self._micro,
            "until": self._dwell_end,
            "arms": {key: column.tolist() for key, column in columns.items()},
            "working": found.as_dict(len(self.arms)) if found else None,
        }

    def snapshot(self) -> dict[str, Any]:
        """All of the state as plain, finite, JSON-able data; `restore` gives back the same scheduler bit for bit.

        `arms` maps each name to its record, to be read and edited: an edit of `mean` wins over `reward_sum`, and
        bounds and windows are shown here but taken from the arms given to `restore`.
        """
        self._tally.fold()
        counted = self._estimator.weight_sum > 0.0
        means = [
            mean if seen else None
            for mean, seen in zip(self._estimator.mean().tolist(), counted, strict=True)
        ]
        records = {
            spec.name: {"id": spec.id, **bounds_record(spec), **row, "mean": mean}
            for spec, row, mean in zip(self.arms.specs, dump_rows(self._columns), means, strict=True)
        }
        return {"arms": records, "deals": self._tally.snapshot_spans(self.arms.ids), **self._rest()}

    def packed(self, *, text: bool) -> dict[str, Any]:
        """The snapshot with columns instead of records, for thousands of arms; `bandit.packed.expand` undoes it.

        text: columns as base64, as JSON needs them; otherwise bytes, as MessagePack takes them.
        """
        self._tally.fold()
        mean = np.where(self._estimator.weight_sum > 0.0, self._estimator.mean(), np.nan)
        columns = {**self.arms.columns, **self._columns, "mean": mean}
        return {
            "packed": pack_arms(list(self.arms.names.values()), columns, text=text),
            "deals": pack_spans(self._tally.spans, text=text),
            **self._rest(),
        }

    def _rest(self) -> dict[str, Any]:
        """What a snapshot holds beside arms and spans."""
        return {
            "step": self._step,
            "micro": self._micro,
            "settled_step": self._settled,
            "origin": self._estimator.origin,
            "gamma": self.gamma,
            "pool_sum": self._estimator.pool_sum,
            "pool_weight": self._estimator.pool_weight,
            "dwell_end": self._dwell_end,
            "refresh": self._stale,
            "last_sample_step": self._last_sample,
            "next_ticket": self._ledger.next_id,
            "counted_ticket": self._ledger.counted,
            "tickets": self._ledger.snapshot(),
        }

    @classmethod
    def restore(
        cls, config: SchedulerConfig, arms: Sequence[ArmSpec], snapshot: Mapping[str, Any]
    ) -> "Scheduler":
        """The scheduler that `snapshot` describes, bound by `arms`, which are matched by id.

        SnapshotMismatch for an arm of the snapshot that is not in `arms`, or a field that cannot be read. An arm that
        the snapshot lacks starts new, and awake if it can be pulled. Changed bounds, windows or arms refresh the
        weights at the next pick; to restart credits and counts for them is the caller's part (`set_eligible`). Open
        tickets of arms that are gone stay open, to be credited or cancelled, and count nothing.
        """
        scheduler = cls(config, arms)
        scheduler._load(Record(expand(snapshot)))
        return scheduler

    def _load(self, record: Record) -> None:
        records = record.table("arms")
        found: set[int] = set()
        self._stale = record.flag("refresh")
        for name in records:
            arm = records.table(name)
            identity = arm.whole("id")
            row = self.arms.row.get(identity)
            if row is None:
                raise SnapshotMismatch(
                    f"{name}: in the state with id {identity}, but not among the arms", arm=name
                )
            if identity in found:
                raise arm.wrong("id", "an id that no other arm has")
            found.add(identity)
            self._load_arm(row, arm)
        self._awake &= self.arms.pullable
        self._wake()
        self._step, self._micro = record.whole("step"), record.whole("micro")
        if self._micro > self.config.grad_accum:
            raise record.wrong("micro", f"at most the {self.config.grad_accum} picks of a step")
        self._settled = record.whole("settled_step")
        self._estimator.origin = self._trace.origin = record.whole("origin")
        gamma = record.number("gamma")
        if not 0.0 < gamma < 1.0:
            raise record.wrong("gamma", "a discount between 0 and 1")
        if gamma != self.gamma:  # the default memory follows the number of arms
            self._estimator.adopt(gamma, self._step)
            self._trace.adopt(gamma, self._step)
        self._estimator.pool_sum = record.number("pool_sum")
        self._estimator.pool_weight = record.number("pool_weight")
        self._dwell_end = record.whole("dwell_end")
        self._last_sample = record.whole("last_sample_step")
        self._estimator.outdate()
        self._tally.restore(self.arms.row, record.rows("deals"))
        self._stale |= len(found) < len(self.arms) or not self._tally.in_force(self._awake)
        self._ledger.restore(
            record.rows("tickets"), record.whole("next_ticket"), record.whole("counted_ticket")
        )
        for entry in self._ledger:
            if entry.ticket.arm in self.arms.row:
                self._pending[self.arms.row[entry.ticket.arm]] += 1
        for row in np.flatnonzero(self._cursor > self.arms.windows).tolist():
            self._wear(row)

    def _load_arm(self, row: int, record: Record) -> None:
        load_row(self._columns, row, record)
        mean = record.number_or_none("mean")
        estimator = self._estimator
        if mean is not None and mean != estimator.reward_sum[row] / (estimator.weight_sum[row] or 1.0):
            estimator.reward_sum[row] = mean * estimator.weight_sum[row]
        bounds = bounds_record(self.arms.specs[row])
        self._stale |= any(record.data.get(key) != value for key, value in bounds.items())
