"""The switch of the incident tests: each body runs with its guard and again without, where the harm must go unnoticed.

A body injects an incident, makes sure with plain asserts that the harm is there, and asks `caught` whether the guard saw
it. It returns where it was caught, in the words of its row of docs/incidents.md.
"""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TABLE = Path(__file__).parents[2] / "docs/incidents.md"
Off = Callable[[pytest.MonkeyPatch], None]


class Unnoticed(AssertionError):
    """The harm was done and nothing said so."""


def caught(found: object, what: str) -> None:
    """The one assertion of a body that is about its guard: the others must hold without the guard too."""
    if not found:
        raise Unnoticed(what)


def row(id: str) -> str:
    """An incident's row of the table, `I05`."""
    (found,) = (line for line in TABLE.read_text().splitlines() if line.startswith(f"| {id} |"))
    return found


def incident(*, off: Off) -> Callable[[Callable[..., str]], Callable[..., None]]:
    """Make two tests of a body: guarded, it passes; with what `off` patches away, it ends in `Unnoticed` and nothing else."""

    def tests(body: Callable[..., str]) -> Callable[..., None]:
        match = re.match(r"i(\d\d)_", Path(inspect.getfile(body)).name)
        assert match, "the file's name is the incident's"

        def test(guarded: bool, **given: Any) -> None:
            if guarded:
                when = body(**given)
                assert when in row(f"I{match[1]}"), f"docs/incidents.md does not say {when!r}"
                return
            with pytest.MonkeyPatch.context() as patch:
                off(patch)
                with pytest.raises(Unnoticed):
                    body(**given)

        own = inspect.signature(body)
        first = inspect.Parameter("guarded", inspect.Parameter.KEYWORD_ONLY)
        kept = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own.parameters.values()]
        test.__signature__ = own.replace(parameters=[first, *kept], return_annotation=None)  # type: ignore[attr-defined]
        test.__doc__, test.__module__ = body.__doc__, body.__module__
        test.pytestmark = getattr(body, "pytestmark", [])  # type: ignore[attr-defined]
        return pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])(test)

    return tests
