"""The GPU's benchmark runs from end to end, on the CPU and on a toy: it is there when a GPU is."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_it_measures_step_sample_and_run() -> None:
    command = [sys.executable, str(ROOT / "bench/gpu.py"), "--device", "cpu", "--tiny"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    for figure in (
        "machine ",
        "fastest matrix product in bf16: ",
        "tok/s MFU unknown, ",
        "0 syncs in 10 steps",
        "sample of 12 tokens",
        "% of 100 steps of 64 tokens",
        "with all else; the bare step",
        "scheduler + loader + gate + commit + checkpoint + monitor: ",
    ):
        assert figure in said
