"""The gate against collapse: delays on a bank of trajectories, false halts, audits on salad and on real text, and its cost.

python bench/gate.py DATA [--built FOLDER]

DATA: a folder of NAME/{train,heldout}.jsonl, a line {"text": ...}; folders named contam-* are not English text. The token
files and what audits compare with are built from the training files, in FOLDER (kept and used again) or a temporary one;
the held-out files are only judged.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from bandit_table import processor
from gate_bank import KINDS, trajectories
from gate_halts import exact, simulate
from gate_words import measure

from curriculum.gate.audits import TextAudits
from curriculum.gate.backtest import backtest
from curriculum.gate.coherence import score, tokenize
from curriculum.gate.reference import NAME, load
from curriculum.gate.rule import Rules
from curriculum.text import tokenizer as tokenizers
from curriculum.text.build import BuildPlan, SourceText, build
from curriculum.tokens import manifest as manifests

EACH = 40  # trajectories a world and kind
PIECES = 500  # salad of a length
AUDITS = ("local_coherence", "longest_copy", "top_token_share", "script_share")
FIVE, NAMED, DEFAULT = Rules.read("5"), Rules(tally=0), Rules()


def main() -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--built", type=Path, help="folder of token files, built where it has none")
    parser.add_argument(
        "--runs", type=int, default=20_000, help="healthy runs simulated for each set of rules"
    )
    given = parser.parse_args()
    print(f"{processor()}, Python {sys.version.split()[0]}, one thread\n")
    names = sorted(path.name for path in given.data.iterdir() if (path / "train.jsonl").is_file())
    english = [name for name in names if not name.startswith("contam")]
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.built or Path(temporary)
        if not (folder / "manifest.json").exists():
            sources = {name: SourceText((given.data / name / "train.jsonl",)) for name in english}
            build(BuildPlan(folder, sources))
        audits = TextAudits.open(folder)
        size(folder, given.data, english)
        heldout = {name: list(texts(given.data / name / "heldout.jsonl")) for name in names}
        train = {name: list(texts(given.data / name / "train.jsonl")) for name in english}
        false_audits(audits, {name: heldout[name] for name in english})
        foreign(audits, {name: heldout[name] for name in names if name not in english})
        salads(audits, train, {name: heldout[name] for name in english})
        delays(audits, train)
        false_halts(given.runs)
        measure(train, heldout)
        cost(audits, folder, train)


def texts(path: Path) -> Iterable[str]:
    """The documents of a file."""
    for line in path.open(encoding="utf-8"):
        yield json.loads(line)["text"]


def pieces(documents: Iterable[str], tokens: int, most: int, seed: int = 0) -> list[str]:
    """Up to `most` pieces of so many white-space tokens, from anywhere; spacing and lines as they are."""
    found = []
    for document in documents:
        words = document.split(" ")
        taken, held = 0, []
        for word in words:
            held.append(word)
            taken += len(word.split())
            if taken >= tokens:
                found.append(" ".join(held))
                taken, held = 0, []
    random.Random(seed).shuffle(found)
    return found[:most]


def size(folder: Path, data: Path, english: Sequence[str]) -> None:
    """Bytes of what audits compare with."""
    text = sum((data / name / "train.jsonl").stat().st_size for name in english)
    found = load(folder, manifests.read(folder))
    assert found is not None
    print(
        f"{NAME}: {(folder / NAME).stat().st_size / found.header['bytes']:.2f} bytes a byte of trusted text"
    )
    print(f"  ({found.header['bytes'] / 1e6:.1f} MB of text counted, {text / 1e6:.1f} MB of files); ", end="")
    print(f"copies of {found.copies.sure} tokens and more are always found\n")


def false_audits(audits: TextAudits, heldout: dict[str, list[str]]) -> None:
    """Real text that audits found something in."""
    print(
        "Real held-out text in which an audit finds something: pieces of 60 and 120 tokens, documents of up to 420\n"
    )
    print(f"| source | pieces | any | {' | '.join(AUDITS)} |\n|---|---|---|{'---|' * len(AUDITS)}")
    total: Counter[str] = Counter()
    everything = 0
    for name, documents in heldout.items():
        tried = [*pieces(documents, 60, 400), *pieces(documents, 120, 400)]
        tried += [
            " ".join(document.split(" ")[:420]) for document in documents if len(document.split()) >= 16
        ]
        found: Counter[str] = Counter()
        for text in tried:
            judged = audits.judge(text).found
            found.update(judged)
            found["any"] += bool(judged)
        total += found
        everything += len(tried)
        print(f"| {name} | {len(tried)} | {rates(found, len(tried))} |")
    print(f"| all | {everything} | {rates(total, everything)} |\n")


def rates(found: Counter[str], of: int) -> str:
    """Cells of percentages."""
    return " | ".join(f"{100 * found[name] / max(1, of):.2f} %" for name in ("any", *AUDITS))


def foreign(audits: TextAudits, heldout: dict[str, list[str]]) -> None:
    """What must be caught, as far as audits are there for it."""
    print(
        "Contaminated held-out text: share of documents in which an audit finds something, and median score\n"
    )
    print(
        f"| source | documents | score | any | {' | '.join(AUDITS)} |\n|---|---|---|---|{'---|' * len(AUDITS)}"
    )
    for name, documents in heldout.items():
        found: Counter[str] = Counter()
        for text in documents:
            judged = audits.judge(text[:4000]).found
            found.update(judged)
            found["any"] += bool(judged)
        middle = statistics.median(score(text[:4000]).total for text in documents)
        print(f"| {name} | {len(documents)} | {middle:.0f} | {rates(found, len(documents))} |")
    print()


def salads(audits: TextAudits, train: dict[str, list[str]], heldout: dict[str, list[str]]) -> None:
    """Word salad, and real held-out text of the same lengths, under the local-coherence audit."""
    counts = Counter(
        token
        for documents in heldout.values()
        for document in documents
        for token in tokenize(document)
        if token.isalpha()
    )
    words = sorted(counts)
    weights = [counts[word] for word in words]
    print("Word salad of the held-out files' words, and real held-out text: share taken for salad\n")
    print("| tokens | uniform | by frequency | real text, all | worst source |\n|---|---|---|---|---|")
    for tokens in (20, 60, 300):
        draw = random.Random(tokens)
        cells = []
        for weighted in (None, weights):
            made = [" ".join(draw.choices(words, weighted, k=tokens)) for _ in range(PIECES)]
            cells.append(sum("local_coherence" in audits.judge(text).found for text in made) / PIECES)
        real = {}
        for name, documents in heldout.items():
            tried = pieces(documents, tokens, PIECES)
            real[name] = (sum("local_coherence" in audits.judge(text).found for text in tried), len(tried))
        share = sum(hit for hit, _ in real.values()) / sum(of for _, of in real.values())
        worst = max((hit / of, name, of) for name, (hit, of) in real.items() if of >= 20)
        print(
            f"| {tokens} | {cells[0]:.1%} | {cells[1]:.1%} | {share:.2%} of {sum(of for _, of in real.values())} "
            f"| {worst[1]} {worst[0]:.1%} of {worst[2]} |"
        )
    print()


def delays(audits: TextAudits, train: dict[str, list[str]]) -> None:
    """Samples from the first bad one to the halt, rule by rule, on the bank."""
    draw = random.Random("bank")
    stream = [word for name in sorted(train) for document in train[name][:40] for word in document.split()]
    real = [text for name in sorted(train) for text in pieces(train[name][:60], 90, 40)]

    def judged(made: Iterable[str]) -> list[tuple[float, tuple[str, ...]]]:
        return [(score(text).total, audits.judge(text).found) for text in made]

    # A good sample is new text: where it stands in the training files it would be found as a copy of them.
    good = [(value, tuple(name for name in found if name != "longest_copy")) for value, found in judged(real)]
    bad = {kind: judged(make(draw, stream) for _ in range(120)) for kind, make in KINDS.items()}
    print("Bad samples of the bank, share that is low: by score, by the audits, by either\n")
    print("| kind | score | audits | either |\n|---|---|---|---|")
    for kind, pool in [*bad.items(), ("good samples", good)]:
        low, heard = [value < 30 for value, _ in pool], [bool(found) for _, found in pool]
        either = sum(a or b for a, b in zip(low, heard, strict=True))
        print(
            f"| {kind} | {sum(low) / len(pool):.1%} | {sum(heard) / len(pool):.1%} | {either / len(pool):.1%} |"
        )
    found: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    by_kind: dict[str, list[float]] = defaultdict(list)
    unset: dict[str, list[int | None]] = defaultdict(list)
    runs = never = later = 0
    for run in trajectories(good, bad, EACH):
        ends = []
        for rules in (FIVE, NAMED, DEFAULT):
            halt = backtest(run.samples, rules, audit_halt=AUDITS).halt_step
            ends.append((run.samples[-1].step if halt is None else halt) - run.onset)
            never += halt is None
        runs += 1
        later += ends[2] > ends[0] or ends[1] > ends[0]
        found[run.world].append((ends[0], ends[1], ends[2]))
        by_kind[run.kind].append(ends[2] / max(1, ends[0]))
        halt = backtest(run.samples, DEFAULT).halt_step
        unset[run.kind].append(None if halt is None else (halt - run.onset) // 100)
    print(
        f"\nDetection on {runs} trajectories, all five kinds, audits halting: samples from the onset to the halt\n"
    )
    print("| share of bad samples | 5 in a row | both named rules | ratio | with the tally | ratio | asked |")
    print("|---|---|---|---|---|---|---|")
    for world, ends in found.items():
        print(row(world, ends, asked(world)))
    for label, chosen, limit in (
        ("steady 0.3 to 0.4", [w for w in found if w.startswith("steady") and w != "steady 0.5"], "0.25"),
        ("ramps", [w for w in found if w.startswith("ramp")], "0.75"),
    ):
        print(row(label, [end for world in chosen for end in found[world]], limit))
    print(f"\nlater than 5 in a row: {later} of {runs}; never halted by one of the three: {never}")
    print(
        "median ratio by kind: "
        + ", ".join(f"{k} {statistics.median(v):.2f}" for k, v in by_kind.items())
        + "\n"
    )
    print(
        "The same runs where gate.audit_halt names no audit, which is the default: halted, after how many samples\n"
    )
    print("| kind | halted | median delay |\n|---|---|---|")
    for kind, after in unset.items():
        halted = [one for one in after if one is not None]
        middle = f"{statistics.median(halted):.0f}" if halted else ""
        print(f"| {kind} | {len(halted)} of {len(after)} | {middle} |")
    print()


def asked(world: str) -> str:
    """The limit on the ratio of medians."""
    if world.startswith("ramp"):
        return "0.75"
    return "0.40" if world == "steady 0.5" else "0.25"


def row(world: str, ends: Sequence[tuple[int, int, int]], limit: str) -> str:
    """Medians of the delays, in samples, and their ratios to the first rule's."""
    five, named, default = (statistics.median(column) / 100 for column in zip(*ends, strict=True))
    return f"| {world} | {five:.0f} | {named:.0f} | {named / five:.3f} | {default:.0f} | {default / five:.3f} | {limit} |"


def false_halts(runs: int) -> None:
    """Healthy runs that are halted."""
    print("False halts of healthy runs: 2,000 samples, 5 % of them low\n")
    print(f"| rules | exact chance a run | of {runs:,} simulated |\n|---|---|---|")
    for rules in (FIVE, Rules.read("8/16"), NAMED, DEFAULT):
        print(f"| {rules.words()} | {exact(rules):.2e} | {simulate(rules, runs, seed=1)} |", flush=True)
    print()


def cost(audits: TextAudits, folder: Path, train: dict[str, list[str]]) -> None:
    """Milliseconds of one sample of 420 tokens of the tokenizer."""
    tokenizer = tokenizers.load(folder / manifests.read(folder).tokenizer.file)
    samples = []
    for name in sorted(train):
        for document in train[name][:200]:
            ids = tokenizer.encode(document)[:420]
            if len(ids) == 420:
                samples.append(tokenizer.decode(ids))
    samples = samples[:200]
    took: dict[str, list[float]] = {"score": [], "audits": []}
    for text in samples:
        began = time.perf_counter()
        score(text)
        middle = time.perf_counter()
        audits.judge(text)
        took["score"].append(1000 * (middle - began))
        took["audits"].append(1000 * (time.perf_counter() - middle))
    print(f"Cost of a sample of 420 tokens, ms, over {len(samples)}: median (90 %, most)\n")
    both = [a + b for a, b in zip(took["score"], took["audits"], strict=True)]
    for name, values in {**took, "both": both}.items():
        values.sort()
        print(
            f"- {name}: {statistics.median(values):.2f} ({values[int(0.9 * len(values))]:.2f}, {values[-1]:.2f})"
        )


if __name__ == "__main__":
    main()
