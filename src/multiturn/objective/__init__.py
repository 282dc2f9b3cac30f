"""The objectives as pure functions of per-turn log-probability sums."""

from multiturn.objective.losses import (
    PAIR_OBJECTIVES,
    Link,
    ObjectiveOutput,
    PairLogps,
    PairObjective,
    dmpo,
    dpo,
    sft,
    with_chosen_nll,
)
from multiturn.objective.weights import WEIGHTINGS, Weighting, turn_weights, uniform_weights

__all__ = [
    "PAIR_OBJECTIVES",
    "WEIGHTINGS",
    "Link",
    "ObjectiveOutput",
    "PairLogps",
    "PairObjective",
    "Weighting",
    "dmpo",
    "dpo",
    "sft",
    "turn_weights",
    "uniform_weights",
    "with_chosen_nll",
]
