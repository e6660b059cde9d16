"""The command line as a whole: every command has help, JSON and errors as the contract says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from curriculum.errors import Exit
from state.findings import TITLES
from trainer import cli

ROOT = Path(__file__).parent.parent
cli.mount()
COMMANDS = typer.main.get_command(cli.app)
NAMES = [
    "run",
    "demo",
    "sample",
    "status",
    "list",
    "stop",
    "checkpoint",
    "samples",
    "explain",
    "data",
    "config",
    "gate",
    "simulate",
    "inspect",
    "doctor",
    "state",
    "polish",
]


def test_the_commands_are_the_documented_ones() -> None:
    assert sorted(COMMANDS.commands) == sorted(NAMES)  # type: ignore[attr-defined]
    page = (ROOT / "docs/cli.md").read_text()
    assert [name for name in NAMES if f"firehose {name}" not in page] == []


def test_every_exit_code_is_documented() -> None:
    page = (ROOT / "docs/cli.md").read_text()
    assert [code for code in Exit if f"| {int(code)} |" not in page] == []


def test_every_finding_is_documented() -> None:
    page = (ROOT / "docs/cli.md").read_text()
    rows = [f"| {id} | {title} | {severity} |" for id, (title, severity) in TITLES.items()]
    assert [row for row in rows if row not in page] == []


@pytest.mark.parametrize("name", NAMES)
def test_help(name: str) -> None:
    for option in ("--help", "-h"):
        done = CliRunner().invoke(cli.app, [name, option])
        assert done.exit_code == 0
        assert "Usage" in done.output


def test_the_short_help_of_all_and_of_a_command_of_a_group() -> None:
    for words in ([], ["state", "check"], ["polish", "set"], ["data", "build"]):
        done = CliRunner().invoke(cli.app, [*words, "-h"])
        assert (done.exit_code, "Usage" in done.output) == (0, True), done.output


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["run", "no-such.toml"], Exit.USAGE),
        (["status", "no-such-run"], Exit.NOT_FOUND),
        (["stop", "no-such-run"], Exit.NOT_FOUND),
        (["samples", "no-such-run"], Exit.NOT_FOUND),
        (["sample", "no-such-run", "hello"], Exit.NOT_FOUND),
        (["data", "ls", "no-such-folder"], Exit.NOT_FOUND),
        (["data", "build", "no-such.toml"], Exit.USAGE),
        (["config", "check", "no-such.toml"], Exit.USAGE),
        (["simulate", "no-such.toml"], Exit.USAGE),
    ],
)
def test_errors_in_json_say_what_where_and_what_next(
    arguments: list[str], code: Exit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.app, [*arguments, "--json"])
    assert done.exit_code == code, done.output
    body = json.loads(done.stdout)
    assert next(iter(body)) == "schema"
    assert set(body["error"]) == {"code", "message", "path", "arm", "changed", "next"}
    assert body["error"]["code"] == code
    assert body["error"]["changed"] == "nothing"
    assert body["error"]["next"]
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_key_names_line_and_suggestion(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('[train]\nwarmup_step = 3\n[sources.a]\npath = "a.txt"\n')
    done = CliRunner().invoke(cli.app, ["run", str(path)])
    assert done.exit_code == Exit.USAGE
    assert f"{path}:2" in done.stderr
    assert "warmup_steps" in done.stderr


def test_status_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['firehose', 'status', 'none']\n"
        "from trainer import cli\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'tokenizers', 'scipy'} & set(sys.modules)\n"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
