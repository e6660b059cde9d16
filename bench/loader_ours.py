"""Our side of bench/loader.py: small sources, a run without a model, the eight edits, and what each part of a pull costs.

A `Sitting` is one process of a run as `trainer.launch` and `trainer.loop` make it, less the training: config, token
files, the state file as a run commits it, reconciliation, scheduler and feed are the product's own. Each token is the
number of its window, so that a batch says which samples it holds.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loader_edits import AFTER, BEFORE, EDITS, judged

from bandit.ledger import Ticket
from curriculum import config as configs
from curriculum.config import Config
from curriculum.eligibility import phases
from curriculum.files import sha256_file
from curriculum.sources import open_corpus, open_phase
from curriculum.tokens import manifest as manifests
from curriculum.tokens.btok import BtokWriter
from curriculum.tokens.manifest import Manifest, SourceEntry, TokenFile, TokenizerEntry
from curriculum.tokens.windows import window_index
from state.run_dir import RunDir
from state.store import StateStore
from state.survey import reconciled
from trainer import build
from trainer.feed import Feed

BLOCK = 4
VOCABULARY = 1 << 16  # the largest that fits two bytes: a token is a window's number
SEED = 1
PULLS = 4  # of a step; with windows of one, as many samples


def write_sources(folder: Path, sizes: Mapping[str, int]) -> None:
    """A data folder of sources with so many windows of BLOCK; token t of a source is t // BLOCK."""
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "chat_template.json"):
        (folder / name).write_text("{}")
    sha256 = hashlib.sha256(b"{}").hexdigest()
    entries = {}
    for name, windows in sizes.items():
        path = folder / f"{name}.btok"
        with BtokWriter(path, VOCABULARY, sha256) as writer:
            writer.add(np.minimum(np.arange(windows * BLOCK + 1) // BLOCK, VOCABULARY - 1))
        file = TokenFile(path.name, path.stat().st_size, writer.documents, writer.tokens, sha256_file(path))
        entries[name] = SourceEntry(1, file.bytes, 1, 1, {}, file)
    tokenizer = TokenizerEntry("tokenizer.json", sha256, VOCABULARY, "chat_template.json", sha256, 1)
    manifests.write(folder, Manifest(tokenizer=tokenizer, block_size=BLOCK, sources=entries))


def write_config(path: Path, weights: Mapping[str, float], data: Path) -> Config:
    """A config of fixed weights over the sources of `data`; one of weight 0 stays in it, with a cap of 0."""
    lines = [f'seed = {SEED}\n[data]\ndir = "{data}"\nvocab_size = {VOCABULARY - 1}']
    lines += [f"[model]\nwidth = 32\nheads = 2\nlayers = 1\nblock_size = {BLOCK}"]
    lines += [f"[train]\nsteps = 100000\nmicro_batch = 1\ngrad_accum = {PULLS}"]
    lines += ['[curriculum]\npolicy = "fixed"\nreward = "progress"']
    for name, weight in weights.items():
        lines += [f'[sources.{name}]\npath = "{name}.jsonl"\ncap = {weight}\nfloor = {weight}']
    path.write_text("\n".join(lines) + "\n")
    return configs.load(path)


class Sitting:
    """One process of a run: what it launches from, the samples it trains on, what it commits when it stops."""

    def __init__(self, config: Config, run: RunDir) -> None:
        self.config, self.store = config, StateStore(run.state)
        found, _ = self.store.read()
        self.at = found.step if found else 0
        self.corpus = open_corpus(config)
        payload = found.payload if found else {}
        self.result = reconciled(config, self.corpus, payload, step=self.at)
        self.scheduler, self.reward = build.bandit(
            config,
            self.corpus,
            self.result.ids,
            self.result.payload,
            self.at,
            lambda _: None,
            fresh=not found,
            renew=self.result.changed,
        )
        self.names = {arm_id: name for name, arm_id in self.result.ids.items()}
        self.feed = Feed(self.corpus, self.names, config.train, torch.device("cpu"), rank=0, size=1)
        self.tickets: dict[int, list[Ticket]] = {}

    def run(self, pulls: int) -> Iterator[tuple[str, int]]:
        """Train on so many pulls, as `trainer.loop.Loop` does; gives the source and the window of each."""
        delay = self.config.train.feedback_delay
        for ticket in self.scheduler.open_tickets():
            self.tickets.setdefault(ticket.step, []).append(ticket)
        for step in range(self.at + 1, self.at + 1 + delay):
            if step in self.tickets:
                self.feed.load(step, self.tickets[step])
            else:
                self._issue(step)
        with closing(self.feed):
            for step in range(self.at + 1, self.at + 1 + pulls // PULLS):
                self._credit(step - delay)
                self._issue(step + delay)
                batch = self.feed.take(step)
                for ticket, window in zip(self.tickets[step], batch[:, 0, 0].tolist(), strict=True):
                    yield self.names[ticket.arm], window
                self.at = step

    def _issue(self, step: int) -> None:
        for phase in phases(self.config):
            if phase.first_step == step:
                open_phase(self.config, self.scheduler, phase, self.result.ids)
        self.tickets[step] = self.scheduler.pick_all(step)
        self.feed.load(step, self.tickets[step])

    def _credit(self, step: int) -> None:
        for ticket in self.tickets.pop(step, ()):
            void = ticket.arm not in self.names
            self.scheduler.credit(ticket.id, None if void else self.reward.update(ticket.arm, 3.0, None))

    def commit(self) -> None:
        """The state of the step it is at, with tickets issued and not trained in it."""
        payload = {
            "bandit": self.scheduler.saved(),
            "reward": self.reward.snapshot(),
            "pruned": self.result.payload["pruned"],
            "data": self.result.payload["data"],
        }
        write = self.store.commit if self.store.lineage else self.store.create
        write(payload, step=self.at, config_sha256=configs.digest(self.config))


def edit(name: str, folder: Path) -> dict[str, Any]:
    """One of EDITS, played: {repeated, skipped: by source; shares: of the last sitting, asked and dealt}."""
    data = folder / "data"
    if not data.exists():
        write_sources(data, {"a": 3000, "b": 2500, "c": 2000, "d": 2200})
    sittings = EDITS[name]
    run = RunDir(folder / name.replace(" ", "-"))
    run.root.mkdir()
    served: dict[str, list[int]] = {}
    last: Counter[str] = Counter()
    for number, weights in enumerate(sittings):
        sitting = Sitting(write_config(run.config, weights, data), run)
        last = Counter()
        for source, window in sitting.run(AFTER if number == len(sittings) - 1 else BEFORE):
            served.setdefault(source, []).append(window)
            last[source] += 1
        sitting.commit()
    orders = {source: order(sitting, source) for source in served}
    positions = {source: [orders[source][window] for window in seen] for source, seen in served.items()}
    return judged(positions, sittings[-1], last)


def order(sitting: Sitting, source: str) -> dict[int, int]:
    """Window to its place in the source's first epoch."""
    windows = sitting.corpus.info(source).windows
    taken = [*sitting.result.ids.items()]
    arm_id = dict(taken).get(source)
    if arm_id is None:  # it was taken out: its record says under which id it was served
        arm_id = sitting.result.payload["pruned"][source]["record"]["id"]
    served = window_index(np.arange(windows), windows, SEED, arm_id)
    return {window: place for place, window in enumerate(served.tolist())}
