"""Repetition: how much of a source has been read, and what that does to its weight (DESIGN 4.3)."""

from dataclasses import dataclass

import numpy as np

from bandit.arms import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Repetition:
    """How often a source has been read and what that does to its weight.

    epochs: windows served / windows. penalty: 1 / max(1, epochs). coverage: min(1, epochs).
    bonus: 1 + 0.3 (1 - coverage / 0.5) below half coverage, else 1.
    """

    epochs: float
    penalty: float
    coverage: float
    bonus: float


def repetition(cursor: int, windows: int) -> Repetition:
    """The terms of one source from its cursor (windows served, lifetime) and its windows; no epochs without data.

    >>> repetition(cursor=300, windows=100)
    Repetition(epochs=3.0, penalty=0.3333333333333333, coverage=1.0, bonus=1.0)
    >>> repetition(cursor=0, windows=100).bonus
    1.3
    """
    epochs = cursor / windows if windows > 0 else 0.0
    penalty, coverage, bonus = _terms(np.array([epochs]))
    return Repetition(epochs, float(penalty[0]), float(coverage[0]), float(bonus[0]))


def repetition_terms(cursors: IntArray, windows: IntArray) -> tuple[FloatArray, FloatArray]:
    """(penalty, bonus) of many sources, each (arms,); windows > 0."""
    penalty, _, bonus = _terms(cursors / windows)
    return penalty, bonus


def _terms(epochs: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    coverage = np.minimum(1.0, epochs)
    return 1.0 / np.maximum(1.0, epochs), coverage, 1.0 + 0.3 * np.maximum(0.0, 1.0 - coverage / 0.5)
