"""Starting a command as a process of its own, out of this terminal, its output in the run's folder."""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from curriculum.files import failing_writes
from state.run_dir import RunDir

WORD = 30.0  # seconds to wait for the first word of a detached run
LOG = "detached.log"


@dataclass(frozen=True, slots=True)
class Started:
    """A process that was started. log: where its output goes. code: of one that ended within the wait. said: by then."""

    pid: int
    log: Path
    code: int | None
    said: str


def detached(root: Path, arguments: list[str], *, log: str = LOG, wait: float = WORD) -> Started:
    """Start `firehose ARGUMENTS` and wait until it speaks as the trainer of the run in `root`, ends, or `wait` is over.

    Raises FirehoseError(WRITE_FAILED).
    """
    path = root / log
    with failing_writes(root):
        root.mkdir(parents=True, exist_ok=True)
    before = path.stat().st_size if path.exists() else 0
    with failing_writes(path), path.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "trainer", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    deadline = time.monotonic() + wait
    while (RunDir(root).read_live() or {}).get("pid") != process.pid and time.monotonic() < deadline:
        if process.poll() is not None:
            said = path.read_bytes()[before:].decode(errors="replace")
            return Started(process.pid, path, process.returncode, said)
        time.sleep(0.1)
    return Started(process.pid, path, None, path.read_bytes()[before:].decode(errors="replace"))
