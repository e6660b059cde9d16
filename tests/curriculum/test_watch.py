"""Losses and streaks by source: what is memorised, which source low samples follow, and that a resume forgets nothing."""

import json
import math
import random
from collections.abc import Callable, Sequence
from typing import cast

import pytest

from curriculum.gate.audits import Audit, Audits
from curriculum.gate.judge import Judge
from curriculum.gate.rule import Gate
from curriculum.gate.watch import LEAST_PULLS, Tail, Watch

NAMES = {0: "chat", 1: "docs"}


def fed(watch: Watch, draw: random.Random, pulls: dict[int, tuple[int, float]], *, low: bool) -> None:
    """Some pulls an arm with losses around a mean, then a sample."""
    for arm, (count, mean) in pulls.items():
        for _ in range(count):
            watch.pull(arm, draw.gauss(mean, 0.2))
    watch.verdict(low=low)


def test_one_in_a_thousand_is_under_the_quantile() -> None:
    draw, tail = random.Random(0), Tail()
    low = sum(tail.take(draw.gauss(3.0, 0.3)) for _ in range(50_000))
    assert 10 <= low <= 150
    assert tail.take(0.13)


def test_a_falling_loss_is_not_memorisation() -> None:
    draw, watch = random.Random(1), Watch()
    for at in range(300):
        fed(watch, draw, {0: (8, 6.0 - 0.012 * at), 1: (8, 5.0 - 0.01 * at)}, low=False)
        assert watch.alarms(NAMES) == []


def test_a_source_that_turns_into_a_recitation_is_named() -> None:
    draw, watch = random.Random(2), Watch()
    for _ in range(20):
        fed(watch, draw, {0: (8, 3.0), 1: (8, 3.0)}, low=False)
    for _ in range(2):
        fed(watch, draw, {0: (8, 3.0), 1: (8, 0.13)}, low=False)
    (line,) = watch.alarms(NAMES)
    assert line.startswith("source docs is being memorised")
    assert watch.verdict(low=False).as_dict(NAMES)["memorised"] == ["docs"]  # nothing was fed since
    for _ in range(40):  # 200 points, one a pull
        fed(watch, draw, {0: (8, 3.0), 1: (8, 3.0)}, low=False)
    assert watch.alarms(NAMES) == []


def test_a_source_near_zero_is_memorised_however_slowly_it_went_there() -> None:
    draw, watch = random.Random(3), Watch()
    for at in range(400):
        fed(watch, draw, {0: (8, 3.0), 1: (8, max(0.1, 3.0 - 0.01 * at))}, low=False)
    assert len(watch.alarms(NAMES)) == 1
    assert "source docs" in watch.alarms(NAMES)[0]


def test_streaks_follow_the_source_that_was_fed() -> None:
    draw, watch = random.Random(4), Watch()
    for _ in range(5):
        fed(watch, draw, {0: (2, 3.0), 1: (14, 3.0)}, low=True)
        fed(watch, draw, {0: (14, 3.0), 1: (2, 3.0)}, low=False)
    assert watch.verdict(low=False).as_dict(NAMES)["streaks"] == {"docs": 5}
    assert watch.alarms(NAMES) == ["source docs: the last 5 samples drawn after it was fed were low"]
    fed(watch, draw, {0: (2, 3.0), 1: (14, 3.0)}, low=False)
    assert watch.alarms(NAMES) == []


def test_a_sample_s_own_loss() -> None:
    draw, watch = random.Random(5), Watch()
    for _ in range(LEAST_PULLS):
        assert watch.sample_loss(draw.gauss(2.0, 0.3)) == (None, False)
    floor, low = watch.sample_loss(2.0)
    assert floor is not None
    assert 0.3 < floor < 1.8
    assert not low
    assert watch.sample_loss(0.13)[1]
    assert watch.sample_loss(float("nan")) == (None, False)


def test_saved_and_restored_anywhere_it_goes_on_alike() -> None:
    for cut in (0, 3, 77, 400):
        draw, straight, resumed = random.Random(6), Watch(), Watch()
        events = [
            (draw.randrange(2), 0.1 if 50 < at < 90 else draw.gauss(3.0, 0.4), draw.random() < 0.1)
            for at in range(600)
        ]
        said: list[list[object]] = [[], []]
        for side, watch in enumerate((straight, resumed)):
            for at, (arm, loss, sample) in enumerate(events):
                if side == 1 and at == cut:
                    saved = json.loads(json.dumps(watch.snapshot()))
                    watch = Watch()
                    watch.restore(saved, NAMES)
                watch.pull(arm, loss)
                if sample:
                    said[side].append(
                        (watch.sample_loss(loss), watch.verdict(low=loss < 2.6), watch.alarms(NAMES))
                    )
        assert said[0] == said[1]


def test_an_arm_that_is_gone_is_forgotten() -> None:
    watch = Watch()
    watch.pull(7, 3.0)
    other = Watch()
    other.restore(watch.snapshot(), NAMES)
    assert other.snapshot() == Watch().snapshot()
    other.restore({}, NAMES)  # a state from before losses were watched
    assert other.snapshot() == Watch().snapshot()


def test_an_audit_raises_an_alarm_by_the_rules_and_halts_only_where_it_may() -> None:
    for halting in ((), ("local_coherence",)):
        gate = Gate(audit_halt=halting)
        kinds = [gate.observe(100 * at, 99.0, ("local_coherence",)).kind for at in range(1, 6)]
        assert kinds == (["low"] * 4 + ["halt"] if halting else ["pass"] * 5)
        assert gate.alarms() == [
            "audit local_coherence: 5 samples in a row were found by it, from step 100 to 500"
        ]
        saved = json.loads(json.dumps(gate.snapshot()))
        again = Gate(audit_halt=halting)
        again.restore(saved)
        assert (again.alarms(), again.snapshot()) == (gate.alarms(), saved)
        for at in range(6, 60):
            gate.observe(100 * at, 99.0)
        assert gate.alarms() == []
        assert gate.snapshot()["audits"] == {}


def test_scores_and_audits_are_counted_together() -> None:
    gate = Gate(audit_halt=("local_coherence", "script_share"))
    seen = [
        (10.0, ()),
        (99.0, ("local_coherence",)),
        (99.0, ("script_share",)),
        (10.0, ()),
        (99.0, ("local_coherence",)),
    ]
    verdicts = [gate.observe(100 * at, score, found) for at, (score, found) in enumerate(seen, 1)]
    assert [verdict.kind for verdict in verdicts] == ["low"] * 4 + ["halt"]
    assert verdicts[2].reason == "score 99.0 at or over 30; script_share found something"
    assert verdicts[4].reason == (
        "5 samples in a row scored under 30 or were found by local_coherence, script_share, from step 100 to 500"
    )


def test_the_tally_sees_a_share_that_stays_under_both_other_rules() -> None:
    """Two low samples of every seven: never three in a row, never eight of sixteen."""
    gate = Gate()
    kinds = [gate.observe(100 * at, 12.0 if at % 7 in (1, 4) else 80.0).kind for at in range(1, 60)]
    assert "halt" in kinds
    reason = next(v.reason for at in range(60, 61) if (v := gate.observe(100 * at, 12.0)).kind == "halt")
    assert "a tally of" in reason
    quiet = Gate(tally=0)
    assert "halt" not in [
        quiet.observe(100 * at, 12.0 if at % 7 in (1, 4) else 80.0).kind for at in range(1, 400)
    ]


def test_a_state_from_before_the_tally_begins_it_with_its_window() -> None:
    gate = Gate()
    for at in range(1, 10):
        gate.observe(100 * at, 12.0 if at % 3 == 0 else 80.0)
    old = {key: gate.snapshot()[key] for key in ("streak", "since", "recent")}
    again = Gate()
    again.restore(old)
    assert again.snapshot() == gate.snapshot()


def test_blame_falls_on_what_was_fed_before_low_samples() -> None:
    draw, watch = random.Random(7), Watch()
    assert watch.blame() == {}
    for _ in range(4):
        fed(watch, draw, {0: (10, 3.0), 1: (6, 3.0), 2: (4, 3.0)}, low=False)
        fed(watch, draw, {0: (2, 3.0), 1: (14, 3.0), 2: (4, 3.0)}, low=True)
    assert watch.blame() == {1: 0.7}
    for _ in range(16):  # low whatever is fed: what is fed most
        fed(watch, draw, {0: (10, 3.0), 1: (6, 3.0), 2: (4, 3.0)}, low=True)
    assert watch.blame() == {0: 0.5}


class Salad:
    """Audits that find word salad in "salad", and judge nothing else of a text."""

    def judge(self, text: str, ids: Sequence[int] = ()) -> Audit:
        why = {"local_coherence": "..."} if text == "salad" else {}
        value = None if text == "short" else -1.0 if why else 1.0
        return Audit(value, None, None, None, None, None, why)


def test_an_audit_may_halt_once_a_sample_has_passed_it() -> None:
    """A young model speaks word salad; a sample too short to be judged is not one that passed."""
    gate = Gate(audit_halt=("local_coherence",))
    judge = Judge(gate, cast(Audits, Salad()), NAMES)

    def observed(at: int, text: str) -> str:
        audits = judge.audit(text, [1], 2.0)
        return gate.observe(100 * at, 99.0, audits["found"], judge.spared(100 * at)).kind

    assert [observed(at, "salad") for at in range(1, 9)] == ["pass"] * 8
    assert judge.alarms() != []
    assert [observed(at, text) for at, text in ((9, "short"), (10, "salad"))] == ["pass", "pass"]
    assert [observed(at, text) for at, text in ((11, "good"), (12, "salad"))] == ["pass", "low"]
    saved = json.loads(json.dumps(judge.watch.snapshot()))
    judge.watch.restore(saved, NAMES)
    assert [observed(at, "salad") for at in range(13, 17)] == ["low", "low", "low", "halt"]


@pytest.mark.parametrize(("warmup", "halted"), [(0, 37), (2_000, 37), (6_000, 65)])
def test_a_run_that_is_salad_from_its_first_sample_halts_when_it_is_young_no_more(
    warmup: int, halted: int
) -> None:
    """Spared for 32 samples and up to the end of the learning rate's warm-up; also where a resume lies between."""
    gate = Gate(audit_halt=("local_coherence",))
    judge = Judge(gate, cast(Audits, Salad()), NAMES, warmup=warmup)
    for at in range(1, 100):
        if at % 10 == 0:
            saved = json.loads(json.dumps(judge.watch.snapshot()))
            judge = Judge(gate, cast(Audits, Salad()), NAMES, warmup=warmup)
            judge.watch.restore(saved, NAMES)
        found = judge.audit("salad", [1], 2.0)["found"]
        verdict = gate.observe(100 * at, 99.0, found, judge.spared(100 * at))
        judge.settle(verdict)
        assert ("spared: the run is young" in verdict.reason) == (at <= halted - 5)
        if verdict.kind == "halt":
            break
    assert at == halted


def pulled(seed: int, samples: int, each: int, draw_loss: Callable[[random.Random, int], float]) -> list[int]:
    """The samples with which a source is named, `each` pulls a sample. draw_loss: of a generator and the sample."""
    draw, watch, named = random.Random(seed), Watch(), []
    for sample in range(1, samples + 1):
        for _ in range(each):
            watch.pull(1, draw_loss(draw, sample))
        if watch.verdict(low=False).memorised:
            named.append(sample)
    return named


def recited(share: float, loss: float) -> Callable[[random.Random, int], float]:
    """After ten samples a share of the pulls loses next to nothing."""
    return lambda draw, sample: loss if sample > 10 and draw.random() < share else draw.gauss(2.8, 0.3)


@pytest.mark.parametrize("each", [10, 25, 100, 400])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_recited_share_is_named_within_thirty_samples_and_as_long_as_it_lasts(
    share: float, each: int
) -> None:
    for seed in range(3 if each < 400 else 1):
        named = pulled(seed, 60, each, recited(share, 0.13))
        assert named, "never named"
        assert 10 < named[0] <= 40
        assert named == list(range(named[0], 61))


@pytest.mark.parametrize(
    ("name", "draw_loss"),
    [
        ("share grows", lambda draw, at: 0.13 if draw.random() < at / 240 else draw.gauss(2.8, 0.3)),
        ("falls to 0.35", lambda draw, at: draw.gauss(max(0.35, 2.8 - 0.025 * at), 0.1)),
        ("falls to 0.13", lambda draw, at: draw.gauss(max(0.13, 2.8 - 0.025 * at), 0.02)),
        ("half at 1.0", lambda draw, at: 1.0 if at > 20 and draw.random() < 0.5 else draw.gauss(2.8, 0.3)),
        ("half from the start", lambda draw, at: 0.05 if draw.random() < 0.5 else draw.gauss(2.8, 0.3)),
    ],
)
@pytest.mark.parametrize("each", [10, 100])
def test_what_comes_slowly_is_named_and_stays(
    name: str, draw_loss: Callable[[random.Random, int], float], each: int
) -> None:
    named = pulled(0, 120, each, draw_loss)
    assert named, "never named"
    assert named == list(range(named[0], 121))


@pytest.mark.parametrize(
    ("name", "draw_loss"),
    [
        ("normal", lambda draw, at: draw.gauss(2.8, 0.3)),
        ("left tail", lambda draw, at: 3.0 - draw.expovariate(4.0)),
        ("noisy", lambda draw, at: max(0.05, draw.gauss(3.0, 0.9))),
        ("falling", lambda draw, at: 2.0 + 6.0 * math.exp(-at / 20) + draw.gauss(0, 0.2)),
        ("flat, then falling", lambda draw, at: draw.gauss(min(9.0, max(3.0, 12.0 - 0.1 * at)), 0.05)),
        ("a spike", lambda draw, at: draw.gauss(2.8 + 2.0 * (40 <= at < 50), 0.15)),
        ("waves", lambda draw, at: draw.gauss(2.8 + 0.4 * math.sin(0.5 * at), 0.15)),
        ("a spike that fades", lambda draw, at: draw.gauss(2.8 + 0.8 * (at >= 40) * 0.9 ** (at - 40), 0.15)),
        ("a hill", lambda draw, at: draw.gauss(2.8 + 0.6 * (40 <= at < 46), 0.15)),
        ("a new level", lambda draw, at: draw.gauss(2.8 if at < 50 else 1.5, 0.2)),
    ],
)
def test_a_healthy_source_is_not_named(name: str, draw_loss: Callable[[random.Random, int], float]) -> None:
    for seed in range(3):
        assert pulled(seed, 300, 25, draw_loss) == []


def test_a_snapshot_of_before_the_tally_is_restored() -> None:
    old = {
        "arms": {"1": [50, 2.8, 0.04]},
        "samples": [40, 2.0, 0.1],
        "pulls": {"1": [12, 3]},
        "streaks": {"1": 2},
        "memorised": [1],
        "passed": ["script_share"],
        "recent": [[True, {"1": 12}]],
    }
    watch = Watch()
    watch.restore(old, NAMES)
    new = watch.snapshot()
    assert new["arms"] == {"1": [50, 2.8, 0.04, 0, 2.8, 0.04, 0, False, 0.0]}
    assert (new["pulls"], new["drawn"], new["recent"]) == ({"1": 12}, 40, old["recent"])
    for _ in range(20):
        watch.pull(1, 0.13)
    assert watch.verdict(low=False).memorised == (1,)
