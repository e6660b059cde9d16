"""The training bench runs both sides in turns, measures their steps, and compares weights on the same text."""

import io
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.train import SHAPES, Turns, report

ROOT = Path(__file__).parents[2]

MODEL = '''
from dataclasses import dataclass
import torch
import torch.nn.functional as F


@dataclass
class GPTConfig:
    vocab_size: int
    n_embd: int


class GPT(torch.nn.Module):
    """A table of what follows what."""

    def __init__(self, config):
        super().__init__()
        self.table = torch.nn.Embedding(config.vocab_size, config.vocab_size)

    def forward(self, x, y):
        logits = self.table(x)
        return logits, F.cross_entropy(logits.flatten(0, 1), y.flatten())
'''
TRAIN = """
import os, pickle, sys
import numpy as np
import torch
from model import GPT, GPTConfig

exec(open("configurator.py").read())
told = dict(argument[2:].split("=") for argument in sys.argv[2:])
print("a line that is no answer")
steps, block, batch = (int(told[name]) for name in ("max_iters", "block_size", "batch_size"))
arguments = {"vocab_size": pickle.load(open("data/shakespeare_char/meta.pkl", "rb"))["vocab_size"], "n_embd": 1}
data = torch.from_numpy(np.fromfile("data/shakespeare_char/train.bin", dtype=np.uint16).astype(np.int64))
model = GPT(GPTConfig(**arguments))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
for step in range(steps + 1):
    rows = torch.stack([data[i : i + block + 1] for i in torch.randint(len(data) - block, (batch,))])
    model(rows[:, :-1], rows[:, 1:])[1].backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
os.makedirs("out-shakespeare-char")
torch.save({"model": model.state_dict(), "model_args": arguments}, "out-shakespeare-char/ckpt.pt")
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "peer"
    (folder / "config").mkdir(parents=True)
    for name, text in (("model.py", MODEL), ("train.py", TRAIN), ("configurator.py", "")):
        (folder / name).write_text(text)
    return folder


def test_both_sides_train_in_turns(checkout: Path, tmp_path: Path) -> None:
    words = random.Random(1).choices(["to be ", "or not ", "to sleep. "], k=3000)
    (tmp_path / "text.txt").write_text("".join(words))
    command = [sys.executable, "bench/train.py", f"--nanogpt={checkout}", f"--text={tmp_path / 'text.txt'}"]
    command += ["--steps=6", "--block=2", "--every=6", "--width=16", "--batch=2", "--threads=1"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    said = done.stdout
    assert re.search(r"^ours +[\d,]+ tokens/s, median of 2 steps", said, re.MULTILINE), said
    assert re.search(r"^theirs +[\d,]+ tokens/s, median of 4 steps", said, re.MULTILINE), said
    assert re.search(r"^ratio   [\d.]+, median of 1 pairs", said, re.MULTILINE), said
    losses = re.search(r"validation loss ours ([\d.]+), theirs ([\d.]+)", said)
    assert losses is not None
    assert 0.0 < float(losses[1]) < 4.0 and 0.0 < float(losses[2]) < 4.0
    assert done.returncode == int(float(losses[1]) - float(losses[2]) > 0.02)


def test_a_turn_is_a_block_of_steps() -> None:
    told = io.StringIO()
    turns = Turns(2, io.StringIO("go\n" * 3), told)
    for _ in range(5):
        turns.step()
    assert [len(json.loads(line)) for line in told.getvalue().splitlines()] == [0, 2, 2]


def test_ratios_are_of_the_turns_that_follow_each_other() -> None:
    blocks = {"ours": [[9.0], [1.0], [4.0], [1.0]], "theirs": [[9.0], [2.0], [6.0], [3.0]]}
    lines = report(blocks, SHAPES["readme"], skip=1)
    assert lines[-1].startswith("ratio   2.00, median of 3 pairs of turns (p10 1.50, p90 3.00)")
    assert lines[0].startswith("ours          768 tokens/s")
