"""I11: of 560,000 samples 50,000 were loaded, and the model learned them by heart (001)."""

from pathlib import Path

import pytest

from curriculum import config as configs
from curriculum.errors import Exit, FirehoseError
from curriculum.text import build as builds
from curriculum.text.build import build, plan_for
from curriculum.tokens.corpus import Corpus
from tests.fixtures.runs import go, the_run
from tests.incidents.switch import caught, incident


def no_counting(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Corpus, "check", lambda self, name, **named: None)
    patch.setattr(builds._Reading, "_check_counts", lambda self, name, tally: None)


def no_look_at_files(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Corpus, "check", lambda self, name, **named: None)


def expecting(config: Path, documents: int) -> None:
    text = config.read_text()
    path = 'path = "text/gamma.jsonl"'
    assert path in text
    config.write_text(text.replace(path, f"{path}\nexpect_documents = {documents}"))


def refused(action: object) -> FirehoseError | None:
    try:
        action()  # type: ignore[operator]
    except FirehoseError as error:
        return error
    return None


@incident(off=no_counting)
def test_a_launch_on_a_build_that_was_itself_short_is_refused(config: Path) -> str:
    expecting(config, 2240)  # what there should be; 200 of them were built, as 50,000 of 560,000
    error = refused(lambda: go(config, until=10))
    caught(error is not None, "trained on a tenth of the data")
    assert error is not None and error.exit_code is Exit.REFUSED and error.arm == "gamma"
    assert "built from 200 documents; the config expects 2,240" in error.message
    assert not the_run(config).loss.exists()
    return "exit 13 at launch"


@incident(off=no_counting)
def test_the_build_itself_says_so_first(config: Path) -> str:
    expecting(config, 2240)
    error = refused(lambda: build(plan_for(configs.load(config))))
    caught(error is not None, "built without a word")
    assert error is not None and "holds 200 documents" in error.message
    return "exit 13 at `data build`"


@incident(off=no_look_at_files)
def test_a_file_that_lost_its_end_is_refused(config: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Sizes are as the manifest has them, so that only the hash of what is read can tell."""
    file = config.parent / "data/tiny/gamma.btok"
    data = file.read_bytes()
    half = len(data) // 2
    file.write_bytes(data[:half] + bytes(64) + data[half + 64 :])
    error = refused(lambda: go(config, until=10))
    caught(error is not None, "trained on what was left")
    assert error is not None and error.exit_code is Exit.DAMAGED and error.arm == "gamma"
    return "exit 4 where its bytes changed"
