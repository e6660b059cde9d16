"""The backtest of a sample log: where each rule halts, what it saves, and what the command makes of bad input."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from curriculum.gate.backtest import Sample, backtest
from curriculum.gate.rule import Rules
from curriculum.gate_cli import app

BAD, GOOD = (
    "region region region region region region",
    "It rained all day, so we stayed in and read an old book.",
)


def story(path: Path, *, scored: bool = False) -> Path:
    """A run that samples every 200 steps, goes bad in two samples of five from 80,000 on, and for good at 131,200."""
    rows: list[dict[str, Any]] = []
    for step in range(200, 165_001, 200):
        bad = step >= 131_200 or (step >= 80_000 and step // 200 % 5 in (1, 3))
        rows.append(
            {"step": step, "score": 23.0 if bad else 98.0}
            if scored
            else {"step": step, "text": BAD if bad else GOOD}
        )
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def run(*args: str | Path) -> tuple[int, Any, str]:
    result = CliRunner().invoke(app, ["backtest", *map(str, args), "--json"])
    return result.exit_code, json.loads(result.stdout), result.stderr


@pytest.mark.parametrize("scored", [True, False])
def test_the_story_of_the_first_run(tmp_path: Path, scored: bool) -> None:
    """Document 004: five in a row fire at 132K, 33,000 steps early: 91.6 hours and 12 kWh. The default sees 80K."""
    log = story(tmp_path / "v1.jsonl", scored=scored)
    code, body, _ = run(log, "--rule", "5", "--seconds-per-step", "10", "--watts", "130")
    assert code == 0
    assert body["schema"] == "gate-backtest/1"
    assert {key: body[key] for key in ("rule", "halted", "halt_step", "last_step", "saved_steps")} == {
        "rule": "5 in a row",
        "halted": True,
        "halt_step": 132_000,
        "last_step": 165_000,
        "saved_steps": 33_000,
    }
    assert body["saved_hours"] == pytest.approx(91.7, abs=0.1)
    assert body["saved_kwh"] == pytest.approx(11.9, abs=0.1)
    at = {row["rule"]: row["halt_step"] for row in body["rules"]}
    assert at["5 in a row"] == 132_000
    assert at["tally of 40"] == 85_200
    assert at["5 in a row, or 8 of the last 16, or tally of 40"] == 85_200


def test_without_pace_or_power_nothing_is_made_up(tmp_path: Path) -> None:
    code, body, _ = run(story(tmp_path / "v1.jsonl", scored=True))
    assert (code, body["rule"]) == (0, "5 in a row, or 8 of the last 16, or tally of 40")
    assert (body["saved_steps"], body["saved_hours"], body["saved_kwh"]) == (165_000 - 85_200, None, None)


def test_a_healthy_log_halts_nowhere() -> None:
    log = [Sample(100 * at, 10.0 if at % 20 == 0 else 80.0) for at in range(1, 2_000)]
    found = backtest(log, Rules(), seconds_per_step=1.0, watts=100.0)
    assert (found.halt_step, found.saved_steps, found.saved_hours, found.saved_kwh) == (None, 0, 0.0, 0.0)


def test_the_audits_of_a_run_s_own_log_count_where_asked(tmp_path: Path) -> None:
    """Word salad scores 100 and more of it halts nothing, unless its audit may."""
    rows = [{"step": 100 * at, "score": 99.0, "audits": {"found": ["local_coherence"]}} for at in range(1, 9)]
    path = tmp_path / "run.samples.json"
    path.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]")
    assert run(path)[1]["halted"] is False
    body = run(path, "--audit-halt", "local_coherence")[1]
    assert body["halt_step"] == 500
    assert "found by local_coherence" in body["reason"]


@pytest.mark.parametrize("text", ["5", "3/4", "8/16", "tally:12"])
def test_one_rule_alone_is_that_rule(text: str) -> None:
    """Against the rules in their own words, on random logs."""
    draw = random.Random(text)
    for _ in range(200):
        lows = [draw.random() < 0.4 for _ in range(60)]
        halt = backtest(
            [Sample(at, 10.0 if low else 80.0) for at, low in enumerate(lows, 1)], Rules.read(text)
        ).halt_step
        assert halt == first(text, lows), (text, lows)


def first(text: str, lows: list[bool]) -> int | None:
    points = 0
    for at, low in enumerate(lows, 1):
        points = points + 5 if low else max(0, points - 1)
        if text == "5":
            fires = at >= 5 and all(lows[at - 5 : at])
        elif "/" in text:
            least, window = map(int, text.split("/"))
            fires = low and sum(lows[max(0, at - window) : at]) >= least
        else:
            fires = low and points >= 12
        if fires:
            return at
    return None


@pytest.mark.parametrize(
    "rule",
    ["0", "17/16", "five", "tally:", "tally:0", "8/16/2", "tally:3/4", "window:3", "8/99999999999999999999"],
)
def test_a_rule_that_is_none_is_named(tmp_path: Path, rule: str) -> None:
    code, body, _ = run(story(tmp_path / "v1.jsonl", scored=True), "--rule", rule)
    assert code == 2
    assert rule in body["error"]["message"]
    assert "--rule 8/16" in body["error"]["next"]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("just text", ""),
        ("[]", ""),
        ('{"text": "a"}', ":1"),
        ('{"step": 1, "score": 3}\n{"step": 1, "score": 3}', ":2"),
        ('{"step": 1, "score": "high"}', ":1"),
        ('{"step": 1}', ":1"),
        ('{"step": 1, "score": 1' + "0" * 400 + "}", ":1"),
        ('{"step": 1' + "0" * 400 + ', "score": 1}', ":1"),
        ('{"step": 1, "score": NaN}', ":1"),
    ],
)
def test_what_is_no_log_is_named(tmp_path: Path, text: str, where: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(text)
    code, body, _ = run(path)
    assert (code, body["error"]["path"]) == (2, f"{path}{where}")
    assert "firehose gate backtest" in body["error"]["next"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--audit-halt", "local_coherense"), 'did you mean "local_coherence"?'),
        (("--audit-halt", "nosuch"), "no audit 'nosuch'"),
        (("--watts", "130"), "--watts needs the run's pace"),
        (("--seconds-per-step", "inf"), "is no number"),
        (("--seconds-per-step", "1", "--watts", "inf"), "is no number"),
    ],
)
def test_an_option_that_says_nothing_is_refused(tmp_path: Path, given: tuple[str, ...], said: str) -> None:
    code, body, _ = run(story(tmp_path / "v1.jsonl", scored=True), *given)
    assert code == 2
    assert said in body["error"]["message"]
    assert "--" in body["error"]["next"]


def test_the_table_fits_a_terminal(tmp_path: Path) -> None:
    path = story(tmp_path / "v1.jsonl", scored=True)
    result = CliRunner().invoke(app, ["backtest", str(path), "--seconds-per-step", "10", "--watts", "130"])
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "132,000   33,000    91.7   11.9" in result.stdout


def test_an_audit_counts_once_a_sample_has_passed_it(tmp_path: Path) -> None:
    found = {"local_coherence": -0.9, "found": ["local_coherence"]}
    rows = [{"step": 100 * at, "score": 99.0, "audits": found} for at in range(1, 20)]
    path = tmp_path / "young.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert run(path, "--audit-halt", "local_coherence")[1]["halted"] is False
    rows[7]["audits"] = {"local_coherence": 0.4, "found": []}
    path.write_text("\n".join(map(json.dumps, rows)))
    assert run(path, "--audit-halt", "local_coherence")[1]["halt_step"] == 1_300
