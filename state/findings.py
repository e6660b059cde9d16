"""What a check can find, each with a stable id; and the error that carries a finding."""

from dataclasses import asdict, dataclass
from typing import Any

from curriculum.errors import Exit, FirehoseError

# id -> (title, usual severity). The ids are part of the command line's contract (DESIGN 7.3).
TITLES: dict[str, tuple[str, str]] = {
    "F0001": ("unreadable", "error"),
    "F0002": ("hash mismatch", "error"),
    "F0003": ("zombie arm", "warning"),
    "F0004": ("missing data", "warning"),
    "F0005": ("changed data", "warning"),
    "F0006": ("new source", "info"),
    "F0007": ("bound drift", "warning"),
    "F0008": ("non-finite value", "error"),
    "F0009": ("counts disagree", "error"),
    "F0010": ("infeasible bounds", "error"),
    "F0011": ("duplicate key", "error"),
    "F0012": ("newer schema", "error"),
    "F0013": ("checkpoint disagrees", "warning"),
    "F0014": ("lineage conflict", "error"),
    "F0015": ("leftover journal or temporaries", "info"),
    "F0016": ("loss or sample file torn", "error"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact about a run's files. severity: info, warning or error; fix: the command or edit that clears it."""

    id: str
    severity: str
    arm: str | None
    message: str
    fix: str | None

    def as_dict(self) -> dict[str, Any]:
        """The finding as `state check --json` prints it (DESIGN 9.1)."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.id} {TITLES[self.id][0]}: {self.message}"


def finding(id: str, message: str, *, arm: str | None = None, fix: str | None = None) -> Finding:
    """A finding of the usual severity of its id.

    >>> print(finding("F0003", "'web' is excluded", arm="web"))
    F0003 zombie arm: 'web' is excluded
    """
    return Finding(id, TITLES[id][1], arm, message, fix)


class FindingError(FirehoseError):
    """A finding that stops the command; its message starts with the id."""

    def __init__(
        self, exit_code: Exit, found: Finding, *, path: object = None, changed: str = "nothing"
    ) -> None:
        super().__init__(exit_code, str(found), path=path, arm=found.arm, changed=changed, next=found.fix)
        self.finding = found
