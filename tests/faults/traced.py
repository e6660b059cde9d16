"""The shim's account checked by the kernel's, and kills and errors by strace: `python -m tests.faults.traced [SCENARIO...]`.

First each action is run under strace, and every call on its folder that changes something must have been seen by the
shim too, call for call. Then strace itself kills at the N-th call of every kind, and makes it fail.
"""

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.faults.command_line import part
from tests.faults.errnos import complaint
from tests.faults.machine import need
from tests.faults.scenario import Outcome, Row, Scenario, copy, made, run, sound
from tests.faults.shim import CHANGES

# The kernel's names for what the shim counts.
CLASSES = {
    "openat": "open",
    "open": "open",
    "creat": "open",
    "openat2": "open",
    "write": "write",
    "writev": "write",
    "pwrite64": "pwrite",
    "pwritev": "pwrite",
    "pwritev2": "pwrite",
    "fsync": "fsync",
    "fdatasync": "fdatasync",
    "ftruncate": "truncate",
    "truncate": "truncate",
    "rename": "rename",
    "renameat": "rename",
    "renameat2": "rename",
    "link": "link",
    "linkat": "link",
    "symlink": "symlink",
    "symlinkat": "symlink",
    "unlink": "unlink",
    "unlinkat": "unlink",
    "rmdir": "unlink",
    "mkdir": "mkdir",
    "mkdirat": "mkdir",
    "flock": "flock",
    "sendfile": "write",
    "copy_file_range": "write",
    "fallocate": "write",
    "sync_file_range": "fsync",
    "chmod": "chmod",
    "fchmod": "chmod",
    "fchmodat": "chmod",
    "utimensat": "utime",
}
SHIM_CLASSES = {
    **{name: name for name in CHANGES},
    "ftruncate": "truncate",
    "replace": "rename",
    "remove": "unlink",
    "rmdir": "unlink",
    "fchmod": "chmod",
}
CALL = re.compile(r"^(?:\d+ +)?(\w+)\((.*)")
HERE = re.compile(r"AT_FDCWD<[^>]*>")
OPENS_TO_WRITE = re.compile(r"O_(WRONLY|RDWR|CREAT|TRUNC)")
ERRORS = ("EIO", "ENOSPC", "EINTR")
COMPILED = (
    "checkpoint: over another"  # safetensors writes below Python, but only here: the shim has it in Python
)
COMMANDS = ("state rm code --run RUN", "polish apply (stopped run)")
WITH_ERRORS = ("state: 2 commits", "rows: append twice", "run: begin, 3 boundaries")


def strace(pid: int, out: Path, *options: str) -> "subprocess.Popen[str]":
    """Attach to a waiting process; returns once it is attached."""
    names = ",".join(CLASSES)
    words = [
        "strace",
        "-f",
        "-y",
        "-s",
        "4096",
        "-p",
        str(pid),
        "-o",
        str(out),
        *(options or ["-e", f"trace={names}"]),
    ]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "attached" in line:
            return process
    raise RuntimeError(f"strace could not attach (exit status {process.wait()})")


def traced(scenario: Scenario, root: Path, out: Path, *options: str) -> Outcome:
    """Do the action in a fork under strace."""
    started = []
    outcome = run(scenario, root, gate=lambda pid: started.append(strace(pid, out, *options)))
    for process in started:
        process.communicate()
    return outcome


def account(out: Path, root: Path) -> tuple[Counter[str], Counter[str]]:
    """What strace saw: calls that change something under the root, by class; and all calls, by the kernel's name."""
    classes: Counter[str] = Counter()
    names: Counter[str] = Counter()
    for line in out.read_text(errors="replace").splitlines():
        match = CALL.match(line)
        if not match or match[1] not in CLASSES:
            continue
        name, rest = match.groups()
        names[name] += 1
        target = rest.partition(", ")[0] if name.startswith(("write", "pwrite", "f")) else rest
        reads = CLASSES[name] == "open" and not OPENS_TO_WRITE.search(rest)
        target = HERE.sub("", target)  # the working folder, which strace shows beside every path
        if str(root) in target and not reads:
            classes[CLASSES[name]] += 1
    return classes, names


def sweep(scenario: Scenario, folder: Path, *, short: bool) -> list[Row]:
    """The account, then the kills, then (for some scenarios) the errors."""
    template, work, out = made(scenario, folder), folder / "work", folder / "strace.out"
    seen = run(scenario, copy(template, work), shimmed=True)
    by_shim = Counter(SHIM_CLASSES[name] for name, _ in seen.calls if name in SHIM_CLASSES)
    shutil.rmtree(work)
    traced(scenario, copy(template, work), out)
    by_kernel, names = account(out, work)
    shutil.rmtree(work)
    rows = [Row(scenario.name, "calls, both accounts", by_kernel.total())]
    if scenario.name == COMPILED:
        rows[0].note = "not compared"
    elif by_kernel != by_shim:
        rows[0].bad.append(f"strace saw {dict(by_kernel)}, the shim {dict(by_shim)}")
    kinds = [("signal=KILL", Row(scenario.name, "kill by strace"))]
    if scenario.name in WITH_ERRORS:
        kinds += [(f"error={code}", Row(scenario.name, f"{code} by strace")) for code in ERRORS]
    for what, row in kinds:
        for name, count in sorted(names.items()):
            for at in range(1, count + 1):
                inject = ("-e", f"trace={name}", "-e", f"inject={name}:{what}:when={at}")
                outcome = traced(scenario, copy(template, work), out, *inject)
                wrong = sound(scenario, work, outcome.acks)
                shutil.rmtree(work)
                row.injected += not outcome.ended if what == "signal=KILL" else True
                row.refused += outcome.error is not None
                if what != "signal=KILL" and outcome.error and outcome.error["kind"] != "FirehoseError":
                    wrong = complaint(outcome, "EIO", 1, looks=False, forever=False)
                if wrong:
                    row.bad.append(f"{what} at {name} {at}: {wrong}")
        rows.append(row)
    return rows


def main() -> int:
    if why := need("strace") or forbidden():
        print(f"SKIPPED: the kernel's own account of the calls: {why}", file=sys.stderr, flush=True)
        return 0
    return part("traced", sweep, "calls compared, kills and errors", least=(500, 500), choose=chosen)


def chosen(scenario: Scenario) -> bool:
    """All but the commands, of which two stand for the others: their parts are in the rest."""
    return not scenario.broken and (scenario.looks or scenario.name in COMMANDS)


def forbidden() -> str | None:
    """Why this machine lets nobody trace, or None."""
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True)
    if tried.returncode == 0:
        return None
    return f"strace does not work here ({tried.stderr.strip()}); in a container, give it CAP_SYS_PTRACE"


if __name__ == "__main__":
    raise SystemExit(main())
