"""Which pairs are wanted, and what a selection returns."""

from __future__ import annotations

import collections
import dataclasses
import math
from typing import TYPE_CHECKING, Final, Literal, get_args

from multiturn.errors import ConfigError
from multiturn.pairs.noise import NoiseRule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multiturn.trajectory import PreferencePair

__all__ = [
    "CANDIDATE_REASONS",
    "DROP_REASONS",
    "TIE_TOLERANCE",
    "Drop",
    "PairSettings",
    "Selection",
    "Strategy",
    "reaches",
]

Strategy = Literal[
    "expert-vs-rollout", "best-vs-worst", "all-above-margin", "length-matched", "first-divergence"
]
"""How the trajectories of a task become pairs; `multiturn.pairs.within` describes all but the first."""

DROP_REASONS: Final = (
    "environment_error",
    "no_turns",
    "no_reward",
    "no_expert",
    "prompt_mismatch",
    "tie",
    "below_min_gap",
    "rollout_better",
    "duplicate",
    "noisy",
    "over_max",
    "alone",
    "unpaired",
)
"""Every reason a trajectory may be dropped for, in the order in which they are looked for."""

CANDIDATE_REASONS: Final = ("tie", "below_min_gap", "noisy", "not_selected", "over_max")
"""Every reason that two trajectories of a task make no pair, likewise."""

TIE_TOLERANCE: Final = 1e-9
"""Rewards closer than this are equal: sums of step rewards may differ in their last bits."""


def reaches(reward: float | None, least: float) -> bool:
    """Whether a return is as high as asked for; one that is not known is not."""
    return reward is not None and reward >= least - TIE_TOLERANCE


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PairSettings:
    """Which pairs to keep.

    Attributes:
        strategy: How trajectories become pairs.
        shared_turns: ``"score"`` keeps whole trajectories, so turns that both sides share are scored (they do
            not cancel, see docs/method.md). ``"context"`` moves them into the
            prompt: the pair begins where the sides part.
        min_gap: The least difference of the two rewards; 0 keeps every difference.
        max_pairs_per_task: At most so many pairs of one task, chosen by ``seed``; None keeps all.
        noise: Whether pairs whose dispreferred side is noisy stay in (the paper's "noisy" setting) or are
            dropped (its "clean" one).
        noise_rule: The thresholds of noise.
        better_rollout: Where the rollout beat the expert, ``"swap"`` the roles or ``"drop"`` the rollout.
        seed: Decides which pairs stay where a task has too many. The choice depends on nothing but the seed
            and the ids, so neither the order of the input nor other tasks change it.
    """

    strategy: Strategy = "expert-vs-rollout"
    shared_turns: Literal["score", "context"] = "score"
    min_gap: float = 0.0
    max_pairs_per_task: int | None = None
    noise: Literal["keep", "drop"] = "keep"
    noise_rule: NoiseRule = dataclasses.field(default_factory=NoiseRule)
    better_rollout: Literal["swap", "drop"] = "swap"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing.

        Raises:
            ConfigError: A value is out of its range.
        """
        if not (math.isfinite(self.min_gap) and self.min_gap >= 0.0):
            raise ConfigError(f"min_gap is {self.min_gap}; it must be a number >= 0")
        if self.max_pairs_per_task is not None and self.max_pairs_per_task < 1:
            raise ConfigError(
                f"max_pairs_per_task is {self.max_pairs_per_task}; it must be at least 1, or None"
            )
        if self.strategy not in get_args(Strategy):
            known = ", ".join(get_args(Strategy))
            raise ConfigError(f"strategy is {self.strategy!r}; use one of {known}")
        if self.shared_turns not in {"score", "context"}:
            raise ConfigError(f"shared_turns is {self.shared_turns!r}; use 'score' or 'context'")
        if self.noise not in {"keep", "drop"}:
            raise ConfigError(f"noise is {self.noise!r}; use 'keep' or 'drop'")
        if self.better_rollout not in {"swap", "drop"}:
            raise ConfigError(f"better_rollout is {self.better_rollout!r}; use 'swap' or 'drop'")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """A trajectory that made no pair.

    Attributes:
        trajectory_id: The trajectory.
        task_id: Its task.
        reason: One of `DROP_REASONS`.
        detail: What exactly, where there is more to say.
    """

    trajectory_id: str
    task_id: str
    reason: str
    detail: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The pairs, and what became of every other trajectory.

    Attributes:
        pairs: The pairs, in the order of the trajectories.
        drops: The trajectories that made no pair, in their order.
        rollouts: How many trajectories there were to pair. Each made a pair (with an expert one pair, within
            a task any number) or is in ``drops``.
        unpaired: Within tasks, two trajectories that were compared and made no pair, counted by reason; only
            reasons that occurred, in `CANDIDATE_REASONS`' order.
    """

    pairs: list[PreferencePair]
    drops: tuple[Drop, ...]
    rollouts: int
    unpaired: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def dropped(self) -> dict[str, int]:
        """How many trajectories were dropped, by reason: those of `DROP_REASONS` that occurred."""
        counts = collections.Counter(drop.reason for drop in self.drops)
        return {reason: counts[reason] for reason in DROP_REASONS if counts[reason]}

    @property
    def counts(self) -> dict[str, int]:
        """``rollouts``, ``pairs``, ``swapped``, ``noisy_kept`` and ``tasks`` (those with a pair)."""
        return {
            "rollouts": self.rollouts,
            "pairs": len(self.pairs),
            "swapped": sum(bool(pair.info["swapped"]) for pair in self.pairs),
            "noisy_kept": sum(bool(pair.info["rejected_noise"]) for pair in self.pairs),
            "tasks": len({pair.task_id for pair in self.pairs}),
        }
