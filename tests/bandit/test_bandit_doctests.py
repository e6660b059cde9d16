"""The examples in the bandit's docstrings run."""

import doctest
import importlib
import pkgutil

import pytest

import bandit

MODULES = sorted(module.name for module in pkgutil.iter_modules(bandit.__path__, "bandit."))


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0
