"""Rewards: what a pull was worth, in [0, 1] (DESIGN 4.2), and how much of a source has been read (4.3)."""

from typing import Any

from bandit.reward.base import Reward as Reward
from bandit.reward.progress import ProgressReward as ProgressReward
from bandit.reward.repetition import repetition as repetition
from bandit.reward.repetition import repetition_terms as repetition_terms
from bandit.reward.scaled import AlignReward as AlignReward
from bandit.reward.scaled import HeldoutReward, ImprovementReward, LossReward

REWARDS: dict[str, type[Reward[Any]]] = {
    "align": AlignReward,
    "progress": ProgressReward,
    "improvement": ImprovementReward,
    "loss": LossReward,
    "heldout": HeldoutReward,
}
"""The rewards by the name that a config gives them."""
