"""What the config of a run says of a source, and what a launch therefore does with its arm after an edit."""

from typing import Any

from state.run_dir import RunDir, read_object


def configured(run: RunDir, name: str) -> tuple[bool, str] | None:
    """Whether the run's config wants a source, and what it says of it; None where there is no config to ask."""
    config = (read_object(run.effective) or {}).get("config")
    if not isinstance(config, dict) or not isinstance(config.get("sources"), dict):
        return None
    source = config["sources"].get(name)
    if source is None:
        return False, f"the config has no {name}"
    if name in (config.get("curriculum") or {}).get("exclude_sources", []):
        return False, f"the config excludes {name}"
    usual = {"cap": None, "floor": None, "min_share": 0.0, "max_share": 1.0}
    bounds = {key: source[key] for key, value in usual.items() if source.get(key) not in (None, value)}
    if bounds.get("cap") == 0:
        return False, f"the config caps {name} at 0"
    told = ", ".join(f"{key} {value:g}" for key, value in bounds.items())
    return True, f"the config wants {name} ({told})"


def config_says(run: RunDir, op: str, args: dict[str, Any]) -> list[str]:
    """What the next launch does with the arms of an edit, as the config has them."""
    lines = []
    for key in ("arm", "old", "new"):
        says = configured(run, args[key]) if key in args else None
        if says is None:
            continue
        wanted, why = says
        if op == "rm" or key == "old":
            out = f"firehose polish set {args[key]}.cap=0 {run.name} keeps it out"
            anew = f"{why}: the next launch begins it anew, without history; {out}"
            lines.append(anew if wanted else f"{why}: it stays out")
        else:
            lines.append(f"{why}: it goes on" if wanted else f"{why}: the next launch puts it aside")
    return lines
