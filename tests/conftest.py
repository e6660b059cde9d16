"""What holds for every test, and the small world that many happen to: built once, each test has a copy of it.

No example of hypothesis is judged by the time it took, which is the machine's affair.
"""

import shutil
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("firehose", deadline=None)
settings.load_profile("firehose")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny world of one layer."""
    from tests.fixtures import tiny

    folder = tmp_path_factory.mktemp("built")
    tiny.make(folder, *tiny.QUICK)
    return folder


@pytest.fixture
def config(built: Path, tmp_path: Path) -> Path:
    """The config of a copy of it."""
    return Path(shutil.copytree(built, tmp_path / "world")) / "tiny.toml"
