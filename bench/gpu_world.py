"""Token files of random tokens, and configs that train on them: what `bench/gpu.py` runs on.

The tokenizer is a small real one; the token files, written beside it, have as many tokens of vocabulary as are asked for.
What they say is noise, which costs a step as much as text does.
"""

import random
from pathlib import Path

import msgspec
import numpy as np

from curriculum import config as configs
from curriculum.config import Config
from curriculum.files import sha256_file
from curriculum.text.build import build, plan_for
from curriculum.tokens import manifest
from curriculum.tokens.btok import BtokWriter
from curriculum.tokens.manifest import TokenFile
from trainer.model import Shape

SOURCES = 8
DOCUMENT = 1000  # tokens
HELDOUT_WINDOWS = 8


def make(
    folder: Path, shape: Shape, *, steps: int, boundary: int, rows: int, device: str, tokens: int, train: str
) -> Config:
    """A config in a folder, its token files built: `tokens` a source. train: more lines of its [train] table."""
    words = [f"word{number}" for number in range(100)]
    draw = random.Random(0)
    (folder / "text").mkdir(parents=True)
    for source in range(SOURCES):
        lines = [" ".join(draw.choices(words, k=60)) for _ in range(60)]
        (folder / f"text/s{source}.txt").write_text("\n\n".join(lines))
    path = folder / "bench.toml"
    sources = "\n".join(
        f'[sources.s{source}]\npath = "text/s{source}.txt"\ncap = {1.3 - 0.1 * source:.1f}\n'
        for source in range(SOURCES)
    )
    path.write_text(
        f"""
[data]
vocab_size = 300
[model]
width = {shape.width}
heads = {shape.heads}
layers = {shape.layers}
block_size = {shape.block_size}
[train]
steps = {steps}
micro_batch = {rows}
grad_accum = 1
warmup_steps = 10
boundary_every = {boundary}
sample_every = {boundary}
checkpoint_every = {boundary}
heldout_every = {steps}
device = "{device}"
{train}
[gate]
threshold = 0.001
{sources}"""
    )
    config = configs.load(path)
    small = msgspec.structs.replace(config, model=msgspec.structs.replace(config.model, block_size=8))
    fill(build(plan_for(small)), config.resolve(config.data.dir), shape, tokens)
    return config


def fill(found: manifest.Manifest, folder: Path, shape: Shape, tokens: int) -> None:
    """Put random tokens in the place of those that were built."""
    generator = np.random.default_rng(0)

    def file(name: str, count: int) -> TokenFile:
        documents = -(-count // DOCUMENT)
        ids = generator.integers(0, shape.vocab_size, documents * DOCUMENT)
        with BtokWriter(folder / name, shape.vocab_size, found.tokenizer.sha256) as writer:
            writer.extend(ids, [DOCUMENT] * documents)
        path = folder / name
        return TokenFile(name, path.stat().st_size, documents, len(ids), sha256_file(path))

    entries = {}
    for name, entry in found.sources.items():
        train = file(f"{name}.btok", tokens)
        held = file(f"{name}.heldout.btok", HELDOUT_WINDOWS * (shape.block_size + 1))
        entries[name] = msgspec.structs.replace(
            entry, train=train, heldout=held, documents_in=train.documents, documents_out=train.documents
        )
    tokenizer = msgspec.structs.replace(found.tokenizer, vocab_size=shape.vocab_size)
    manifest.write(folder, msgspec.structs.replace(found, tokenizer=tokenizer, sources=entries))
