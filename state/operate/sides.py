"""What `state diff` compares: two states of a run by reference, or files; one edited by hand with what it was sealed as."""

from pathlib import Path

from state.cli import RUNS
from state.envelope import Envelope
from state.findings import finding
from state.operate import target
from state.operate.target import Target

Side = tuple[Envelope, str]


def of(a: str, b: str, chosen: Target | None) -> tuple[tuple[Side, Side], list[str]]:
    """The two states with their names, and what to say about them. a, b: as given, empty for the usual ones.

    chosen: the run, None where both are files. Raises FirehoseError.
    """
    notes: list[str] = []
    if chosen is not None and chosen.run is not None and "current" in (a or "current", b or "current"):
        edited = target.broken_seal(chosen.run)
        if edited is None:
            notes += chosen.read()[1]
        else:
            what = f"{chosen.path}: what it holds is not what was sealed: edited by hand, or damaged"
            notes += [str(finding("F0002", what)), f"  next:     firehose state check {chosen.called()}"]
            if not a:
                sealed = target.sealed_copy(chosen.run, edited.serial)
                if sealed is None:
                    before = chosen.read()[0]
                    sealed = before, f"serial {before.serial}"
                    notes.append(
                        f"no sealed copy of serial {edited.serial} is kept; it is compared with the newest sound one"
                    )
                return (sealed, _side(b or "current", chosen)), notes
    return (_side(a or "previous", chosen), _side(b or "current", chosen)), notes


def _side(label: str, chosen: Target | None) -> Side:
    """One side of a comparison, and its name."""
    path = Path(label)
    if path.is_file() or path.is_dir() or chosen is None or chosen.run is None:
        if path.exists():
            return target.read_unsealed(target.resolve(label, RUNS).path)
        assert chosen is not None  # a file, with no run to have versions
        return chosen.read()[0], chosen.name
    return target.version(chosen.run, label)
