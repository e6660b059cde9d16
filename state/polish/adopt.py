"""Another config file taken for a run: what it does not set of the run's name and place stays as it is."""

import os
import tomllib
from pathlib import Path

import msgspec

from curriculum import config_edit
from state.polish.polish import effective, origin
from state.run_dir import RunDir


def adopted(run: RunDir, text: str, file: Path) -> tuple[str, Path]:
    """Another file's text as one of a run, and the file to take it for: what it does not set is the run's own.

    `name` and `data.dir` follow a file's name and place where it does not set them. A file whose words for the places of
    the run's sources are the run's own stands for the run's file wherever it lies. Raises FirehoseError.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return text, file  # told with its line when it is checked
    own, home = effective(run), origin(run)
    tables, data = raw.get("sources"), raw.get("data")
    tables = tables if isinstance(tables, dict) else {}
    paths = {name: table.get("path") for name, table in tables.items() if isinstance(table, dict)}
    same = all(own["sources"].get(name, {}).get("path") == path for name, path in paths.items())
    original = home if same else file.with_name(home.name)
    settings = []
    if "name" not in raw and own["name"] != original.stem:
        settings.append(config_edit.Setting(("name",), _quoted(own["name"])))
    if not isinstance(data, dict) or "dir" not in data:
        words = own["data"]["dir"]
        if original.parent.resolve() != home.parent.resolve():
            words = os.path.relpath(home.parent / words, original.parent)
        if words != f"data/{raw.get('name', own['name'])}":
            settings.append(config_edit.Setting(("data", "dir"), _quoted(words)))
    return config_edit.edit(text, settings, file), original


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()
