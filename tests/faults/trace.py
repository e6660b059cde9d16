"""What was done to a folder, with its data, and every state of that folder that a power cut may leave.

Model (after ALICE, OSDI 2014): a crash may come after any call. What was synced before it is there. Of everything
else, any part may be there and any part not, which covers every reordering:
- a write is there, not there, or torn: only its first part, only its last part, or only the length that it gave the
  file (what no write filled reads as zeros, as XFS may leave it); a change of length is there or not;
- an operation on names (create, link, unlink, rename, mkdir, rmdir) is there or not; a rename is one operation, never
  half of one. It is durable once a folder that it touched was synced; syncing a file does not persist its name.
What the model leaves out: damage to bytes at rest, and operations that land inside other files.
"""

import itertools
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = None  # what stands for the content of a folder
Tree = dict[str, tuple[int, bytes | None]]  # path -> (inode, content or FOLDER)


@dataclass(frozen=True)
class Data:
    """Bytes written into a file; bytes None: its length was set to `offset`."""

    node: int
    offset: int
    data: bytes | None


@dataclass(frozen=True)
class Names:
    """Entries of folders set (or, node None, removed), all at once."""

    entries: tuple[tuple[int, str, int | None], ...]


@dataclass(frozen=True)
class Sync:
    """A file or folder made durable."""

    node: int


@dataclass(frozen=True)
class Ack:
    """The program said that something is done."""

    value: Any


Op = Data | Names | Sync | Ack


@dataclass
class Trace:
    """A folder before (`files`, `folders` by inode; inode 0 is the folder itself) and what was then done to it."""

    files: dict[int, bytes] = field(default_factory=dict)
    folders: dict[int, dict[str, int]] = field(default_factory=lambda: {0: {}})
    made: set[int] = field(default_factory=set)  # inodes of folders made later
    ops: list[Op] = field(default_factory=list)


class Recorder:
    """Turns calls, given by path, into a `Trace`, whose operations speak of inodes."""

    def __init__(self, root: Path) -> None:
        self.trace = Trace()
        self._live: dict[int, dict[str, int]] = {0: {}}  # the names as the running program sees them
        self._count = 0
        known: dict[int, int] = {}
        for folder, names, files in os.walk(root):
            here = self._node(os.path.relpath(folder, root))
            for name in names:
                self._live[here][name] = self._new_folder()
            for name in files:
                path = Path(folder, name)
                inode = path.stat().st_ino
                if inode not in known:
                    self._count += 1
                    known[inode] = self._count
                    self.trace.files[self._count] = path.read_bytes()
                self._live[here][name] = known[inode]
        self.trace.folders = {node: dict(entries) for node, entries in self._live.items()}

    def open(self, path: str, *, truncate: bool) -> None:
        folder, name = self._split(path)
        node = self._live[folder].get(name)
        if node is None:
            self._count += 1
            self._names((folder, name, self._count))
        elif truncate:
            self.trace.ops.append(Data(node, 0, None))

    def write(self, path: str, offset: int, data: bytes) -> None:
        self.trace.ops.append(Data(self._node(path), offset, data))

    def truncate(self, path: str, size: int) -> None:
        self.trace.ops.append(Data(self._node(path), size, None))

    def sync(self, path: str) -> None:
        self.trace.ops.append(Sync(self._node(path)))

    def link(self, path: str, other: str) -> None:
        self._names((*self._split(other), self._node(path)))

    def rename(self, path: str, other: str) -> None:
        folder, name = self._split(other)
        if self._live[folder].get(name) == self._node(path):
            return  # two names of one file: POSIX says that nothing happens
        self._names((*self._split(path), None), (*self._split(other), self._node(path)))

    def remove(self, path: str) -> None:
        self._names((*self._split(path), None))

    def make_folder(self, path: str) -> None:
        node = self._new_folder()
        self.trace.made.add(node)
        self._names((*self._split(path), node))

    def acknowledge(self, value: Any) -> None:
        self.trace.ops.append(Ack(value))

    def _names(self, *entries: tuple[int, str, int | None]) -> None:
        for folder, name, node in entries:
            if node is None:
                self._live[folder].pop(name)
            else:
                self._live[folder][name] = node
        self.trace.ops.append(Names(entries))

    def _new_folder(self) -> int:
        self._count += 1
        self._live[self._count] = {}
        return self._count

    def _node(self, path: str) -> int:
        node = 0
        for part in (part for part in path.split("/") if part not in ("", ".")):
            node = self._live[node][part]
        return node

    def _split(self, path: str) -> tuple[int, str]:
        folder, _, name = path.rpartition("/")
        return self._node(folder), name


def pending(ops: list[Op]) -> tuple[list[Op], list[Op]]:
    """Operations that no later sync made durable, and all of them that matter (no syncs, no acks), in order."""
    done = [op for op in ops if isinstance(op, Data | Names)]
    open_ops: list[Op] = []
    synced: set[int] = set()
    for op in reversed(ops):
        if isinstance(op, Sync):
            synced.add(op.node)
        elif (isinstance(op, Data) and op.node not in synced) or (
            isinstance(op, Names) and not synced & {folder for folder, _, _ in op.entries}
        ):
            open_ops.append(op)
    return open_ops[::-1], done


def variants(op: Op, cuts: int) -> list[Op | None]:
    """What a crash may leave of an operation: first all of it, then nothing, then its torn forms."""
    if not isinstance(op, Data) or op.data is None or len(op.data) < 2:
        return [op, None]
    size = len(op.data)
    torn: list[Op | None] = [Data(op.node, op.offset + size, b"")]
    for part in range(1, cuts + 1):
        at = max(1, min(size - 1, size * part // (cuts + 1)))
        torn += [
            Data(op.node, op.offset, op.data[:at]),
            Data(op.node, op.offset + at, op.data[at:]),
        ]
    return [op, None, *torn]


def build(trace: Trace, done: list[Op], chosen: dict[int, Op | None]) -> Tree:
    """The folder after `done`, where `chosen` (by id of the operation) says what became of those not durable."""
    files = dict(trace.files)
    folders = {node: dict(entries) for node, entries in trace.folders.items()}
    for op in done:
        kept = chosen.get(id(op), op)
        if isinstance(kept, Data):
            old = files.get(kept.node, b"")
            if kept.data is None:
                files[kept.node] = old[: kept.offset].ljust(kept.offset, b"\0")
            else:
                end = kept.offset + len(kept.data)
                files[kept.node] = old[: kept.offset].ljust(kept.offset, b"\0") + kept.data + old[end:]
        elif isinstance(kept, Names):
            for folder, name, node in kept.entries:
                entries = folders.setdefault(folder, {})
                if node is None:
                    entries.pop(name, None)
                else:
                    entries[name] = node
    known_folders = folders.keys() | trace.made
    tree: Tree = {}
    waiting = [(0, "")]
    while waiting:
        folder, prefix = waiting.pop()
        for name, node in sorted(folders.get(folder, {}).items()):
            path = prefix + name
            if node in known_folders:
                tree[path] = (node, FOLDER)
                waiting.append((node, path + "/"))
            else:
                tree[path] = (node, files.get(node, b""))
    return tree


def states(trace: Trace, *, cuts: int, bound: int, seed: int = 0) -> Iterator[tuple[Tree, list[Any]]]:
    """Every (folder, what was acknowledged) that a crash may leave, each once.

    Where the not durable operations at one moment have more than `bound` combinations, those with at most two
    operations away from "all there" or from "none there" are taken, and random ones up to the bound.
    cuts: places at which a write may be torn, evenly spaced.
    """
    draw = random.Random(seed)
    seen: set[int] = set()
    for count in range(len(trace.ops) + 1):
        ops = trace.ops[:count]
        acks = [op.value for op in ops if isinstance(op, Ack)]
        loose, done = pending(ops)
        options = [variants(op, cuts) for op in loose]
        for picked in _combinations(options, bound, draw):
            tree = build(trace, done, {id(op): kept for op, kept in zip(loose, picked, strict=True)})
            key = hash(
                (
                    tuple(sorted((path, data) for path, (_, data) in tree.items() if data is not None)),
                    tuple(sorted(path for path, (_, data) in tree.items() if data is None)),
                    repr(acks),
                )
            )
            if key not in seen:
                seen.add(key)
                yield tree, acks


def _combinations(options: list[list[Any]], bound: int, draw: random.Random) -> Iterator[tuple[Any, ...]]:
    total = 1
    for choices in options:
        total *= len(choices)
    if total <= bound:
        yield from itertools.product(*options)
        return
    given = 0
    for base in (0, 1):  # all there, none there
        start = [choices[base] for choices in options]
        yield tuple(start)
        for first, second in itertools.combinations_with_replacement(range(len(options)), 2):
            for left in options[first]:
                for right in options[second] if second != first else [left]:
                    if given >= bound // 2 * (base + 1):
                        break
                    given += 1
                    state = list(start)
                    state[first], state[second] = left, right
                    yield tuple(state)
    for _ in range(bound - given):
        yield tuple(draw.choice(choices) for choices in options)


def materialise(tree: Tree, root: Path) -> None:
    """Make an empty folder the given one, hard links included."""
    first: dict[int, str] = {}
    for path, (node, data) in sorted(tree.items()):
        target = os.path.join(root, path)
        if data is None:
            os.mkdir(target)
        elif node in first:
            os.link(first[node], target)
        else:
            first[node] = target
            with open(target, "wb") as file:
                file.write(data)
