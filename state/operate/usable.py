"""Whether a launch could take a payload up, field by field, as strictly as the launch itself reads it."""

from typing import Any

from bandit.arms import ArmSpec
from bandit.errors import BanditError
from bandit.reward import REWARDS
from bandit.scheduler import Scheduler
from curriculum.arms import scheduler_config
from curriculum.errors import Exit, FirehoseError
from state.reconcile import BOUNDS
from state.run_dir import RunDir
from state.story import read_config

PARTS = ("bandit", "reward", "gate", "pruned", "data", "files", "loop")
ENTRY = ("record", "reward", "data", "reason", "step", "origin")


def usable(run: RunDir, payload: dict[str, Any]) -> None:
    """Raise FirehoseError(REFUSED), naming field and arm, where a launch could not go on from this payload."""
    for part in PARTS:
        if not isinstance(payload.get(part), dict):
            raise _refused(run, f"{part}: expected an object, found {payload.get(part)!r}")
    config = read_config(run)
    try:
        records = payload["bandit"]["arms"]
        specs = [
            ArmSpec(name, record["id"], record["windows"], *(record[key] for key in BOUNDS))
            for name, record in records.items()
        ]
        ids = [spec.id for spec in specs]
        Scheduler.restore(scheduler_config(config), specs, payload["bandit"])
        REWARDS[config.curriculum.reward].restore(
            ids, payload["reward"], {spec.id: spec.name for spec in specs}
        )
    except BanditError as error:
        raise _refused(run, str(error), getattr(error, "arm", None)) from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _refused(run, f"bandit: cannot be read: {error!r}") from None
    known = {*ids}
    for ticket in payload["bandit"]["tickets"]:
        if ticket["arm"] not in known:
            raise _refused(
                run, f"bandit.tickets: ticket {ticket['id']} is of arm {ticket['arm']}, which is not there"
            )
    for name in records:
        if not isinstance(payload["data"].get(name), str):
            raise _refused(run, f"data.{name}: expected a SHA-256, found {payload['data'].get(name)!r}", name)
    for name, entry in payload["pruned"].items():
        lacks = [key for key in ENTRY if not isinstance(entry, dict) or key not in entry]
        if lacks:
            raise _refused(run, f"pruned.{name}: {', '.join(lacks)} missing", name)


def _refused(run: RunDir, message: str, arm: str | None = None) -> FirehoseError:
    return FirehoseError(
        Exit.REFUSED,
        f"a launch could not take this state up: {message}",
        path=run.state,
        arm=arm,
        next=f"firehose state check {run.called()}",
    )
