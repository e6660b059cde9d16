"""`firehose config`: check a file without running it, and print what may stand in one."""

import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from curriculum.config import ConfigFile, decay_line, digest, effective, load, warnings
from curriculum.config_docs import reference
from curriculum.console import command, emit_json, say
from curriculum.eligibility import never_picked, phases

app = typer.Typer(no_args_is_help=True, help="Check a config, or print what may stand in one.")


@app.command()
@command("config-check/1")
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The TOML config.")],
    *,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Read a config as a run would, and print every setting it would use, defaults included.

    Ends with 0 where it may run (warnings go to stderr), 2 where it cannot be read, 13 where its bounds cannot hold.

    Example: firehose config check configs/andrea-120m.toml
    """
    config = load(file)
    plain, found = effective(config), warnings(config)
    if json:
        body: dict[str, Any] = {
            "path": str(config.path),
            "name": config.name,
            "digest": digest(config),
            "effective": plain,
            "phases": [msgspec.to_builtins(phase) for phase in phases(config)],
            "warnings": found,
        }
        emit_json("config-check/1", body)
        return
    _print_settings(plain)
    print("[sources]")
    for name, source in config.sources.items():
        never = never_picked(config, name)
        shares = f"  share {source.min_share:g} to {source.max_share:g}"
        print(
            f"  {name:24s} cap {source.cap:<5g} floor {source.floor:<5g}{shares}{f'  ({never})' if never else ''}"
        )
    for phase in phases(config):
        print(f"from step {phase.first_step} ({phase.name}): {', '.join(phase.sources)}")
    print(decay_line(config))
    for warning in found:
        say(f"warning: {warning}")
    say(f"{config.path} may run")


def _print_settings(plain: dict[str, Any]) -> None:
    for section, settings in plain.items():
        if section == "sources":
            continue
        if not isinstance(settings, dict):
            print(f"{section} = {_shown(settings)}")
            continue
        print(f"[{section}]")
        for key, value in settings.items():
            print(f"  {key} = {_shown(value)}")


def _shown(value: Any) -> str:
    return "unset" if value is None else msgspec.json.encode(value).decode()


@app.command()
@command("config-schema/1")
def schema(
    *,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The tables of docs/config.md instead.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Wrap the schema as every --json output is.")] = False,
) -> None:
    """Print the JSON Schema of a config file, for editors that complete and check TOML.

    Example: firehose config schema > firehose.schema.json
    """
    json_schema = msgspec.json.schema(ConfigFile)
    if json:
        emit_json("config-schema/1", {"json_schema": json_schema})
    elif markdown:
        sys.stdout.write(reference())
    else:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(json_schema), indent=2).decode() + "\n")
