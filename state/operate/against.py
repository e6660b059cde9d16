"""What the next launch of a run would change in its state for the config and the data as they are now."""

from typing import Any

from curriculum import config as configs
from curriculum.console import wrapped
from curriculum.sources import open_corpus
from state.recover import look
from state.run_dir import RunDir
from state.store import StateStore
from state.survey import reconciled


def against_config(run: RunDir) -> dict[str, Any]:
    """The body of `state diff --against-config --json`: `changes` is a launch's findings, empty where it changes nothing.

    By the launch's own function; the data's manifest is believed, the token files are not read. Raises FirehoseError as a
    launch would.
    """
    config = configs.load(run.config)
    settled = look(run, StateStore(run.state), deep=False).settled
    result = reconciled(
        config, open_corpus(config), settled.payload or {}, step=settled.step, read_data=False, run=run
    )
    notes = [] if settled.source == "state" else settled.messages
    return {
        "run": run.name,
        "step": settled.step,
        "notes": notes,
        "changes": [found.as_dict() for found in result.findings],
        "restart": result.changed,
    }


def screen(body: dict[str, Any]) -> list[str]:
    """The same as lines of at most 80 columns."""
    lines = [*body["notes"]]
    for found in body["changes"]:
        lines.append(f"{found['id']}  {found['message']}")
        if found["fix"]:
            lines.append(f"  next: {found['fix']}")
    if not body["changes"]:
        lines.append(
            f"the next launch goes on at step {body['step']:,} and changes nothing for config or data"
        )
    if body["restart"]:
        lines.append("pulls issued and not trained are taken back, and shares begin anew")
    return wrapped("\n".join(lines), indent="    ").splitlines()
