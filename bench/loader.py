"""The loader beside a raw gather and beside HF datasets, MosaicML Streaming, Grain and torchdata, all on one machine.

    python bench/loader.py                      everything; the peers from PyPI: a quarter of an hour on a quiet core
    python bench/loader.py --peers none         ours alone: some minutes
    python bench/loader.py --only gather        tokens a second against nanoGPT's get_batch and a plain stack of slices
    python bench/loader.py --only pick          a pick, its credit, its windows, its tokens; state; resume
    python bench/loader.py --only many          launch, memory and descriptors with --sources 10000, 1,024 files allowed
    python bench/loader.py --only edits         the eight edits of a mixture between two sittings

The peers run in a virtual environment made from bench/peers/loader.txt, or by --python. Times are processor time, the
least and the median of several blocks: the machine may be busy.
"""

import argparse
import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from environments import environment
from loader_edits import EDITS
from loader_ours import Sitting, edit, write_config, write_sources

from bandit.arms import ArmSpec, new_id
from bandit.scheduler import Scheduler, SchedulerConfig
from curriculum import config as configs
from curriculum.sources import open_corpus
from curriculum.tokens.btok import Btok
from curriculum.tokens.corpus import Corpus
from curriculum.tokens.windows import WindowsAhead
from state.run_dir import RunDir
from state.survey import reconciled
from trainer import build, collector

HERE = Path(__file__).resolve().parent
PEERS = (
    "torchdata nodes",
    "grain Iter, dict",
    "grain Iter, list",
    "grain Map",
    "HF interleave",
    "MosaicML Streaming",
)
SHAPES = ((12, 64), (32, 1024), (64, 1024))
TOKENS = 20_000_000
BLOCKS = 15
DELAY = 8
RANDOM = np.random.default_rng(1)
DESCRIPTORS = 1024


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("gather", "pick", "many", "edits"))
    parser.add_argument("--peers", default=";".join(PEERS), help="some of them, by semicolon, or none")
    parser.add_argument("--python", help="a Python that has the peers, instead of an environment of our own")
    parser.add_argument("--venvs", type=Path, default=HERE.parent / "build/peers")
    parser.add_argument("--sources", type=int, default=10_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"machine {platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; "
        f"Python {platform.python_version()}, numpy {np.__version__}, torch {torch.__version__}"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments.only in (None, "gather"):
            gather(folder / "gather")
        if arguments.only in (None, "pick"):
            pick()
            resume(folder / "resume")
        if arguments.only in (None, "many"):
            many(folder / "many", arguments.sources)
        if arguments.only in (None, "edits"):
            return edits(folder, arguments)
    return 0


def timed(work: Callable[[], Any], calls: int) -> list[float]:
    """Processor seconds of a call, in each of BLOCKS blocks."""
    work()
    times = []
    for _ in range(BLOCKS):
        began = time.process_time()
        for _ in range(calls):
            work()
        times.append((time.process_time() - began) / calls)
    return times


def told(times: list[float], scale: float = 1e6) -> str:
    return f"{scale * min(times):.2f} ({scale * statistics.median(times):.2f})"


def gather(folder: Path) -> None:
    """Tokens a second into int64, of the same windows: ours, a stack of slices of a memmap, nanoGPT's get_batch."""
    for rows, block in SHAPES:
        corpus = one_source(folder / f"{rows}x{block}", block)
        path, windows = corpus.info("a").path, corpus.info("a").windows
        raw = np.memmap(path, dtype=np.uint16, mode="r", offset=64, shape=corpus.info("a").tokens)
        out = np.empty((rows, block + 1), dtype=np.int64)
        narrow = np.empty((rows, block + 1), dtype=corpus.dtype)
        cursor = 0

        def ours(into: Any, corpus: Corpus = corpus) -> None:
            nonlocal cursor
            corpus.fill(into, "a", 7, cursor)
            cursor += len(into)

        def starts(rows: int = rows, block: int = block, windows: int = windows) -> list[int]:
            return (RANDOM.integers(0, windows, rows) * block).tolist()

        def stacked(raw: Any = raw, block: int = block) -> None:
            np.stack([raw[start : start + block + 1] for start in starts()]).astype(np.int64)

        def nanogpt(raw: Any = raw, block: int = block) -> None:
            at = starts()
            torch.stack([torch.from_numpy(raw[i : i + block].astype(np.int64)) for i in at])
            torch.stack([torch.from_numpy(raw[i + 1 : i + 1 + block].astype(np.int64)) for i in at])

        rivals = {
            "ours, to int64": lambda out=out: ours(out),
            "ours, width on disk": lambda out=narrow: ours(out),
            "stack of slices": stacked,
            "nanoGPT get_batch": nanogpt,
        }
        times: dict[str, list[float]] = {name: [] for name in rivals}
        calls = max(30, 2_000_000 // (rows * block))
        for _ in range(BLOCKS):  # in turns
            for name, work in rivals.items():
                began = time.process_time()
                for _ in range(calls):
                    work()
                times[name].append((time.process_time() - began) / calls)
        base = min(times["stack of slices"])
        for name, taken in times.items():
            rate = rows * block / min(taken) / 1e6
            print(
                f"gather {rows} x {block}: {name:<20} {told(taken):>18} us  {rate:8.0f} M tokens/s  {base / min(taken):.2f}x"
            )


def one_source(folder: Path, block: int) -> Corpus:
    """A source of TOKENS tokens, read in windows of `block`."""
    write_sources(folder, {"a": TOKENS // 4})
    return Corpus.open(folder, block, seed=1)


def pick() -> None:
    """Microseconds of each part of a pull, and the state, with few and many sources."""
    for count in (3, 26):
        for accumulated in (1, 4, 8, 40):
            alone, counted, credited = picks(count, accumulated)
            print(
                f"pick K = {count}, {accumulated} a step: alone {told(alone)} us, with what is due counted "
                f"{told(counted)}, a credit {told(credited)}"
            )
    for rows in (12, 64):
        ahead, at = WindowsAhead(1), [0]

        def windows(ahead: WindowsAhead = ahead, at: list[int] = at, rows: int = rows) -> None:
            ahead.take(7, 1_000_003, at[0], rows)
            at[0] += rows

        print(f"windows of a pull of {rows}: {told(timed(windows, 2000))} us")
    for count in (3, 26, 10_000):
        scheduler = played(scheduler_of(count, 4), 400)
        took = timed(lambda s=scheduler: msgspec.json.encode(s.saved()), 5)
        size = len(msgspec.json.encode(scheduler.saved()))
        saved = scheduler.saved()
        own = [ArmSpec(spec.name, spec.id, spec.windows) for spec in scheduler.arms.specs]
        back = timed(lambda s=scheduler, own=own, saved=saved: Scheduler.restore(s.config, own, saved), 2)
        print(
            f"state K = {count}: {size:,} bytes of JSON, {size / count:.0f} a source, get and encode {told(took)} us, "
            f"restore {told(back, 1000)} ms"
        )


def scheduler_of(count: int, accumulated: int, delay: int = DELAY) -> Scheduler:
    settings = SchedulerConfig(seed=1, grad_accum=accumulated, windows_per_pull=12, delay=delay)
    names = [f"source-{number:05d}" for number in range(count)]
    return Scheduler(settings, [ArmSpec(name, new_id(name, ()), windows=100_000) for name in names])


def played(scheduler: Scheduler, steps: int) -> Scheduler:
    """The scheduler after so many steps of rewards between 0 and 1."""
    held: dict[int, Any] = {}
    for step in range(1, steps + 1):
        for ticket in held.pop(step - DELAY, ()):
            scheduler.credit(ticket.id, ticket.id * 7919 % 1000 / 1000)
        held[step] = scheduler.pick_all(step)
    return scheduler


def picks(count: int, accumulated: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds of a pick with nothing to count; of a pick with the credits it counts; of handing in a credit."""
    alone, counted, credited = [], [], []
    # Of an own scheduler each: the picks of one are never due.
    first, second = scheduler_of(count, accumulated, delay=1 << 40), scheduler_of(count, accumulated)
    held: dict[int, Any] = {}
    step = 0
    for block in range(4 * BLOCKS):
        steps = range(step + 1, step + 1 + max(50, 400 // accumulated))
        began = time.process_time()
        for step in steps:
            first.pick_all(step)
        alone.append((time.process_time() - began) / len(steps) / accumulated)
        picking = crediting = 0.0
        for step in steps:
            due = held.pop(step - DELAY, ())
            began = time.process_time()
            for ticket in due:
                second.credit(ticket.id, 0.5)
            between = time.process_time()
            held[step] = second.pick_all(step)
            crediting, picking = crediting + between - began, picking + time.process_time() - between
        if block:
            counted.append(picking / len(steps) / accumulated)
            credited.append(crediting / len(steps) / accumulated)
    return alone, counted, credited


def resume(folder: Path) -> None:
    """The first batch of a process whose source stands at a cursor: map, permutation and tokens, 12 windows of 64."""
    corpus = one_source(folder, 64)
    out = np.empty((12, 65), dtype=np.int64)
    for cursor in (0, 10**6, 10**12):

        def first(cursor: int = cursor) -> None:
            Btok.open(corpus.info("a").path)
            fresh = Corpus(corpus.folder, corpus.manifest, 64, 1)
            fresh.fill(out, "a", 7, cursor)

        print(f"resume at window {cursor:,}: first batch after {told(timed(first, 20))} us")


def many(folder: Path, count: int) -> None:
    """Launch and pulls of a mixture of `count` sources of 20 to 4,000 windows, with 1,024 descriptors allowed."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))
    random = np.random.default_rng(2)
    sizes = np.minimum(20 * (1 + random.pareto(1.2, count)), 4000).astype(int).tolist()
    weights = {f"source-{number:05d}": 1.0 for number in range(count)}
    write_sources(folder / "data", dict(zip(weights, sizes, strict=True)))
    run = RunDir(folder / "run")
    run.root.mkdir()
    config = write_config(run.config, weights, folder / "data")
    memory = resident_mib()
    seconds: dict[str, float] = {}

    def step(name: str, work: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = work()
        seconds[name] = time.process_time() - began
        return result

    config = step("config", lambda: configs.load(config.path))
    corpus = step("manifest", lambda: open_corpus(config))
    result = step("every file read and compared", lambda: reconciled(config, corpus, {}, step=0))
    made = step(
        "scheduler",
        lambda: build.bandit(
            config, corpus, result.ids, result.payload, 0, lambda _: None, fresh=True, renew=False
        ),
    )
    print(
        f"launch of {count:,} sources: "
        + ", ".join(f"{name} {spent:.2f} s" for name, spent in seconds.items())
    )
    scheduler, names = made[0], {arm_id: name for name, arm_id in result.ids.items()}
    out = np.empty((1, corpus.block_size + 1), dtype=corpus.dtype)
    for turn in ("first", "second"):
        picking = filling = 0.0
        for number in range(1, count // 4 + 1):
            at = number if turn == "first" else number + count // 4
            began = time.process_time()
            tickets = scheduler.pick_all(at)
            between = time.process_time()
            for ticket in tickets:
                corpus.fill(out, names[ticket.arm], ticket.arm, ticket.window)
            filling += time.process_time() - between
            picking += between - began
            for ticket in tickets:
                scheduler.credit(ticket.id, 0.5)
        print(
            f"{turn} pull of each: pick {1e6 * picking / count:.1f} us, windows and tokens {1e6 * filling / count:.1f} us"
        )
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    print(f"{descriptors} descriptors open, {resident_mib() - memory:.0f} MiB more resident")
    collected = timed(gc.collect, 1)
    with collector.at_boundaries():
        print(
            f"a full collection: {told(collected, 1000)} ms; as a run has it {told(timed(gc.collect, 1), 1000)} ms"
        )
    size = len(msgspec.json.encode(scheduler.saved()))
    print(
        f"state: {size / count:.0f} bytes a source; with hashes and reward {whole(scheduler, made[1], result) / count:.0f}"
    )
    sitting = Sitting(config, run)
    began = time.process_time()
    sitting.commit()
    print(f"a commit of the state: {1000 * (time.process_time() - began):.0f} ms")
    sitting.feed.close()


def whole(scheduler: Scheduler, reward: Any, result: Any) -> int:
    payload = {"bandit": scheduler.saved(), "reward": reward.snapshot(), "data": result.payload["data"]}
    return len(msgspec.json.encode(payload))


def resident_mib() -> float:
    """Resident memory of this process that is no file's, in MiB."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")) / 1024


def edits(folder: Path, arguments: argparse.Namespace) -> int:
    """The tables of edits, ours and theirs; the status says whether all of ours are right."""
    rows = [
        {
            "name": "firehose",
            "version": "",
            "edits": {name: edit(name, folder / "edits") for name in ready(folder)},
        }
    ]
    asked = [] if arguments.peers == "none" else arguments.peers.split(";")
    for name in asked:
        python = arguments.python or str(environment("loader", arguments.venvs))
        answer = folder / "answer.json"
        answer.unlink(missing_ok=True)
        command = [python, str(HERE / "loader_peer.py"), name, str(answer)]
        ended = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        if not answer.exists():
            print(f"{name} failed: {ended.stderr.strip().splitlines()[-1:]}")
            continue
        rows.append(json.loads(answer.read_text()))
    print(f"\n| edit | {' | '.join(row['name'] for row in rows)} |\n|---|{'---|' * len(rows)}")
    for name in EDITS:
        print(f"| {name} | {' | '.join(verdict(row['edits'][name]) for row in rows)} |")
    right = [sum(verdict(row["edits"][name]) == "ok" for name in EDITS) for row in rows]
    print(f"| right | {' | '.join(f'{number} of {len(EDITS)}' for number in right)} |\n")
    for row in rows[1:]:
        print(f"{row['name']} ({row['version']}): {measured(row)}")
    return int(right[0] != len(EDITS))


def ready(folder: Path) -> list[str]:
    (folder / "edits").mkdir()
    return list(EDITS)


def verdict(found: dict[str, Any]) -> str:
    """`ok` where the edit took effect and no sample was repeated or skipped; else what went wrong."""
    if "failed" in found:
        return f"{found['failed'].split(':')[0]}"
    repeated, skipped = sum(found["repeated"].values()), sum(found["skipped"].values())
    wrong = [f"{repeated} repeated"] * (repeated > 0) + [f"{skipped} skipped"] * (skipped > 0)
    # Shares drawn at random are 0.011 off in 2,000 draws at one deviation; five of them are an edit without effect.
    wrong += [f"shares {found['off']:.2f} off"] * (found["off"] > 0.055)
    return ", ".join(wrong) or "ok"


def measured(row: dict[str, Any]) -> str:
    def one(value: Any, show: Callable[[Any], str]) -> str:
        return value["failed"].split(":")[0] if isinstance(value, dict) and "failed" in value else show(value)

    picks = ", ".join(
        f"K = {count} {one(value, lambda v: told(v, 1))} us" for count, value in row["pick"].items()
    )
    states = ", ".join(
        f"K = {count} {one(value, lambda v: '{:,} bytes in {:.0f} us'.format(v['bytes'], v['us']))}"
        for count, value in row["state"].items()
    )
    resumes = ", ".join(
        f"{after} {one(value, lambda v: f'{v:.1f} ms')}" for after, value in row["resume"].items()
    )
    return f"a sample {picks}; state {states}; resume after {resumes}"


if __name__ == "__main__":
    sys.exit(main())
