"""Virtual environments of the benchmarks' peers, made from bench/peers/NAME.txt."""

import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent


def environment(name: str, folder: Path, *options: str) -> Path:
    """Python of a peer's virtual environment under `folder`, which is made anew when its requirements changed.

    options: further ones for pip.
    """
    requirements = HERE / f"peers/{name}.txt"
    wanted = requirements.read_text()
    home = folder / name
    made, python = home / "installed.txt", home / "bin/python"
    if not made.exists() or made.read_text() != wanted:
        print(f"installing {name} into {home}", file=sys.stderr)
        venv.create(home, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*install, *options, "-r", str(requirements)], check=True)
        made.write_text(wanted)
    return python
