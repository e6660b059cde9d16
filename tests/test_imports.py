"""Imports run one way only: trainer -> state -> curriculum -> bandit; and nothing light imports torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ["bandit", "curriculum", "state", "trainer"]
# What each package may import beside the standard library, itself and the packages below it.
ALLOWED = {
    "bandit": {"numpy", "scipy"},
    "curriculum": {
        "numpy",
        "msgspec",
        "typer",
        "rich",
        "tokenizers",
        "english_words",
        "matplotlib",
        "tomlkit",
    },
    "state": {"msgspec", "filelock", "typer", "rich"},
    "trainer": {"numpy", "msgspec", "typer", "rich", "torch", "safetensors", "matplotlib"},
}


def imported(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction"
            names.add((node.module or "").split(".")[0])
    return names


def violations(package: str, source: str) -> set[str]:
    below = set(LAYERS[: LAYERS.index(package) + 1])
    allowed = below | ALLOWED[package] | set(sys.stdlib_module_names)
    return imported(ast.parse(source)) - allowed


@pytest.mark.parametrize("package", LAYERS)
def test_direction(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = {str(f.relative_to(ROOT)): bad for f in files if (bad := violations(package, f.read_text()))}
    assert wrong == {}


def test_the_check_itself_fails_on_an_upward_import() -> None:
    assert violations("bandit", "from state.store import StateStore") == {"state"}
    assert violations("state", "import torch") == {"torch"}


@pytest.mark.parametrize("module", ["trainer.cli", "state.cli", "curriculum.config"])
def test_no_torch_until_a_command_needs_it(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_no_plotting_until_a_picture_is_asked_for() -> None:
    code = (
        "import sys, curriculum.simulate_cli; sys.exit('matplotlib' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
