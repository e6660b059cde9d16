"""All parts, full form, with one table at the end: `python -m tests.faults` (`make faults`)."""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PARTS = ("kill", "errnos", "crash_states", "compound", "traced", "power_cut")
ALSO = {
    "mutations": ("--count", "1000000"),
    "contention": ("--processes", "32", "--commits", "500", "--kills", "100"),
}


def main() -> int:
    """Every part in a process of its own; the exit status is 1 where any of them failed."""
    began = time.monotonic()
    failed, rows = [], []
    with tempfile.TemporaryDirectory() as folder:
        for part in PARTS:
            print(f"# {part}", flush=True)
            kept = Path(folder, f"{part}.json")
            words = [
                sys.executable,
                "-m",
                f"tests.faults.{part}",
                "--json",
                str(kept),
            ]
            if subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode:
                failed.append(part)
            rows += [{"part": part, **row} for row in (json.loads(kept.read_text()) if kept.exists() else [])]
    for part, words in ALSO.items():
        print(f"# {part}", flush=True)
        if subprocess.run([sys.executable, "-m", f"tests.faults.{part}", *words]).returncode:
            failed.append(part)
    print(f"{platform.platform()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}")
    print(f"{'part':14} {'faults':>8} {'refused':>8} {'bad':>6}")
    for part in PARTS:
        mine = [row for row in rows if row["part"] == part]
        right = [row for row in mine if not row["broken"]]
        caught = sum(row["verdict"] == "caught" for row in mine)
        counts = [sum(row[key] for row in right) for key in ("injected", "refused", "bad")]
        told = f"wrong writers caught: {caught} of {len(mine) - len(right)}" if len(mine) > len(right) else ""
        print(f"{part:14} {counts[0]:>8,} {counts[1]:>8,} {counts[2]:>6,}  {'SKIPPED' if not mine else told}")
    print(f"{time.monotonic() - began:.0f} s; {'failed: ' + ', '.join(failed) if failed else 'all held'}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
