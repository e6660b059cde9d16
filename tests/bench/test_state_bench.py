"""The benchmark of commits runs, measures all its writers, and does not stand in the way of the scripts beside it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_it_measures_every_writer(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "bench/state.py"),
        "--commits",
        "3",
        "--kib",
        "40",
        "--dir",
        str(tmp_path),
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    rows = {line[:12].strip(): line[12:].split() for line in done.stdout.splitlines()[3:7]}
    assert set(rows) == {"commit", "rename", "in place", "no write"}
    assert float(rows["commit"][0]) > 0.0
    size = float(done.stdout.split("; ")[3].split()[0])
    assert 30 < size < 50 and "% of the run" in done.stdout
    assert list(tmp_path.iterdir()) == []
