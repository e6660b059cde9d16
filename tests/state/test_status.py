"""`status`, `list`, `samples`, `stop`, `checkpoint`: the contract of their JSON, what they say, and what they import."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from curriculum.errors import Exit
from state.cli import app
from state.rows import RowFile, encode_row
from state.run_dir import RunDir
from state.status import screen, status
from state.store import StateStore

ROOT = Path(__file__).parents[2]
STATUS_KEYS = [
    *(
        "run",
        "state",
        "step",
        "steps_total",
        "steps_per_s",
        "mfu",
        "eta_s",
        "loss",
        "loss_ema",
        "budget",
        "groups",
    ),
    "checkpoint_step",
    *("lineage", "serial", "gate", "alarms", "arms"),
]
ARM_KEYS = [
    *("name", "eligible", "why_not", "weight", "cap", "floor", "share", "share_low", "share_high", "pulls"),
    *("tokens", "epochs", "coverage", "mean_reward", "index", "loss_ema", "flags"),
]
ARM = {
    "name": "a-source-with-a-very-long-name",
    "eligible": False,
    "why_not": "not in the warm-up set until step 20001, which is a long time from now",
    "weight": 1.3,
    "cap": 0.125,
    "floor": 0.125,
    "share": 1.0,
    "share_low": 1.0,
    "share_high": 1.0,
    "pulls": 123_456_789,
    "tokens": 10**12,
    "epochs": 1234.5,
    "coverage": 1.0,
    "mean_reward": 0.5,
    "index": None,
    "loss_ema": 12.3456,
    "flags": [],
}
LIVE = {
    "step": 23,
    "steps_total": 1_000_000,
    "steps_per_s": 2.5,
    "tokens_per_s": 1e6,
    "eta_s": 1_382_400.0,
    "loss": 3.25,
    "loss_ema": 3.5,
    "lr": 1e-3,
    "groups": [
        {"name": "embedding", "lr": 1e-3, "ratio": 0.00123, "out": None},
        {"name": "norms", "lr": 1e-3, "ratio": None, "out": "high"},
        {"name": "attention", "lr": 1e-9, "ratio": 4.56e-8, "out": "low"},
        {"name": "mlp", "lr": 1e-3, "ratio": 1.5e-3},
        {"name": "head", "lr": 1.0, "ratio": 0.25, "out": "high"},
    ],
    "norm": 1.0,
    "checkpoint_step": 20,
    "gate": {"last_score": 71.5, "streak": 0, "halted": False},
    "alarms": ["mixture collapse: " + "x" * 100],
    "arms": [ARM, {**ARM, "name": "books", "share": 0.2, "why_not": None}],
}


VERDICT = {"kind": "low", "streak": 1, "reason": "under 30"}


def live(run: RunDir, **fields: Any) -> None:
    run.begin(time.time() - 60)
    run.write_live({**LIVE, "run": run.name, "pid": os.getpid(), "time": time.time(), **fields})


def invoke(run: RunDir, *arguments: str) -> Any:
    return CliRunner().invoke(app, [*arguments, "--runs-dir", str(run.root.parent)])


def test_a_running_run(committed: RunDir) -> None:
    live(committed)
    result = invoke(committed, "status", "demo", "--json")
    body = json.loads(result.stdout)
    assert result.exit_code == 0 and body.pop("schema") == "status/1"
    assert list(body) == STATUS_KEYS and [list(arm) for arm in body["arms"]] == [ARM_KEYS] * 2
    assert (body["state"], body["step"], body["steps_total"], body["eta_s"]) == (
        "running",
        23,
        1_000_000,
        1_382_400,
    )
    assert body["gate"] == {"last_score": 71.5, "streak": 0, "halted": False}
    assert body["serial"] == 1 and body["arms"][0] == ARM


def test_a_run_without_a_live_file_is_told_from_its_state(committed: RunDir, payload: Any) -> None:
    (committed.checkpoints / "step_20").mkdir()
    (committed.checkpoints / "step_40.tmp-7").mkdir()
    body, notes = status(committed, time.time())
    assert list(body) == STATUS_KEYS and notes == []
    assert (body["state"], body["step"], body["steps_total"]) == ("stopped", 20, 500)
    assert body["checkpoint_step"] == 20
    assert body["gate"] == {"last_score": None, "streak": None, "halted": False}
    for key in ("steps_per_s", "eta_s", "loss", "loss_ema"):
        assert body[key] is None
    assert [list(arm) for arm in body["arms"]] == [ARM_KEYS] * 3
    books = next(arm for arm in body["arms"] if arm["name"] == "books")
    record = payload["bandit"]["arms"]["books"]
    assert (books["pulls"], books["cap"], books["why_not"], books["flags"]) == (
        record["pulls"],
        1.3,
        None,
        [],
    )
    assert books["epochs"] == record["cursor"] / 50 and books["mean_reward"] == record["mean"]
    assert sum(arm["share"] for arm in body["arms"]) == pytest.approx(1.0)


def test_a_run_that_is_gone_is_told_at_its_last_commit(committed: RunDir) -> None:
    live(committed)
    committed.end("stopped", exit_code=75, step=20, now=time.time())
    body, _ = status(committed, time.time())
    assert (body["state"], body["step"], body["steps_per_s"], body["eta_s"]) == ("stopped", 20, None, None)
    assert body["loss"] is None and len(body["arms"]) == 3, "what was said of step 23 is lost with it"
    live(committed, step=20)
    committed.end("stopped", exit_code=75, step=20, now=time.time())
    body, _ = status(committed, time.time())
    assert body["loss"] == 3.25 and len(body["arms"]) == 2


def test_what_a_change_since_undid_is_not_shown(committed: RunDir) -> None:
    """After a rollback or a pivot, not started since: the state speaks, and a run not at its end has not finished."""
    live(committed, step=20, checkpoint_step=60, lineage="another")
    committed.end("finished", exit_code=0, step=500, now=time.time())
    body, _ = status(committed, time.time())
    assert (body["state"], body["step"], body["steps_total"]) == ("stopped", 20, 500)
    assert body["checkpoint_step"] is None and body["alarms"] == []
    assert {arm["name"] for arm in body["arms"]} == {"books", "code", "forum"}
    committed.end("halted", exit_code=4, step=20, now=time.time())
    assert status(committed, time.time())[0]["state"] == "stopped", "a pivot clears a halt"


def test_a_halt_in_the_state_shows_even_if_the_process_died_over_it(run: RunDir, payload: Any) -> None:
    payload["halt"] = {"step": 20, "reason": "5 in a row"}
    StateStore(run.state).create(payload, step=20, config_sha256="c" * 64)
    body, _ = status(run, time.time())
    assert body["state"] == "halted" and body["gate"]["halted"]
    live(run)
    assert status(run, time.time())[0]["state"] == "running", "resumed with --clear-halt"


def test_a_state_that_cannot_be_read_is_a_note_not_a_crash(committed: RunDir) -> None:
    live(committed)
    committed.state.write_text("{")
    body, notes = status(committed, time.time())
    assert body["serial"] is None and body["step"] == 23 and "F0001" in notes[0]
    _, notes = status(committed, time.time() + 100)
    assert notes[-1] == "no word from the run for 1m40s"


def test_the_screen_fits_80_columns_whatever_the_numbers(committed: RunDir) -> None:
    live(committed)
    text = screen(status(committed, time.time())[0], time.time())
    assert max(map(len, text)) <= 80, max(text, key=len)
    for words in (
        "demo  running  step 23 of 1,000,000",
        "16d00h left",
        "last score 71.5",
        "123M",
        "a-source-with-a…",
    ):
        assert any(words in line for line in text), words
    assert invoke(committed, "status").stdout.splitlines()[0] == text[0], "the only run needs no name"


def test_the_screen_marks_the_groups_that_steps_move_too_little_or_too_much(committed: RunDir) -> None:
    live(committed)
    text = screen(status(committed, time.time())[0], time.time())
    at = next(number for number, line in enumerate(text) if line.startswith("  updates "))
    assert text[at : at + 2] == [
        "  updates     embedding 1.2e-03, norms - TOO HIGH, attention 4.6e-08 TOO LOW,",
        "              mlp 1.5e-03, head 2.5e-01 TOO HIGH",
    ]
    live(committed, groups=[])
    assert not any("updates" in line for line in screen(status(committed, time.time())[0], time.time()))


def test_list(committed: RunDir) -> None:
    live(committed)
    other = RunDir(committed.root.parent / "second")
    other.create()
    other.effective.write_text("{}")
    runs = json.loads(invoke(committed, "list", "--json").stdout)["runs"]
    assert [(run["run"], run["state"]) for run in runs] == [("demo", "running"), ("second", "stopped")]
    lines = invoke(committed, "list").stdout.splitlines()
    assert lines[0].split() == ["run", "state", "step", "of", "loss", "left"] and max(map(len, lines)) <= 80
    assert invoke(committed, "status").stdout.startswith("demo  running"), "the only one alive"


def test_errors_name_what_to_do_and_come_as_json_too(run: RunDir, tmp_path: Path) -> None:
    result = invoke(run, "status", "dem", "--json")
    error = json.loads(result.stdout)["error"]
    assert result.exit_code == error["code"] == Exit.NOT_FOUND
    assert list(error) == ["code", "message", "path", "arm", "changed", "next"] and "demo" in error["message"]
    assert CliRunner().invoke(app, ["status", "--runs-dir", str(tmp_path / "no")]).exit_code == Exit.NOT_FOUND
    other = RunDir(run.root.parent / "second")
    other.create()
    other.effective.write_text("{}")
    result = invoke(run, "status")
    assert result.exit_code == Exit.USAGE and "demo, second" in result.stderr
    for name in ("stop", "checkpoint"):
        result = invoke(run, name, "demo", "--json")
        assert result.exit_code == json.loads(result.stdout)["error"]["code"] == Exit.NOT_SIGNALABLE


def test_samples(run: RunDir) -> None:
    assert invoke(run, "samples", "demo").exit_code == Exit.NOT_FOUND
    rows = RowFile(run.samples)
    rows.open(None, run.archive, "start")
    assert "no samples yet" in invoke(run, "samples").stderr
    scores = [71.5, 12.0, 80.0]
    rows.append(
        [
            encode_row(
                {
                    "step": 100 * n,
                    "prompt": "Hi?",
                    "text": "red \x1b[31mfox\n" * 30,
                    "score": s,
                    "verdict": VERDICT,
                }
            )
            for n, s in enumerate(scores, start=1)
        ]
    )
    text = invoke(run, "samples").stdout
    assert "step 200  score 12.0  low: under 30\n" in text
    assert text.count("score") == 3 and "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80
    body = json.loads(invoke(run, "samples", "--json", "--min-score", "30", "--limit", "1").stdout)
    assert body["run"] == "demo" and [row["step"] for row in body["samples"]] == [300]
    assert "no sample scores 90" in invoke(run, "samples", "--min-score", "90").stderr
    assert len(json.loads(invoke(run, "samples", "--json", "--limit", "0").stdout)["samples"]) == 3


def test_stop_asks_and_waits_or_only_says_whom_it_would_ask(
    committed: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The protocol itself is in test_requests; here a trainer that answers at once stands in for one."""
    from state import requests

    asked: list[str] = []

    def send(run: RunDir, kind: requests.Kind, *, now: float) -> requests.Request:
        asked.append(kind)
        return requests.Request(id="a", kind=kind, target=[1, 1], time=now)

    monkeypatch.setattr(requests, "send", send)
    monkeypatch.setattr(requests, "wait", lambda run, request, timeout: f"{request.kind} within {timeout:g}")
    monkeypatch.setattr(requests, "signalable", lambda run, kind, now: run.condition(now).process)
    live(committed)
    assert invoke(committed, "stop", "--timeout", "5").stdout == "stop within 5\n"
    assert json.loads(invoke(committed, "stop", "--now", "--json").stdout) == {
        "schema": "stop/1",
        "run": "demo",
        "outcome": "served",
        "message": "stop-now within 600",
    }
    assert "asked;" in invoke(committed, "checkpoint", "--no-wait").stdout
    assert asked == ["stop", "stop-now", "checkpoint"]
    assert f"would ask pid {os.getpid()}" in invoke(committed, "stop", "--dry-run").stdout
    assert len(asked) == 3


@pytest.mark.parametrize("arguments", [["status", "demo", "--json"], ["status", "demo"], ["list"]])
def test_status_imports_nothing_heavy(committed: RunDir, arguments: list[str]) -> None:
    code = (
        "import sys\nfrom state.cli import app\n"
        f"app({[*arguments, '--runs-dir', str(committed.root.parent)]!r}, standalone_mode=False)\n"
        "heavy = {'numpy', 'torch', 'tokenizers', 'filelock', 'rich', 'asyncio'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n" and "demo" in done.stdout
