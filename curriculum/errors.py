"""The one error the product raises at its users: what happened, where, what changed, and the next command."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of every command; documented in docs/cli.md and stable."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    FINDINGS = 3
    DAMAGED = 4
    ALARMS = 5
    NOT_FOUND = 10
    LOCKED = 11
    STALE_PLAN = 12
    REFUSED = 13
    NOT_SIGNALABLE = 14
    TIMEOUT = 15
    NEWER_SCHEMA = 16
    WRITE_FAILED = 17
    HALTED = 20
    NON_FINITE = 21
    STOPPED = 75
    INTERRUPTED = 130
    TERMINATED = 143


class FirehoseError(Exception):
    """An error a user can act on.

    message: one sentence, what happened. path: the file, with `:line` where one is known. arm: the source's name.
    changed: what was changed before the error, "nothing" in the usual case. next: the next command or edit.
    """

    def __init__(
        self,
        exit_code: Exit,
        message: str,
        *,
        path: object = None,
        arm: str | None = None,
        changed: str = "nothing",
        next: str | None = None,
    ) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.message = message
        self.path = None if path is None else str(path)
        self.arm = arm
        self.changed = changed
        self.next = next

    def as_dict(self) -> dict[str, object]:
        """The `error` object of `--json` (DESIGN 9.1)."""
        return {
            "code": int(self.exit_code),
            "message": self.message,
            "path": self.path,
            "arm": self.arm,
            "changed": self.changed,
            "next": self.next,
        }

    def __str__(self) -> str:
        lines = [self.message]
        if self.path is not None:
            lines.append(f"  where:    {self.path}")
        if self.arm is not None:
            lines.append(f"  arm:      {self.arm}")
        lines.append(f"  changed:  {self.changed}")
        if self.next is not None:
            lines.append(f"  next:     {self.next}")
        return "\n".join(lines)
