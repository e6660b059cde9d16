"""The short form of every fault that needs no privilege; `make faults` runs the full one."""

import subprocess
import sys

PARTS = ("kill", "errnos", "crash_states", "compound")


def test_no_fault_loses_or_spoils_anything_and_wrong_writers_are_caught() -> None:
    """In processes of their own, side by side: they fork at every fault, and one that has torch in it forks slowly."""
    running = {
        part: subprocess.Popen(
            [sys.executable, "-m", f"tests.faults.{part}", "--short"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for part in PARTS
    }
    said = {part: process.communicate()[0] for part, process in running.items()}
    failed = [said[part] for part, process in running.items() if process.returncode]
    assert not failed, "\n".join(failed)
