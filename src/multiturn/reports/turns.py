"""What each turn of a pair is worth to a method (M4, M10), and how much turns weigh (M5)."""

from __future__ import annotations

import dataclasses
import statistics
from typing import TYPE_CHECKING, Any, Final

import torch

from multiturn.objective import PAIR_OBJECTIVES, WEIGHTINGS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["SIDES", "PairTurns", "TurnValue", "mean_values", "pair_turns", "weights_of"]

SIDES: Final = ("chosen", "rejected")
_FEWEST_PAIRS: Final = 3
"""A mean over fewer pairs than this says nothing."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TurnValue:
    """What a turn is worth to a policy.

    Attributes:
        reference: The turn's log-probability under the reference, nats.
        policy: The same under the policy.
        weight: How much the turn counts in the objective; None for objectives without pairs.
        value: The implicit reward (M10), for most objectives beta times weight times log-ratio; without a
            weight the log-ratio (M4) itself, nats.
    """

    reference: float
    policy: float
    weight: float | None
    value: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PairTurns:
    """What the scored turns of a pair are worth to a policy.

    Attributes:
        chosen: The chosen side's, in order.
        rejected: The rejected side's.
    """

    chosen: tuple[TurnValue, ...]
    rejected: tuple[TurnValue, ...]

    @property
    def margin(self) -> float:
        """The sum of the chosen side's values less that of the rejected side's (M11)."""
        chosen, rejected = (sum(turn.value for turn in side) for side in (self.chosen, self.rejected))
        return chosen - rejected


def pair_turns(scores: Mapping[str, Any]) -> PairTurns | None:
    """The values of a pair's turns.

    Args:
        scores: ``{chosen|rejected: {reference|policy: [nats of each turn], weights|rewards: [of each turn] or
            None}}``.

    Returns:
        The values; None where a number is not known.
    """
    known = all(None not in (row or ()) for side in SIDES for row in scores[side].values())
    return PairTurns(**{side: _side(**scores[side]) for side in SIDES}) if known else None


def weights_of(
    objective: str | None, gamma: float | None, turns: int, *, weighting: str | None = None
) -> list[float] | None:
    """The weight of each turn of a trajectory.

    Args:
        objective: The objective's name.
        gamma: The discount.
        turns: The trajectory's turns.
        weighting: The name of a weighting other than the objective's own.

    Returns:
        The weights; None for objectives that do not compare pairs, and where the names are not known here.
    """
    own = PAIR_OBJECTIVES.get(objective or "")
    rule = WEIGHTINGS.get(weighting) if weighting else own.weighting if own is not None else None
    if rule is None or turns < 1:
        return None
    row = rule(torch.tensor([turns]), 1.0 if gamma is None else float(gamma))[0]
    return [float(weight) for weight in row]


def mean_values(pairs: Sequence[PairTurns]) -> dict[str, list[float]]:
    """For each side the mean value of its first turn, its second and so on, as long as three pairs have it.

    Args:
        pairs: What the turns of several pairs are worth to one policy.
    """
    means = {}
    for side in SIDES:
        rows = [[turn.value for turn in getattr(pair, side)] for pair in pairs]
        columns = [[row[t] for row in rows if t < len(row)] for t in range(max(map(len, rows), default=0))]
        means[side] = [statistics.fmean(column) for column in columns if len(column) >= _FEWEST_PAIRS]
    return means


def _side(
    *,
    reference: Sequence[float],
    policy: Sequence[float],
    weights: Sequence[float] | None = None,
    rewards: Sequence[float] | None = None,
) -> tuple[TurnValue, ...]:
    return tuple(
        TurnValue(
            reference=before,
            policy=after,
            weight=None if weights is None or rewards is None else weights[turn],
            value=after - before if weights is None or rewards is None else rewards[turn],
        )
        for turn, (before, after) in enumerate(zip(reference, policy, strict=True))
    )
