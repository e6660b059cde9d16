"""What may be picked when, and the reason given for what may not."""

from pathlib import Path

from curriculum.config import Config, load
from curriculum.eligibility import Phase, never_picked, phases, why_not

SOURCES = """
[sources.books]
path = "b"
[sources.chat]
path = "c"
[sources.lists]
path = "l"
[sources.muted]
path = "m"
cap = 0.0
[sources.sealed]
path = "s"
max_share = 0.0
"""


def read(tmp_path: Path, curriculum: str) -> Config:
    path = tmp_path / "run.toml"
    path.write_text(f"[curriculum]\n{curriculum}\n{SOURCES}", encoding="utf-8")
    return load(path)


def test_without_warm_up_there_is_one_phase(tmp_path: Path) -> None:
    config = read(tmp_path, 'curriculum_warmup_sources = ["chat"]\nexclude_sources = ["lists"]')
    assert phases(config) == [Phase("full", 1, ("books", "chat"))]
    assert why_not(config, "books", 1) is None


def test_warm_up_lasts_its_steps_and_not_one_more(tmp_path: Path) -> None:
    config = read(tmp_path, 'curriculum_warmup_steps = 20\ncurriculum_warmup_sources = ["lists", "chat"]')
    assert phases(config) == [
        Phase("warm-up", 1, ("chat", "lists")),
        Phase("full", 21, ("books", "chat", "lists")),
    ]
    assert why_not(config, "books", 20) == "not in the warm-up set until step 21"
    assert why_not(config, "books", 21) is None
    assert why_not(config, "chat", 1) is None


def test_excluded_or_capped_at_0_is_never_picked_warm_up_or_not(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        'curriculum_warmup_steps = 20\ncurriculum_warmup_sources = ["chat", "lists", "muted"]\n'
        'exclude_sources = ["lists", "not-configured"]',
    )
    assert [phase.sources for phase in phases(config)] == [("chat",), ("books", "chat")]
    for step in (1, 21):
        assert why_not(config, "lists", step) == "excluded"
        assert why_not(config, "muted", step) == "cap 0"
        assert why_not(config, "sealed", step) == "max_share 0"
    assert never_picked(config, "books") is None
