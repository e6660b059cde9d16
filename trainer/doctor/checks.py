"""A check's verdict, and how verdicts are shown."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Check:
    """One question and its answer. value: what was found, JSON-able; message: where it fails, what it means and what to do."""

    name: str
    ok: bool
    value: Any
    expected: str
    message: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The check as `doctor --json` prints it (DESIGN 9.1)."""
        return asdict(self)


def verdict(name: str, ok: bool, value: Any, expected: str, failing: str) -> Check:
    """A check whose message is kept for the case that it fails.

    >>> verdict("gate", True, "attached", "attached", "it is not").message
    ''
    """
    return Check(name, bool(ok), value, expected, "" if ok else failing)


def lines(checks: list[Check]) -> list[str]:
    """Checks for a person: a line each, and under a failing one what it means.

    >>> print("\\n".join(lines([Check("loss at start", False, 9.7, "7.2 to 8.2", "the head is scaled")])))
    FAIL  loss at start  9.7, expected 7.2 to 8.2
          the head is scaled
    """
    shown = []
    for check in checks:
        value = f"{check.value:.4g}" if isinstance(check.value, float) else str(check.value)
        if check.ok:
            shown.append(f"ok    {check.name}  {value}")
        else:
            shown.append(f"FAIL  {check.name}  {value}, expected {check.expected}")
            shown.append(f"      {check.message}")
    return shown
