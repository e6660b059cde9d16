"""What config and data say of a source, and what a launch therefore does with its arm."""

from collections.abc import Mapping, Sequence
from typing import Any

from curriculum import config as configs
from curriculum.config import Config
from curriculum.errors import FirehoseError
from state.pullable import configured as bounds_of
from state.pullable import listed, missing, why_not
from state.run_dir import RunDir

MISSING = ", but its data "


def config_of(run: RunDir) -> Config | None:
    """The run's config, or None where it cannot be read: a launch says why. Without numpy, and so without its rules."""
    try:
        return configs.load(run.config, rules=False)
    except (FirehoseError, OSError):
        return None


def zombies(run: RunDir, payload: Mapping[str, Any]) -> dict[str, str]:
    """The arms in the bandit that the next launch puts aside, and why; nothing where config or data cannot be asked.

    The manifest is believed and a token file only looked for, so that it costs next to nothing.
    """
    config = config_of(run)
    if config is None:
        return {}
    sources, data = bounds_of(config), listed(config)
    if data is None:
        data = {name: {"sha256": "", "windows": 1} for name in sources}
    names = payload.get("bandit", {}).get("arms", {})
    return {name: why for name in sorted(names) if (why := why_not(name, sources, data))}


def configured(run: RunDir, name: str) -> tuple[bool, str] | None:
    """Whether a launch can pull a source, and what config and data say of it; None without a config to ask."""
    config = config_of(run)
    if config is None:
        return None
    source = config.sources.get(name)
    if source is None:
        return False, f"the config has no {name}"
    if name in config.curriculum.exclude_sources:
        return False, f"the config excludes {name}"
    if source.cap == 0:
        return False, f"the config caps {name} at 0"
    usual = {"cap": None, "floor": None, "min_share": 0.0, "max_share": 1.0}
    told = ", ".join(
        f"{key} {getattr(source, key):g}" for key, value in usual.items() if getattr(source, key) != value
    )
    wants = f"the config wants {name} ({told})"
    data = listed(config)
    why = None if data is None else missing(name, bounds_of(config), data)
    return (True, wants) if why is None else (False, f"{wants}, but {why}")


def config_says(
    run: RunDir, edits: Sequence[tuple[str, dict[str, Any]]], payload: dict[str, Any] | None, step: int
) -> list[str]:
    """What the next launch does with the arms of edits, by its own rule. payload: what it goes on from, of a step.

    Where config or data cannot be read the launch is refused for that, and one sentence says so.
    """
    from curriculum.sources import check_present, known_arms, open_corpus
    from state.survey import reconciled

    names = {args[key]: (op, key) for op, args in edits for key in ("arm", "old", "new") if key in args}
    before = payload or {}
    live = before.get("bandit", {}).get("arms", {})
    ids, lines = None, []
    try:
        config = configs.load(run.config)
        corpus = open_corpus(config)
        ids = reconciled(config, corpus, before, step=step, read_data=False, run=run).ids
        check_present(config, corpus, known=known_arms(before))
    except (FirehoseError, OSError) as error:
        why = error.message if isinstance(error, FirehoseError) else str(error)
        lines.append(f"as things are a launch is refused: {why.partition(';')[0]}")
    for name, (op, key) in names.items():
        says = configured(run, name)
        if says is None:
            continue
        wanted, why = says
        aside = before.get("pruned", {}).get(name)
        if ids is not None:
            wanted = name in ids
        if op == "rm" or key == "old":
            if wanted and aside is not None and not aside.get("removed"):
                lines.append(f"{why}: the next launch brings back the record that is put aside")
            elif wanted:
                out = f"firehose polish set {name}.cap=0 --run {run.called()}"
                lines.append(f"{why}: the next launch begins it anew, without history; to keep it out: {out}")
            else:
                lines.append(f"{why}: it stays out" + (" until it is there" if MISSING in why else ""))
        elif wanted:
            lines.append(f"{why}: it goes on")
        else:
            again = "; its record is kept and comes back with the data" if MISSING in why else ""
            lines.append(
                f"{why}: the next launch puts it aside{again}" if name in live else f"{why}: it stays aside"
            )
    return lines
