"""The objectives as pure functions of per-turn log-probability sums."""

from multiturn.objective.batch import ObjectiveOutput, PairLogps
from multiturn.objective.links import Link, LinkSettings
from multiturn.objective.losses import PAIR_OBJECTIVES, dmpo, dpo, sft, with_chosen_nll
from multiturn.objective.pairwise import PairObjective
from multiturn.objective.scores import Score, SideLogps, log_ratios, token_shares
from multiturn.objective.weights import (
    WEIGHTINGS,
    Weighting,
    checked_weights,
    exponential_weights,
    last_weights,
    turn_weights,
    uniform_weights,
)

__all__ = [
    "PAIR_OBJECTIVES",
    "WEIGHTINGS",
    "Link",
    "LinkSettings",
    "ObjectiveOutput",
    "PairLogps",
    "PairObjective",
    "Score",
    "SideLogps",
    "Weighting",
    "checked_weights",
    "dmpo",
    "dpo",
    "exponential_weights",
    "last_weights",
    "log_ratios",
    "sft",
    "token_shares",
    "turn_weights",
    "uniform_weights",
    "with_chosen_nll",
]
