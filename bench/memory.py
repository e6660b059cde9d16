"""Peak anonymous memory of building token files from a large synthetic JSONL, reading them all, and training on them.

    python bench/memory.py [MIB]      default 1024; --limit MIB (600) is the exit status, --dir keeps the files

Anonymous memory is `RssAnon` of /proc/PID/status, summed over the process and its children every 10 ms: the mapped
token files are not in it. Each stage runs in a process of its own. The text has Zipf-distributed words whose number
keeps growing (about 1 new word in 150 at 100 MB), so that the tokenizer's word table is as large as with real text.
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from curriculum.text.build import BuildPlan, SourceText, build
from curriculum.tokens.corpus import Corpus
from state.run_dir import RunDir

SYLLABLES = [consonant + vowel for consonant in "bcdfghjklmnprstvwz" for vowel in "aeiou"]
BLOCK_SIZE = 1024
STEPS = 40
CONFIG = f"""
[data]
dir = "tokens"
[model]
preset = "tiny"
[train]
steps = {STEPS}
boundary_every = 20
sample_every = 20
heldout_every = 20
checkpoint_every = 40
warmup_steps = 10
[sources.synthetic]
path = "synthetic.jsonl"
"""
WINDOWS = 8  # windows of a batch


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("mib", nargs="?", type=int, default=1024, help="size of the JSONL in MiB")
    parser.add_argument("--limit", type=int, default=600, help="peak that makes the exit status 1, in MiB")
    parser.add_argument("--dir", type=Path, help="folder to work in, and leave the files in")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.dir or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        write_jsonl(folder / "synthetic.jsonl", arguments.mib << 20)
        build_peak, build_seconds = measure(build_all, folder)
        read_peak, read_seconds = measure(read_all, folder)
        (folder / "memory.toml").write_text(CONFIG)
        train_peak, _ = measure(train, folder)
        run = RunDir(folder / "runs/memory")
        newest = run.checkpoints / f"step_{STEPS}/checkpoint.json"
        parameters = msgspec.json.decode(newest.read_bytes())["parameters"]
        # Weights, gradients and AdamW's two moments, four bytes each.
        model = parameters * 16 / (1 << 20)
        tokens = Corpus.open(folder / "tokens", BLOCK_SIZE, seed=1).info("synthetic").tokens
    print(
        f"JSONL {arguments.mib} MiB, {tokens:,} tokens | "
        f"build: peak {build_peak:.0f} MiB anonymous, {arguments.mib * 1.048576 / build_seconds:.1f} MB/s | "
        f"check and read: peak {read_peak:.0f} MiB anonymous, {tokens / read_seconds / 1e6:.1f} M tokens/s | "
        f"train {STEPS} steps: peak {train_peak:.0f} MiB anonymous, {model:.0f} of them the model | "
        f"limit {arguments.limit} MiB beyond the model"
    )
    return int(max(build_peak, read_peak, train_peak - model) > arguments.limit)


def write_jsonl(path: Path, size: int) -> None:
    """Write documents of 20 to 700 words until the file has `size` bytes."""
    random = np.random.default_rng(1)
    spelled: dict[int, str] = {}
    with path.open("wb") as file:
        while file.tell() < size:
            ranks = random.zipf(1.35, random.integers(20, 700)) % (1 << 40)
            words = [spelled.get(rank) or spelled.setdefault(rank, spell(rank)) for rank in ranks.tolist()]
            file.write(msgspec.json.encode({"text": " ".join(words)}) + b"\n")
            if len(spelled) > 1 << 20:
                spelled.clear()


def spell(rank: int) -> str:
    word = ""
    while rank:
        rank, syllable = divmod(rank, len(SYLLABLES))
        word += SYLLABLES[syllable]
    return word


def build_all(folder: Path) -> None:
    build(BuildPlan(folder / "tokens", {"synthetic": SourceText((folder / "synthetic.jsonl",))}))


def read_all(folder: Path) -> None:
    """What a launch and one epoch read: the check against the manifest, then every window in served order."""
    corpus = Corpus.open(folder / "tokens", BLOCK_SIZE, seed=1)
    corpus.check("synthetic")
    out = np.empty((WINDOWS, BLOCK_SIZE + 1), dtype=corpus.dtype)
    for first in range(0, corpus.info("synthetic").windows, WINDOWS):
        corpus.fill(out, "synthetic", arm_id=1, first_window=first)
    corpus.heldout("synthetic", 64)


def train(folder: Path) -> None:
    """Some steps of a tiny model, with samples, held-out losses and a checkpoint."""
    from trainer import runner  # here, so that torch is not in the other stages' memory
    from trainer.signals import Flags

    plan = runner.plan(folder / "memory.toml", name=None, runs_dir=folder / "runs", resume="never")
    runner.train(plan, flags=Flags())


def measure(work: Callable[[Path], None], folder: Path) -> tuple[float, float]:
    """Run `work(folder)` in a process of its own; returns (peak anonymous MiB, seconds)."""
    process: Any = multiprocessing.get_context("spawn").Process(target=work, args=(folder,))
    started = time.monotonic()
    process.start()
    peak = 0
    while process.is_alive():
        peak = max(peak, anonymous_kib(process.pid))
        process.join(0.01)
    if process.exitcode != 0:
        raise SystemExit(f"{work.__name__} failed with exit status {process.exitcode}")
    return peak / 1024, time.monotonic() - started


def anonymous_kib(pid: int) -> int:
    """Anonymous resident memory of a process and its descendants, in KiB; 0 for one that has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    own = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")), 0)
    return own + sum(map(anonymous_kib, children))


if __name__ == "__main__":
    raise SystemExit(main())
