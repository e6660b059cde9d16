"""The configs that come with the project load without a warning, and hold what was published of the ANDREA runs."""

from pathlib import Path

import pytest

from curriculum.config import Config, differences, effective, load, warnings
from curriculum.eligibility import phases

CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = ["demo", "andrea-12m", "andrea-120m", "andrea-120m-polish", "andrea-480m"]

# The v3 table of the published account, cell for cell. A dash is a bound that was not given.
TABLE = """
Source            | v3 base               | v3 polish
repo-docs         | cap 0.3               | excluded (cap 0.0)
repo-docstrings   | excluded              | excluded + cap 0.0
repo-commits      | cap 0.4               | cap 0.2
dictionary        | cap 0.5               | cap 0.25
gutenberg         | cap 0.8 / floor 0.3   | cap 0.7 / floor 0.4
irc-qa-strict     | -                     | cap 0.3
unweapon          | -                     | cap 0.3
synthetic-chat    | -                     | cap 0.4
hermes3-general   | floor 0.5             | floor 0.7
hermes3-creative  | floor 0.4             | floor 0.55
hermes3-roleplay  | floor 0.4             | floor 0.5
chat              | floor 0.4             | floor 0.6
smoltalk          | floor 0.3             | floor 0.5
oasst             | floor 0.3             | floor 0.5
dolly             | -                     | floor 0.4
"""
ROWS = [[cell.strip() for cell in line.split("|")] for line in TABLE.strip().splitlines()[1:]]
WARMUP_SET = {
    "gutenberg",
    "hermes3-general",
    "hermes3-creative",
    "hermes3-roleplay",
    "chat",
    "smoltalk",
    "oasst",
}


def bounds(cell: str) -> tuple[float, float, bool]:
    """(cap, floor, excluded) of a cell, defaults for what it does not give."""
    words = cell.replace("(", " ").replace(")", " ").split()
    given = {word: float(words[at + 1]) for at, word in enumerate(words) if word in ("cap", "floor")}
    return given.get("cap", 1.3), given.get("floor", 0.0), "excluded" in words


def read(name: str) -> Config:
    return load(CONFIGS / f"{name}.toml")


@pytest.mark.parametrize("name", NAMES)
def test_loads_without_a_warning(name: str) -> None:
    assert warnings(read(name)) == []


def test_no_config_is_left_out() -> None:
    assert sorted(path.stem for path in CONFIGS.glob("*.toml")) == sorted(NAMES)


@pytest.mark.parametrize(
    ("name", "column"), [("andrea-120m", 1), ("andrea-120m-polish", 2), ("andrea-12m", 1), ("andrea-480m", 1)]
)
def test_table(name: str, column: int) -> None:
    config = read(name)
    assert set(config.sources) == {row[0] for row in ROWS}
    assert len(config.sources) == 15
    for row in ROWS:
        source = config.sources[row[0]]
        excluded = row[0] in config.curriculum.exclude_sources
        assert (source.cap, source.floor, excluded) == bounds(row[column]), row
        assert (source.min_share, source.max_share) == (0.0, 1.0)


def test_settings_of_the_base_run() -> None:
    config = read("andrea-120m")
    train = config.train
    assert (train.steps, train.warmup_steps, train.sample_every) == (200_000, 2000, 100)
    assert (train.grad_clip, train.weight_decay) == (1.0, 0.01)
    assert (config.gate.threshold, config.gate.consecutive) == (30.0, 5)
    assert config.curriculum.curriculum_warmup_steps == 20_000
    assert set(config.curriculum.curriculum_warmup_sources) == WARMUP_SET
    assert {row[0] for row in ROWS if bounds(row[1])[1] > 0} == WARMUP_SET
    assert config.model.block_size == 1024


def test_the_polish_changes_the_table_and_the_warm_up_and_nothing_else() -> None:
    base, polish = read("andrea-120m"), read("andrea-120m-polish")
    assert polish.curriculum.curriculum_warmup_steps == 0
    # The goal is the sources with a floor: new floors, new goal.
    expected = [f"curriculum.{key}" for key in ("curriculum_warmup_steps", "exclude_sources", "goal_sources")]
    for name, was, now in ROWS:
        for field, old, new in zip(("cap", "floor"), bounds(was), bounds(now), strict=False):
            if old != new:
                expected.append(f"sources.{name}.{field}")
    assert differences(effective(base), effective(polish)) == sorted(expected)
    assert (base.name, base.data) == (polish.name, polish.data)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("andrea-12m", (384, 12, 6)), ("andrea-120m", (768, 12, 12)), ("andrea-480m", (1536, 24, 16))],
)
def test_shapes(name: str, shape: tuple[int, int, int]) -> None:
    model = read(name).model
    assert (model.width, model.heads, model.layers) == shape


def test_demo() -> None:
    config = read("demo")
    assert set(config.sources) == {"stdlib-docstrings", "pydoc-topics", "comments", "licences", "chat"}
    assert (config.model.preset, config.model.block_size, config.data.vocab_size) == ("tiny", 128, 2048)
    warmup, full = phases(config)
    assert set(warmup.sources) == {"chat", "pydoc-topics", "stdlib-docstrings"}
    assert full.first_step == 101
    assert set(full.sources) == set(config.sources)
    assert config.train.steps > full.first_step + 2 * config.train.boundary_every
    assert [
        path for source in config.sources.values() for path in source.paths if not path.startswith("data/")
    ] == []
