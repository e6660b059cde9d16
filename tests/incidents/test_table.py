"""The table and the tests are of the same twenty incidents, and a guard that does nothing is known for one."""

import re
from pathlib import Path

import pytest

from tests.incidents.switch import TABLE, Unnoticed, caught, incident, row

IDS = [f"I{number:02}" for number in range(1, 21)]


def test_every_incident_has_a_file_and_a_row() -> None:
    files = sorted(path.name for path in Path(__file__).parent.glob("i[0-9][0-9]_*.py"))
    assert [f"I{name[1:3]}" for name in files] == IDS
    assert re.findall(r"^\| (I\d\d) \|", TABLE.read_text(), re.M) == IDS
    assert all(row(id).count("|") == 7 for id in IDS)


def test_what_goes_unnoticed_is_told_from_any_other_failure() -> None:
    with pytest.raises(Unnoticed, match="nothing said"):
        caught([], "nothing said")
    caught(["said"], "")
    with pytest.raises(AssertionError, match="the file's name is the incident's"):
        incident(off=lambda patch: None)(lambda: "")
