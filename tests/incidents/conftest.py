"""What the incidents happen to: a small world, built once, of which each test has a copy."""

import shutil
from pathlib import Path

import pytest

from tests.fixtures import tiny


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny world of one layer."""
    folder = tmp_path_factory.mktemp("incidents")
    tiny.make(folder, *tiny.QUICK)
    return folder


@pytest.fixture
def config(built: Path, tmp_path: Path) -> Path:
    """The config of a copy of it."""
    return Path(shutil.copytree(built, tmp_path / "world")) / "tiny.toml"
