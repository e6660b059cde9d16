"""What each cleaning rule drops of each source, and how fast: the confusion table, MB/s a core, memory on 10 x the input.

    python bench/clean.py DATA [--part heldout|train] [--no-speed] [--prompts FOLDER ...]

DATA holds a folder a source with heldout.jsonl and train.jsonl (lines of `text` and `src`). Rules are tuned on the
train files only; the table is of the held-out files. Each rule is asked by itself, so that a document may count under
several. Sources named contam-* are what the rules are for; the others are honest text. --prompts: folders of system
prompts as Markdown; those that share no 60 letters with one of DATA, on either side of its split, are judged. Speed and memory are of all files,
read, judged and compared as `firehose data clean` does it, in one process; seconds are of the processor. The exit status
is 1 where a figure asked for is not reached.
"""

import argparse
import itertools
import json
import math
import multiprocessing
import os
import platform
import re
import resource
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from curriculum.config import Clean
from curriculum.text.clean import Cleaner, judges
from curriculum.text.read import documents
from curriculum.text.rules import RULES, Text

LIMITS = Clean()
RUN = 60  # letters that two prompts share by descent, not by chance
ROUNDS = 3  # of the measures of speed
SHAPE, SCRIPT, LISTS = ("prompt shape",), ("script drift",), ("list", "repetition")
CHAT = ("oasst", "chat-topical", "chat-task", "instruct")
PROSE = (*CHAT, "smoltalk-like", "irc-qa", "gutenberg")
AGENTS = re.compile(r"awesome-(copilot-.*|cursorrules)")

Rows = dict[str, list[dict[str, str]]]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--part", choices=("heldout", "train"), default="heldout")
    parser.add_argument("--no-speed", action="store_true")
    parser.add_argument("--prompts", type=Path, nargs="+", default=[])
    arguments = parser.parse_args()
    print(f"{cpu()}, Python {platform.python_version()}; {arguments.part} files of {arguments.data}\n")
    rows = read(arguments.data, arguments.part)
    broken = {
        name: [
            frozenset(rule for rule, drops in RULES.items() if drops(Text(row["text"]), LIMITS))
            for row in found
        ]
        for name, found in rows.items()
    }
    print_table(broken)
    good = figures(rows, broken)
    if arguments.prompts:
        unseen(
            arguments.prompts, [rows["contam-sysprompt"], read(arguments.data, "train")["contam-sysprompt"]]
        )
    if not arguments.no_speed:
        good &= speed(sorted(arguments.data.glob("*/*.jsonl")))
    return 0 if good else 1


def read(data: Path, part: str) -> Rows:
    """The rows of every source's file of that part."""
    return {
        path.parent.name: [json.loads(line) for line in path.open(encoding="utf-8")]
        for path in sorted(data.glob(f"*/{part}.jsonl"))
    }


def print_table(broken: dict[str, list[frozenset[str]]]) -> None:
    """Rule by source, counts and shares."""
    names = [rule for rule in RULES if rule != "empty"]
    print(
        f"{'source':<17} {'documents':>9}",
        *(f"{name.removesuffix(' paragraph'):>15}" for name in names),
        f"{'any':>15}",
    )
    for source, found in broken.items():
        counts = [sum(name in each for each in found) for name in names]
        cells = (f"{count:,} ({count / len(found):.1%})" for count in (*counts, sum(map(bool, found))))
        print(f"{source:<17} {len(found):>9,}", *(f"{cell:>15}" for cell in cells))
    print()


def figures(rows: Rows, broken: dict[str, list[frozenset[str]]]) -> bool:
    """The figures that were asked for, each with its counts; whether all are reached."""
    good = True

    def told(
        what: str, rules: Iterable[str], flags: list[frozenset[str]], asked: str, met: Callable[[float], bool]
    ) -> None:
        nonlocal good
        count = sum(not each.isdisjoint(rules) for each in flags)
        share = count / max(1, len(flags))
        good &= met(share)
        print(
            f"{what:<46} {count:>5,} of {len(flags):>6,}  {share:>7.2%}  {asked:<12} {'' if met(share) else 'MISSED'}"
        )

    by_src = defaultdict(list)
    for row, flags in zip(rows["contam-sysprompt"], broken["contam-sysprompt"], strict=True):
        by_src["agents" if AGENTS.fullmatch(row["src"]) else row["src"]].append(flags)
    told(
        "prompt shape: copilot and cursorrules",
        SHAPE,
        by_src["agents"],
        ">= 95 %",
        lambda share: share >= 0.95,
    )
    told(
        "prompt shape: prompts-csv (many are honest)",
        SHAPE,
        by_src["prompts-csv"],
        "reported",
        lambda share: True,
    )
    for source in CHAT:
        told(f"prompt shape: {source}", SHAPE, broken[source], "< 1 %", lambda share: share < 0.01)
    for source in ("contam-cjk", "contam-cyrillic"):
        told(f"script drift: {source}", SCRIPT, broken[source], ">= 99 %", lambda share: share >= 0.99)
    english = [flags for name, found in broken.items() if not name.startswith("contam-") for flags in found]
    told("script drift: all English sources", SCRIPT, english, "< 0.2 %", lambda share: share < 0.002)
    told(
        "list, repetition: contam-lists", LISTS, broken["contam-lists"], ">= 90 %", lambda share: share >= 0.9
    )
    for source in PROSE:
        told(f"list, repetition: {source}", LISTS, broken[source], "< 2 %", lambda share: share < 0.02)
    print()
    return good


def unseen(folders: list[Path], known: list[list[dict[str, str]]]) -> None:
    """Prompt shape on prompts of which DATA has none, by folder: the first 7,000 characters, without front matter."""
    seen = set()
    for row in itertools.chain(*known):
        letters = folded(row["text"])
        seen |= {letters[at : at + RUN] for at in range(max(1, len(letters) - RUN))}
    total: list[bool] = []
    for folder in folders:
        found = []
        for path in sorted(path for path in folder.rglob("*") if path.suffix in (".md", ".mdc")):
            text = path.read_text(encoding="utf-8", errors="replace")
            text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.S).strip()[:7000]
            letters = folded(text)
            runs = {letters[at : at + RUN] for at in range(0, max(1, len(letters) - RUN), RUN // 2)}
            if len(text) >= 150 and path.name.lower() != "readme.md" and runs.isdisjoint(seen):
                turn = "> " + re.sub("^(?=[<>] )", " ", text, flags=re.M)  # as in DATA: no line forges a turn
                found.append(RULES["prompt shape"](Text(turn), LIMITS))
        print(f"prompt shape: {folder.name}, not in DATA: {shares(found)}")
        total += found
    print(f"prompt shape: all of them: {shares(total)}\n")


def folded(text: str) -> str:
    """The letters and digits of a text, in lower case."""
    return re.sub(r"\W+", "", text).lower()


def shares(flags: list[bool]) -> str:
    """Count, share and its interval of 95 % (Wilson 1927, as in Brown, Cai and DasGupta 2001, equation 4)."""
    count, total = sum(flags), max(1, len(flags))
    share, z = count / total, 1.96
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return f"{count:,} of {len(flags):,}, {share:.1%} ({middle - half:.1%} to {middle + half:.1%})"


def speed(files: list[Path]) -> bool:
    """MB of files a second of processor time, and the peak of memory on one and on ten times the text."""
    size = sum(file.stat().st_size for file in files)
    with tempfile.TemporaryDirectory() as folder:
        tenfold = Path(folder, "tenfold.jsonl")
        repeat(files, tenfold, 10)
        grown = tenfold.stat().st_size
        once, ten, split = [], [], []
        for _ in range(ROUNDS):  # in turns, since other programs may share the machine
            once += [measured(files) for _ in range(3)]
            ten.append(measured([tenfold]))
            split.append(splitting(files))
        rate = max(size / seconds for seconds, _, _ in once) / 1e6
        for times, found, of in (("once", once, size), ("ten times", ten, grown)):
            rates = sorted(of / seconds / 1e6 for seconds, _, _ in found)
            print(
                f"speed, the text {times} ({of / 1e6:.1f} MB): {rates[-1]:.1f} MB/s a core at best, "
                f"median {statistics.median(rates):.1f}, least {rates[0]:.1f}, of {len(rates)} (asked: >= 20)"
            )
        print(f"  beside it, str.split() of the same text: {max(split):.0f} MB/s at best")
        more, documents_more = ten[0][1] - once[0][1], ten[0][2] - once[0][2]
        print(
            f"memory: peak {once[0][1] / 2**20:.0f} MiB, on ten times the text {ten[0][1] / 2**20:.0f} MiB: "
            f"{more / max(1, documents_more):.0f} bytes for each of {documents_more:,} documents more that were kept"
        )
    return rate >= 20


def repeat(files: list[Path], target: Path, times: int) -> None:
    """All lines of some files so many times over, each time another text, so that nothing is a duplicate."""
    with target.open("w", encoding="utf-8") as out:
        for turn in range(times):
            for file in files:
                for line in file.open(encoding="utf-8"):
                    row = json.loads(line)
                    row["text"] += f" {turn}"
                    out.write(json.dumps(row, ensure_ascii=False) + "\n")


def measured(files: list[Path]) -> tuple[float, int, int]:
    """Processor seconds, peak bytes of memory and documents kept, of a cleaning in a process of its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_clean, args=(files, sender))
    process.start()
    found: tuple[float, int, int] = receiver.recv()
    process.join()
    return found


def _clean(files: list[Path], sender: Any) -> None:
    start = time.process_time()
    with judges(0, 1) as alone:
        cleaner = Cleaner(LIMITS, alone)
        for _ in cleaner.clean(documents("bench", files)):
            pass
    seconds = time.process_time() - start
    sender.send(
        (seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10, cleaner.tally.documents_out)
    )


def splitting(files: list[Path]) -> float:
    """MB/s of cutting the same text into words, as a measure of the machine at this moment."""
    texts = [document.text for document in documents("bench", files)]
    start = time.process_time()
    for text in texts:
        text.split()
    return sum(file.stat().st_size for file in files) / (time.process_time() - start) / 1e6


def cpu() -> str:
    """The processor's name and the cores this process may use."""
    lines: Iterator[str] = iter(Path("/proc/cpuinfo").read_text().splitlines())
    name = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )
    return f"{name}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    sys.exit(main())
