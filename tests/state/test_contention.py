"""Processes that compete for one state, some of them killed: nothing acknowledged is lost or doubled."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tests.faults.contention import Contest


def test_eight_processes_and_ten_kills(tmp_path: Path) -> None:
    report = Contest(tmp_path, processes=8, commits=50, kills=10, seed=4).run()
    assert report.wrong == []
    assert (report.commits, report.kills) == (400, 10)


def test_without_the_lock_it_fails(tmp_path: Path, capfd: Any) -> None:
    report = Contest(tmp_path, processes=4, commits=20, kills=0, seed=4, lock=nullcontext).run()
    assert report.wrong
    assert "worker" in capfd.readouterr().err
