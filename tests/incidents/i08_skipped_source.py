"""I08: a source was taken for clean since a language model had written it, and no filter ever saw it (002 B)."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from curriculum import config as configs
from curriculum.errors import Exit, FirehoseError
from curriculum.text.build import build, plan_for
from curriculum.text.clean import KEPT, Cleaner
from curriculum.text.read import Document
from tests.incidents.switch import caught, incident

GOOD, BAD = 20, 146  # 12.3 % and 87.7 %, as in hermes3-general


def a_skip_list(patch: pytest.MonkeyPatch) -> None:
    def trusting(self: Cleaner, documents: Iterable[Document]) -> Iterator[tuple[list[Document], bytes]]:
        batch = list(documents)
        verdicts = bytes([KEPT]) * len(batch)
        self.tally.count(verdicts)
        yield batch, verdicts

    patch.setattr(Cleaner, "clean", trusting)


def bad(number: int) -> str:
    """What the filters dropped there: oversize paragraphs, translations, runs of one phrase."""
    said = (
        f"{number} the old ship went over the sea and " * 60,
        f"> translate {number}\n< " + "собака лежит на крыльце и смотрит на дорогу " * 3,
        f"> go on {number}\n< " + "region region " * 40,
    )
    return said[number % 3]


@incident(off=a_skip_list)
def test_a_source_that_is_trusted_is_cleaned_like_any_other(config: Path) -> str:
    file = config.parent / "text/gamma.jsonl"
    lines = file.read_text().splitlines()[:GOOD] + [json.dumps({"text": bad(at)}) for at in range(BAD)]
    file.write_text("\n".join(lines) + "\n")
    manifest = build(plan_for(configs.load(config)))
    entry = manifest.sources["gamma"]
    assert entry.documents_in == GOOD + BAD
    share = 1 - entry.documents_out / entry.documents_in
    caught(entry.documents_out == GOOD, f"only {share:.1%} were dropped")
    assert {rule for rule, count in entry.dropped.items() if count} == {
        "oversize paragraph",
        "script drift",
        "repetition",
    }
    return f"at `data build`: {share:.1%} dropped and reported"


def unknown_keys_are_kept(patch: pytest.MonkeyPatch) -> None:
    from curriculum import config_toml

    patch.setattr(config_toml, "check_keys", lambda raw, *rest: raw["data"].pop("deep_clean_skip"))


@incident(off=unknown_keys_are_kept)
def test_no_key_lets_a_source_skip_it(config: Path) -> str:
    config.write_text(config.read_text().replace("[data]", '[data]\ndeep_clean_skip = ["gamma"]'))
    try:
        configs.load(config)
    except FirehoseError as error:
        assert error.exit_code is Exit.USAGE and "data.deep_clean_skip" in error.message
        return "a skip list is exit 2"
    caught(False, "a skip list was read")
    return ""
