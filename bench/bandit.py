"""The bandit beside MABWiser, river, SMPyBandits and fms-acceleration-odm: speed, regret, and losses of every size.

    python bench/bandit.py                      everything, the peers from PyPI: hours on one core
    python bench/bandit.py --speed              minutes: time of a pick and its credit, and of a snapshot
    python bench/bandit.py --safety             minutes: 20,000 updates with losses from 0 to 1e30 and not a number
    python bench/bandit.py --regret --seeds 10 --problems GM LP16 --resume
    python bench/bandit.py --regret --only ours
    python bench/bandit.py --show               the tables of what --out holds

Each peer runs in a virtual environment made from bench/peers/NAME.txt, each library in a process of its own. Results
go to --out, a JSON line for each run. With --resume, runs found there are not played again; without, what it holds of
the libraries asked for is forgotten. --smpybandits DIR takes SMPyBandits from a checkout: its newest release, 0.9.7,
has no RAW-UCB and no FEWA, and keeps the discounted pulls of its D-UCB as whole numbers (bench/peers/smpybandits.txt).
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bandit_problems import PROBLEMS
from bandit_table import header, regret_table, safety_table, speed_table, state_table
from environments import environment

HERE = Path(__file__).resolve().parent
if __name__ != "__main__":  # a script beside this one wants the package that this file's name hides
    __path__ = [str(HERE.parent / "bandit")]

PEERS = ("mabwiser", "river", "smpybandits")
MIXER = "odm"  # has no bandit to play, and is asked about safety alone
NO_DEPS = (
    "--no-deps",
)  # what it requires is gigabytes, and its update of weights needs none of it but torch
ARMS = (16, 256, 10_000)
DELAYS = (0, 8)
BLOCK_SECONDS = 0.25  # of cycles between two looks at the clock
# One thread each: two processes that take turns should not fight for cores when one of them is meant to be idle.
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONPATH": str(HERE.parent),
}


class Child:
    """One library in a process of its own, asked one thing at a time."""

    def __init__(self, name: str, command: list[str], log: Path) -> None:
        self.name = name
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=ENVIRONMENT,
            )
        self._log = log
        self.about = self._read()

    def ask(self, **request: Any) -> dict[str, Any]:
        """One answer."""
        self.send(**request)
        return self._read()

    def send(self, **request: Any) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def answers(self, **request: Any) -> Any:
        """Answers until the last one, which says that it is done, or what failed."""
        self.send(**request)
        while "done" not in (answer := self._read()):
            yield answer
            if "failed" in answer:
                return

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            tail = self._log.read_text()[-600:]
            raise SystemExit(
                f"{self.name} ended with status {self._process.wait()}; {self._log} ends:\n{tail}"
            )
        return json.loads(line)


class Results:
    """The file of runs: lines are only added, so two programs may write it at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, **record: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def lines(self) -> list[dict[str, Any]]:
        """What holds: later lines first forget, then replace, the earlier ones of the same run."""
        kept: dict[tuple[Any, ...], dict[str, Any]] = {}
        if not self.path.exists():
            return []
        for line in self.path.read_text().splitlines():
            record = json.loads(line)
            if record["kind"] == "forget":
                kept = {
                    key: old
                    for key, old in kept.items()
                    if (old["library"], old["kind"]) != (record["library"], record["what"])
                }
            else:
                fields = ("kind", "library", "version", "row", "problem", "delay", "seed", "arms", "loss")
                kept[tuple(record.get(field) for field in fields)] = record
        return list(kept.values())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--speed", action="store_true", help="time the cycles only")
    parser.add_argument("--regret", action="store_true", help="play the problems only")
    parser.add_argument("--safety", action="store_true", help="feed it losses of every size only")
    parser.add_argument("--show", action="store_true", help="print what --out holds, and run nothing")
    parser.add_argument("--seeds", type=int, default=50, help="runs of a cell, seeds 0 and up")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--delays", nargs="+", type=int, choices=DELAYS, default=list(DELAYS))
    parser.add_argument(
        "--arms", nargs="+", type=int, default=list(ARMS), help="numbers of arms that are timed"
    )
    parser.add_argument("--rounds", type=int, default=9, help="times that each row is timed, taking turns")
    parser.add_argument("--peers", default=",".join([*PEERS, MIXER]), help="some of them, by comma, or none")
    parser.add_argument("--only", choices=("ours", "peers"), help="play one side only; the rest is as it was")
    parser.add_argument("--rows", help="play rows whose name holds this text only")
    parser.add_argument("--skip-told", action="store_true", help="leave out the rows in grey")
    parser.add_argument("--least", type=int, default=5, help="seeds of a cell, however long they take")
    parser.add_argument(
        "--limit",
        type=float,
        default=60.0,
        help="seconds of processor time that stop a cell after --least seeds",
    )
    parser.add_argument(
        "--ranked-us", type=float, default=100.0, help="most that a ranked row may cost a round"
    )
    parser.add_argument("--venvs", type=Path, default=HERE.parent / "build/peers")
    parser.add_argument("--smpybandits", type=Path, help="a checkout to take SMPyBandits from")
    parser.add_argument("--out", type=Path, default=HERE.parent / "build/bandit.jsonl")
    parser.add_argument("--resume", action="store_true", help="play only what --out lacks")
    arguments = parser.parse_args()
    results = Results(arguments.out)
    if not arguments.show:
        everything = not (arguments.speed or arguments.regret or arguments.safety)
        if everything or arguments.safety:
            safety(arguments, results)
        if everything or arguments.speed:
            speed(children(arguments), arguments, results)
        if everything or arguments.regret:
            regret(children(arguments), arguments, results)
    lines = results.lines()
    tables = [header(lines), speed_table(lines), state_table(lines), safety_table(lines)]
    tables.append(regret_table(lines, arguments.ranked_us))
    print("\n\n".join(filter(None, tables)))
    return 0


def children(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Command of each library that is asked for, its environment made where it is missing."""
    commands = {}
    if arguments.only != "peers":
        commands["ours"] = [sys.executable, str(HERE / "bandit_ours.py")]
    for name in peers(arguments, PEERS):
        python = environment(name, arguments.venvs)
        source = (
            [str(arguments.smpybandits.resolve())] if name == "smpybandits" and arguments.smpybandits else []
        )
        commands[name] = [str(python), str(HERE / "bandit_peer.py"), name, *source]
    return commands


def peers(arguments: argparse.Namespace, among: tuple[str, ...]) -> list[str]:
    """Those of `among` that are asked for."""
    asked = [] if arguments.only == "ours" or arguments.peers == "none" else arguments.peers.split(",")
    for name in asked:
        if name not in (*PEERS, MIXER):
            raise SystemExit(f"no peer is called {name}; there are {', '.join((*PEERS, MIXER))}")
    return [name for name in asked if name in among]


def open_child(name: str, command: list[str], results: Results) -> Child:
    return Child(name, command, results.path.with_name(f"{results.path.stem}-{name}.log"))


def safety(arguments: argparse.Namespace, results: Results) -> None:
    """Feed every policy of ours, and the peer's mixer, losses of every size."""
    script = [sys.executable, str(HERE / "bandit_safety.py")]
    asked = [] if arguments.only == "peers" else [("firehose", [*script, "ours"])]
    for name in peers(arguments, (MIXER,)):
        packages = next(
            (environment(name, arguments.venvs, *NO_DEPS).parent.parent / "lib").glob("*/site-packages")
        )
        asked.append(("fms-acceleration-odm", [*script, name, str(packages)]))
    for library, command in asked:
        results.add(kind="forget", what="safety", library=library)
        say(f"safety: {library}")
        answered = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=ENVIRONMENT)
        for line in answered.stdout.splitlines():
            results.add(kind="safety", library=library, **json.loads(line))


def speed(commands: dict[str, list[str]], arguments: argparse.Namespace, results: Results) -> None:
    """Time every row at every number of arms: all rows take turns, a block of cycles each, several times over."""
    for count in arguments.arms:
        timed = []
        for name, command in commands.items():
            first = open_child(name, command, results)
            names = first.about["speed"]
            for number, row in enumerate(names):
                child = first if number == 0 else open_child(name, command, results)
                say(f"K = {count}: {child.about['library']} {row}")
                ready = child.ask(do="ready", name=row, arms=count)
                if "failed" in ready:
                    say(f"  skipped: {ready['failed']}")
                    child.close()
                    continue
                us = child.ask(do="cycles", count=20)["us"]
                timed.append((child, row, max(20, int(BLOCK_SECONDS / us * 1e6)), []))
        for _ in range(arguments.rounds):
            for child, _row, cycles, times in timed:
                times.append(round(child.ask(do="cycles", count=cycles)["us"], 3))
        for child, row, cycles, times in timed:
            about = {key: child.about[key] for key in ("library", "version", "python", "numpy")}
            results.add(kind="speed", row=row, arms=count, times=times, cycles=cycles, **about)
            if count == max(arguments.arms):
                results.add(kind="state", row=row, arms=count, **about, state=child.ask(do="state"))
            child.close()


def regret(commands: dict[str, list[str]], arguments: argparse.Namespace, results: Results) -> None:
    """Play every row on every problem and delay with every seed."""
    for name, command in commands.items():
        child = open_child(name, command, results)
        about = {key: child.about[key] for key in ("library", "version", "python", "numpy")}
        if not arguments.resume:
            results.add(kind="forget", what="regret", library=about["library"])
        for row, told in child.about["rows"].items():
            if (told and arguments.skip_told) or (arguments.rows or "") not in row:
                continue
            for problem in arguments.problems:
                for delay in arguments.delays:
                    cell = {
                        "kind": "regret",
                        "row": row,
                        "told": told,
                        "problem": problem,
                        "delay": delay,
                        **about,
                    }
                    play(child, cell, arguments, results)
        child.close()


def play(child: Child, cell: dict[str, Any], arguments: argparse.Namespace, results: Results) -> None:
    """Play the seeds of one cell that are missing, within its time."""
    same = ("kind", "library", "version", "row", "problem", "delay")
    have = {line["seed"] for line in results.lines() if all(line.get(key) == cell[key] for key in same)}
    missing = [seed for seed in range(arguments.seeds) if seed not in have]
    if not missing:
        return
    where = {key: cell[key] for key in ("row", "problem", "delay")}
    request = where | {"do": "play", "seeds": missing, "done": len(have)}
    for answer in child.answers(**request, least=arguments.least, limit=arguments.limit):
        if "failed" in answer:
            say(
                f"{cell['library']} {cell['row']}, {cell['problem']}, delay {cell['delay']}: {answer['failed']}"
            )
        else:
            results.add(**cell, **answer)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
