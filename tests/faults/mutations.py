"""Damaged state files: whatever happens to the bytes, a file is refused with a finding or opens as exactly what it was.

`python -m tests.faults.mutations --count 1000000` prints what became of them by kind of damage; it exits 1 where one
escaped with another exception, or opened as something else.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from curriculum.errors import FirehoseError
from state.envelope import make, open_envelope, seal

STATES = Path(__file__).parents[1] / "fixtures/states/v2"
PATH = Path("mutant.state.json")
TOKENS = (*'0123456789-+.eE{}[],:"\\ \n', "null", "true", "NaN", "1e999", "\\u0000", '"', "\x00", "\xff")
SECTOR = 512


def small(serial: int) -> bytes:
    """A state of two arms, every field of a record in it: 3 KB, so that a mutation takes little time."""
    records = {
        name: {"id": number, "cap": 1.3, "floor": 0.1, "mean": None, "cursor": 40 * serial, "eligible": True}
        for number, name in enumerate(("books", "forum"), start=1)
    }
    payload = {
        "bandit": {"arms": records, "deals": [], "step": serial, "tickets": [{"id": serial, "credit": 0.25}]},
        "pruned": {"code": {"record": {"id": 3, "cap": 0.0}, "reason": "its cap is 0", "step": 3}},
        "files": {"loss": {"bytes": 310, "rows": serial, "sha256": "a" * 64}},
        "halt": None,
    }
    made = make(
        payload,
        lineage="0f9c2f66-7a55-4f0e-9d0f-6f5a5b9f2a11",
        serial=serial,
        step=serial,
        written_at="2026-01-02T03:04:05Z",
        config_sha256="c" * 64,
    )
    return seal(made)


@dataclass(frozen=True)
class Subject:
    """A sound file, and another sound one of the same run, for damage that mixes the two."""

    data: bytes
    other: bytes


def flip(draw: Random, at: Subject) -> bytes:
    """Turn over one to three bits."""
    data = bytearray(at.data)
    for _ in range(draw.randrange(1, 4)):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


def delete(draw: Random, at: Subject) -> bytes:
    """Leave out 1 to 64 bytes, most often few."""
    start = draw.randrange(len(at.data))
    return at.data[:start] + at.data[start + _short(draw) :]


def insert(draw: Random, at: Subject) -> bytes:
    """Put in bytes that JSON is made of."""
    start = draw.randrange(len(at.data) + 1)
    what = "".join(draw.choice(TOKENS) for _ in range(draw.randrange(1, 4))).encode("latin-1")
    return at.data[:start] + what + at.data[start:]


def replace(draw: Random, at: Subject) -> bytes:
    """Put one byte that JSON is made of in another's place."""
    data = bytearray(at.data)
    data[draw.randrange(len(data))] = ord(draw.choice(TOKENS)[0])
    return bytes(data)


def duplicate(draw: Random, at: Subject) -> bytes:
    """Repeat a line or a stretch of bytes where it stands."""
    if draw.random() < 0.5:
        lines = at.data.splitlines(keepends=True)
        line = draw.randrange(len(lines))
        return b"".join([*lines[: line + 1], *lines[line:]])
    start = draw.randrange(len(at.data))
    end = start + _short(draw)
    return at.data[:end] + at.data[start:]


def zero(draw: Random, at: Subject) -> bytes:
    """Zero a sector, or a part of one."""
    size = draw.choice((8, 64, SECTOR))
    start = draw.randrange(0, len(at.data), size)
    hole = bytes(min(size, len(at.data) - start))
    return at.data[:start] + hole + at.data[start + size :]


def truncate(draw: Random, at: Subject) -> bytes:
    """End early, at a sector or anywhere."""
    end = draw.randrange(len(at.data))
    return at.data[: end - end % SECTOR] if draw.random() < 0.3 else at.data[:end]


def swap(draw: Random, at: Subject) -> bytes:
    """Exchange two lines, or two stretches of bytes of one length."""
    if draw.random() < 0.5:
        lines = at.data.splitlines(keepends=True)
        one, two = draw.randrange(len(lines)), draw.randrange(len(lines))
        lines[one], lines[two] = lines[two], lines[one]
        return b"".join(lines)
    size = _short(draw)
    one, two = sorted(draw.randrange(len(at.data)) for _ in range(2))
    two = max(two, one + size)
    data = at.data
    return (
        data[:one]
        + data[two : two + size]
        + data[one + size : two]
        + data[one : one + size]
        + data[two + size :]
    )


def mix(draw: Random, at: Subject) -> bytes:
    """Some sectors of this file and some of another sound one, as an in-place rewrite that was cut leaves them."""
    size = draw.choice((64, SECTOR))
    start = draw.randrange(0, len(at.data), size)
    if draw.random() < 0.5:
        return at.data[:start] + at.other[start:]
    return at.data[:start] + at.other[start : start + size] + at.data[start + size :]


KINDS: tuple[Callable[[Random, Subject], bytes], ...] = (
    *(flip, delete, insert, replace, duplicate, zero, truncate, swap, mix),
)


def _short(draw: Random) -> int:
    return draw.choice((1, 1, 1, 2, 3, 8, 32, 64))


@dataclass
class Outcome:
    """What became of the mutants: (kind, "unchanged", "opened" or a finding's id) to how many; and what must not be."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def total(self, *outcomes: str) -> int:
        return sum(
            count for (_, outcome), count in self.counts.items() if not outcomes or outcome in outcomes
        )


def look(mutant: bytes, subjects: list[bytes]) -> str:
    """ "opened" as one of the sound files, or the id of what was found. AssertionError on anything else."""
    try:
        opened = open_envelope(mutant, PATH)
    except FirehoseError as error:
        return error.message.partition(" ")[0]
    except BaseException as error:
        raise AssertionError(f"{type(error).__name__}: {error}") from error
    assert seal(opened) in subjects, "it opens as something that was never written"
    return "opened"


def attack(count: int, seed: int, subjects: list[tuple[int, Subject]]) -> Outcome:
    """Make and open `count` mutants, each kind in turn. subjects: (how often, file)."""
    draw, outcome = Random(seed), Outcome()
    weights = [weight for weight, _ in subjects]
    # A mix may be the other file, whole: that is no damage. Only wide states are sealed anew on opening.
    sound = [
        [seal(open_envelope(data, PATH)) for data in (subject.data, subject.other)] for _, subject in subjects
    ]
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        chosen = draw.choices(range(len(subjects)), weights)[0]
        subject = subjects[chosen][1]
        mutant = kind(draw, subject)
        if mutant == subject.data:
            outcome.counts[kind.__name__, "unchanged"] += 1
            continue
        try:
            outcome.counts[kind.__name__, look(mutant, sound[chosen][: 1 + (mutant == subject.other)])] += 1
        except AssertionError as error:
            outcome.wrong.append(f"mutant {number} ({kind.__name__}): {error}")
    return outcome


def small_subject() -> Subject:
    """The state of `small` and the commit before it."""
    return Subject(small(8), small(7))


def fixture(name: str) -> Subject:
    """A state that a run wrote, and its next commit."""
    data = (STATES / name).read_bytes()
    opened = open_envelope(data, PATH)
    other = make(
        {**opened.payload, "halt": {"step": opened.step}},
        lineage=opened.lineage,
        serial=opened.serial + 1,
        step=opened.step + 1,
        written_at=opened.written_at,
        config_sha256=opened.config_sha256,
    )
    return Subject(data, seal(other))


def main() -> int:
    """The long form; 0 if nothing went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=20)
    options = parser.parse_args()
    subjects = [(94, small_subject()), (5, fixture("plain.state.json")), (1, fixture("packed.state.json"))]
    began = time.monotonic()
    outcome = attack(options.count, options.seed, subjects)
    seen = sorted({what for _, what in outcome.counts})
    print(f"{'damage':10}" + "".join(f"{what:>11}" for what in seen))
    for kind in KINDS:
        print(f"{kind.__name__:10}" + "".join(f"{outcome.counts[kind.__name__, what]:>11,}" for what in seen))
    print(
        f"{options.count:,} mutants in {time.monotonic() - began:.0f} s: {outcome.total('opened'):,} opened, all equal to "
        f"what was written; {options.count - outcome.total('opened', 'unchanged') - len(outcome.wrong):,} refused; "
        f"{len(outcome.wrong)} wrong"
    )
    print("\n".join(outcome.wrong[:20]))
    return int(bool(outcome.wrong) or outcome.total() < options.count)


if __name__ == "__main__":
    sys.exit(main())
