"""The short form of every fault that needs no privilege; `make faults` runs the full one."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("part", ["kill", "errnos", "crash_states", "compound"])
def test_no_fault_loses_or_spoils_anything_and_wrong_writers_are_caught(part: str) -> None:
    """In a process of its own: it forks at every fault, and a test session that has torch in it forks slowly."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.faults.{part}", "--short"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
