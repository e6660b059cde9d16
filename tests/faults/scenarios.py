"""The table of what is put under faults. One more: three lines in `scenarios`, with a `make`, an `act` and a `check`."""

from tests.faults.on_checkpoints import CHECKPOINTS
from tests.faults.on_commands import COMMANDS
from tests.faults.on_commits import COMMITS
from tests.faults.on_files import FILES
from tests.faults.on_runs import RUNS, TRAINED
from tests.faults.scenario import Scenario
from tests.faults.writers import BROKEN


def scenarios(*, short: bool) -> list[Scenario]:
    """All of them. short: those of `make test`."""
    known = [
        *FILES,
        *RUNS,
        *COMMANDS,
        *BROKEN,
        *CHECKPOINTS,
        *COMMITS,
        *TRAINED,
    ]  # torch last: with it, forks are slower
    return [scenario for scenario in known if scenario.short or not short]
