"""The books: everything a scheduler remembers, as columns and counters; how they are saved, loaded and shown."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bandit.arms import ArmSpec, ArmTable, BoolArray, FloatArray, IntArray, bounds_record, cells
from bandit.bounds import intervals, relax
from bandit.deadlines import Deadlines
from bandit.deal import Dealer, Tally
from bandit.errors import SnapshotMismatch
from bandit.index import NO_PULLS, Estimator, discount
from bandit.ledger import Ledger, Ticket
from bandit.packed import expand, pack_arms, pack_spans
from bandit.penalty import Trace
from bandit.policies import POLICIES
from bandit.ranking import Ranking
from bandit.reward import repetition_terms
from bandit.settings import SchedulerConfig
from bandit.snapshot import Record, dump_rows, load_row
from bandit.views import ArmView, Working, arm_views

# Arms up to which a state file holds a record each.
MOST_RECORDS = 1000


class Books:
    """The state of a `Scheduler`, which adds the verbs. Columns are (arms,), in the order of `ArmTable`."""

    def __init__(self, config: SchedulerConfig, arms: Sequence[ArmSpec]) -> None:
        self.config = config
        self.policy = POLICIES[config.policy]
        self.arms = ArmTable(arms, config.seed)
        count = len(self.arms)
        self.memory = config.memory or max(400, 96 * count, config.grad_accum)
        self.gamma = discount(self.memory, config.grad_accum)
        self._estimator = Estimator(count, self.gamma, self.arms.pullable, drop_test=config.drop_test)
        self._trace = Trace(count, self.gamma, self._estimator.keep)
        self._mixture = self.policy.weights is not None
        self._picks, self._windows = config.grad_accum, config.windows_per_pull
        self._tally: Tally
        if not self._mixture:
            self._deadlines = self._tally = Deadlines(count)
        else:
            self._dealer = self._tally = Dealer(count)
        self._ledger = Ledger(self.arms.names)
        self._cursor: IntArray = np.zeros(count, dtype=np.int64)
        self._pulls: IntArray = np.zeros(count, dtype=np.int64)
        self._pending: FloatArray = np.full(count, NO_PULLS)  # pulls in flight
        self._score: FloatArray = np.full(count, self.policy.score)
        self._weight: FloatArray = np.zeros(count)
        self._ranking = Ranking(self._estimator, self._pending, config.xi, config.zeta)
        self._awake: BoolArray = self.arms.pullable.copy()
        self._wake()
        self._step = 0  # of the last pick
        self._micro = config.grad_accum  # picks made in that step
        self._settled = 0  # every ticket of this step or before has been counted
        self._dwell_end = 0
        self._stale = True  # weights are refreshed at the next pick, whatever the dwell
        self._last_sample = 0
        self.keeps_working = False  # whether `_working` is kept at each refresh, for `explain`
        self._working: Working | None = None  # how the weights in force came about
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
            "penalty_trace": self._trace.sums,
        }
        if config.drop_test:
            self._columns["recent_mean"] = self._estimator.recent_mean
        if not self._mixture:
            own = self._deadlines
            self._columns |= {"share_floor": own.floor, "share_cap": own.cap}
            self._columns |= {"owed": own.owed, "allowed": own.allowed}
        if self.policy.learn is not None:
            self._columns["score"] = self._score

    def _wake(self) -> list[str]:
        """Recompute what depends on the awake set; returns what had to be relaxed."""
        self._rows: IntArray = np.flatnonzero(self._awake)
        names = [self.arms.specs[row].name for row in self._rows]
        self._low, self._high, messages = relax(
            self.arms.min_share[self._rows], self.arms.max_share[self._rows], names
        )
        self._floor, self._cap = self.arms.floor[self._rows], self.arms.cap[self._rows]
        return messages

    def _floors(self) -> FloatArray:
        """Floors of the awake arms as they bind now (awake arms,)."""
        if self.config.floors_override_repetition:
            return self._floor
        return self._floor * repetition_terms(self._cursor[self._rows], self.arms.windows[self._rows])[0]

    def _wear(self, row: int) -> None:
        """Work out what repetition takes from the mean of an arm of an argmax."""
        self._ranking.worn[row] = 1.0 / max(1.0, self._cursors[row] / max(1, self._sizes[row])) - 1.0

    def _wear_all(self) -> None:
        self._ranking.worn[:] = 0.0
        for row in np.flatnonzero(self._cursor > self.arms.windows).tolist():
            self._wear(row)

    def cursors(self) -> dict[int, int]:
        """Arm id to windows served, lifetime."""
        return {identity: self._cursors[row] for identity, row in self.arms.row.items()}

    def open_tickets(self) -> list[Ticket]:
        """Tickets not counted yet, in the order of their ids."""
        return [entry.ticket for entry in self._ledger]

    def exploration_total(self) -> float:
        """Sum of effective pulls and pulls in flight over the arms that can be pulled at all, which the log shares out."""
        pulls = self._estimator.effective_pulls(self._step) + self._pending
        return float(np.sum(pulls * self.arms.pullable))

    def views(self, step: int) -> list[ArmView]:
        """Every arm as it stands at `step`, in the order of ids."""
        low, high = np.zeros(len(self.arms)), np.zeros(len(self.arms))
        if len(self._rows) > 0:
            low[self._rows], high[self._rows] = intervals(self._floors(), self._cap, self._low, self._high)
        share = self._tally.served / max(1, int(np.sum(self._tally.served)))
        config, common = self.config, self._estimator.common(step, self._pending)
        parts = self._estimator.parts(common, self._pending, config.xi, config.zeta)
        columns = {
            "eligible": self._awake,
            "weight": self._weight,
            "share": share,
            "target": self._tally.shares if self._mixture else share,
            "share_low": low,
            "share_high": high,
            "pulls": self._pulls,
            "mean_reward": parts.mean,
            "index": parts.index,
        }
        return sorted(arm_views(self.arms.specs, self._cursor, columns), key=lambda view: view.id)

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

    def saved(self) -> dict[str, Any]:
        """The snapshot as a state file holds it: records for people, columns for more arms than people read."""
        return self.packed(text=True) if len(self.arms) > MOST_RECORDS else self.snapshot()

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
            **({} if self._mixture else self._argmax()),
        }

    def _argmax(self) -> dict[str, Any]:
        """What an argmax remembers beside."""
        return {"ranking": self._ranking.snapshot(self.arms.ids), "span_began": self._deadlines.since}

    @classmethod
    def restore(cls, config: SchedulerConfig, arms: Sequence[ArmSpec], snapshot: Mapping[str, Any]) -> Self:
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
        if not self._mixture:
            self._deadlines.since = record.whole("span_began")
        self._tally.restore(self.arms.row, record.rows("deals"))
        self._stale |= len(found) < len(self.arms) or not self._tally.in_force(self._awake)
        self._ledger.restore(
            record.rows("tickets"), record.whole("next_ticket"), record.whole("counted_ticket")
        )
        for entry in self._ledger:
            if entry.ticket.arm in self.arms.row:
                self._pending[self.arms.row[entry.ticket.arm]] += 1
        self._wear_all()
        if not self._mixture and not self._stale and gamma == self.gamma:
            self._ranking.restore(record.table("ranking"), self.arms.row)

    def _load_arm(self, row: int, record: Record) -> None:
        load_row(self._columns, row, record)
        mean = record.number_or_none("mean")
        estimator = self._estimator
        if mean is not None and mean != estimator.reward_sum[row] / (estimator.weight_sum[row] or 1.0):
            estimator.reward_sum[row] = mean * estimator.weight_sum[row]
        bounds = bounds_record(self.arms.specs[row])
        self._stale |= any(record.data.get(key) != value for key, value in bounds.items())
