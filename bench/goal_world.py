"""The world of the goal benchmarks: twelve sources of real text, eight good and four junk, and a small model's config.

The goal is the mean held-out loss of the good ones. The junk is a foreign script, lists, and the words of two good
sources in random order.
"""

import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path

from curriculum import config as configs
from curriculum.config import Config
from curriculum.text.build import build, plan_for

CONFIG = """
name = "{name}"
seed = {seed}
[data]
dir = "{tokens}"
vocab_size = 1024
tokenizer_sample_mb = 8
[model]
preset = "tiny"
width = 64
heads = 4
layers = 2
block_size = 64
[train]
steps = {steps}
micro_batch = 8
grad_accum = 1
lr = 3e-3
min_lr = 3e-4
warmup_steps = 100
threads = 1
dtype = "float32"
device = "cpu"
sample_every = {steps}
checkpoint_every = {steps}
heldout_every = {steps}
[gate]
max_new_tokens = 1
min_new_tokens = 0
[curriculum]
{curriculum}
goal_sources = [{goal}]
"""


@dataclass(frozen=True, slots=True)
class World:
    """Names of the sources. shuffled: junk made of the words of a source, by its name."""

    good: tuple[str, ...]
    junk: tuple[str, ...]
    shuffled: dict[str, str]


REPORTED = World(
    good=(
        *("chat-topical", "chat-task", "oasst", "instruct"),
        *("smoltalk-like", "gutenberg", "irc-qa", "repo-docs"),
    ),
    junk=("contam-cyrillic", "contam-lists", "words-instruct", "words-gutenberg"),
    shuffled={"words-instruct": "instruct", "words-gutenberg": "gutenberg"},
)
# Constants are tuned here and nowhere else.
TUNING = World(
    good=(
        *("chat-topical", "oasst", "dictionary", "smoltalk-like"),
        *("repo-commits", "repo-docstrings", "gutenberg", "instruct"),
    ),
    junk=("contam-cyrillic", "contam-lists", "words-dictionary", "words-chat-topical"),
    shuffled={"words-dictionary": "dictionary", "words-chat-topical": "chat-topical"},
)


def shuffle_words(source: Path, target: Path) -> None:
    """A source whose words stand in random order within each document, the same at every call."""
    draw = random.Random(0)
    with source.open(encoding="utf-8") as lines, target.open("w", encoding="utf-8") as out:
        for line in lines:
            words = json.loads(line)["text"].split()
            draw.shuffle(words)
            out.write(json.dumps({"text": " ".join(words)}) + "\n")


def prepare(
    world: World, data: Path, folder: Path, name: str, *, curriculum: str, steps: int, seed: int, oracle: bool
) -> Config:
    """Write and load a config named `name` in `folder`; build its token files there if they are not yet built.

    data: folder with NAME/train.jsonl. curriculum: lines of that section. oracle: the junk is capped at 0.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if oracle:  # whose config alone would leave the junk unbuilt
        prepare(world, data, folder, "all", curriculum="", steps=steps, seed=seed, oracle=False)
    text = CONFIG.format(
        name=name,
        seed=seed,
        tokens="tokens",
        steps=steps,
        curriculum=curriculum,
        goal=", ".join(f'"{n}"' for n in world.good),
    )
    for source in (*world.good, *world.junk):
        path = data.resolve() / source / "train.jsonl"
        if source in world.shuffled:
            path = folder / f"{source}.jsonl"
            if not path.exists():
                shuffle_words(data / world.shuffled[source] / "train.jsonl", path)
        if not path.exists():
            sys.exit(f"{path} does not exist")
        text += f'[sources.{source}]\npath = "{path}"\n'
        if oracle and source in world.junk:
            text += "cap = 0.0\n"
    file = folder / f"{name}.toml"
    file.write_text(text)
    config = configs.load(file)
    if not (folder / "tokens/manifest.json").exists():
        build(plan_for(config))
    return config
