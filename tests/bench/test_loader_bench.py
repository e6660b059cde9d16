"""The mixture is edited between two sittings in eight ways: the edit takes effect, and no sample is repeated or skipped."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "bench"))  # behind the packages, one of which a script there is named like

from loader_edits import EDITS, judged  # noqa: E402
from loader_ours import edit  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("edits")


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_repeats_and_skips_nothing(folder: Path, name: str) -> None:
    found = edit(name, folder)
    sources = dict.fromkeys(sorted({source for weights in EDITS[name] for source in weights}), 0)
    assert found["repeated"] == sources
    assert found["skipped"] == sources
    assert found["off"] <= 0.002  # evenly dealt: within a few pulls of 2,000


def test_repeated_and_skipped_samples_are_counted() -> None:
    found = judged({"a": [0, 1, 1, 5], "b": [0, 1]}, {"a": 1.0, "b": 1.0}, {"a": 4, "b": 2})
    assert found["repeated"] == {"a": 1, "b": 0}
    assert found["skipped"] == {"a": 3, "b": 0}
    assert found["off"] == round(1 / 6, 4)
    assert judged({"a": [0], "b": [0]}, {"a": 1.0, "b": 0.0}, {"a": 9, "b": 1})["off"] == 1.0
