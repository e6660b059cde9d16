"""Every command that a hint or a page names is one that the product takes."""

from pathlib import Path

import pytest

from tests import hints

ROOT = Path(__file__).parents[1]
MODULES = [*sorted((ROOT / "state").rglob("*.py")), ROOT / "curriculum" / "sources.py"]
PAGES = [ROOT / "docs" / name for name in ("state.md", "cli.md", "polish.md")]


@pytest.mark.parametrize("path", [*MODULES, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_named_is_one(path: Path) -> None:
    texts = hints.texts(path) if path.suffix == ".py" else [path.read_text()]
    commands = [command for text in texts for command in hints.named(text)]
    assert [why for command in commands if (why := hints.refused(command))] == []


def test_what_is_no_command_is_seen() -> None:
    (command,) = hints.named(
        "a launch begins it anew; firehose polish set web.cap=0 demo --force keeps it out"
    )
    assert command == "polish set web.cap=0 demo --force" and "--force" in str(hints.refused(command))
    assert hints.refused("state polish demo") and hints.refused("state history a b c")
    assert hints.named("  next: firehose state restore\n    demo --serial 3\nand more") == [
        "state restore demo --serial 3"
    ]
