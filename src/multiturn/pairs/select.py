"""Preference pairs from scored trajectories: the expert's against a rollout's, task by task.

The better of the two is the chosen one, so the roles swap where the rollout beat the expert. Every rollout
ends up in exactly one place: in a pair, or dropped for one reason. The reasons, in the order in which they
are looked for:

- ``environment_error``: the environment crashed or hung; the reward says nothing about the agent.
- ``no_turns``: the rollout has no assistant turn.
- ``no_reward``: the rollout's reward is not known.
- ``no_expert``: the task has no usable expert trajectory: none at all, or only ones with a defect above.
- ``prompt_mismatch``: expert and rollout do not start from the same messages and tools, so they are not two
  continuations of one prompt.
- ``tie``: equal rewards; nothing is preferred.
- ``below_min_gap``: the rewards differ by less than ``min_gap``.
- ``rollout_better``: the rollout beat the expert, and ``better_rollout`` is ``"drop"``.
- ``duplicate``: the same actions as the expert, or as an earlier rollout of the task that made a pair.
- ``noisy``: the dispreferred side is noisy (`multiturn.pairs.noise`), and ``noise`` is ``"drop"``.
- ``over_max``: the task already has ``max_pairs_per_task`` pairs.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import math
from typing import TYPE_CHECKING, Final, Literal

from multiturn.errors import ConfigError, DataError
from multiturn.pairs.noise import NoiseRule, action_text, noise_reasons
from multiturn.trajectory import Message, Outcome, PreferencePair, Trajectory

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["DROP_REASONS", "Drop", "PairSettings", "Selection", "select_pairs"]

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
)
"""Every reason a rollout may be dropped for, in the order in which they are looked for."""

TIE_TOLERANCE: Final = 1e-9
"""Rewards closer than this are equal: sums of step rewards may differ in their last bits."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PairSettings:
    """Which pairs to keep.

    Attributes:
        min_gap: The least difference of the two rewards; 0 keeps every difference.
        max_pairs_per_task: At most so many pairs of one task, chosen by ``seed``; None keeps all.
        noise: Whether pairs whose dispreferred side is noisy stay in (the paper's "noisy" setting) or are
            dropped (its "clean" one).
        noise_rule: The thresholds of noise.
        better_rollout: Where the rollout beat the expert, ``"swap"`` the roles or ``"drop"`` the rollout.
        seed: Decides which pairs stay where a task has too many. The choice depends on nothing but the seed
            and the ids, so neither the order of the input nor other tasks change it.
    """

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
        if self.noise not in {"keep", "drop"}:
            raise ConfigError(f"noise is {self.noise!r}; use 'keep' or 'drop'")
        if self.better_rollout not in {"swap", "drop"}:
            raise ConfigError(f"better_rollout is {self.better_rollout!r}; use 'swap' or 'drop'")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """A rollout that made no pair.

    Attributes:
        trajectory_id: The rollout.
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
    """The pairs, and what became of every other rollout.

    ``len(pairs) + len(drops)`` is the number of rollouts.

    Attributes:
        pairs: The pairs, in the order of the rollouts.
        drops: The rollouts that made no pair, in their order.
    """

    pairs: list[PreferencePair]
    drops: tuple[Drop, ...]

    @property
    def dropped(self) -> dict[str, int]:
        """How many rollouts were dropped, by reason; only reasons that occurred, in `DROP_REASONS`' order."""
        counts = collections.Counter(drop.reason for drop in self.drops)
        return {reason: counts[reason] for reason in DROP_REASONS if counts[reason]}

    @property
    def counts(self) -> dict[str, int]:
        """``rollouts``, ``pairs``, ``swapped``, ``noisy_kept`` and ``tasks`` (those with a pair)."""
        return {
            "rollouts": len(self.pairs) + len(self.drops),
            "pairs": len(self.pairs),
            "swapped": sum(bool(pair.info["swapped"]) for pair in self.pairs),
            "noisy_kept": sum(bool(pair.info["rejected_noise"]) for pair in self.pairs),
            "tasks": len({pair.task_id for pair in self.pairs}),
        }


def select_pairs(
    experts: Sequence[Trajectory], rollouts: Sequence[Trajectory], settings: PairSettings | None = None
) -> Selection:
    """Pair every rollout with the expert's trajectory of the same task.

    Where a task has several expert trajectories, the one with the highest reward counts, then the one with
    the fewest turns, then the first.

    Args:
        experts: Expert trajectories.
        rollouts: The policy's attempts, any number for each task, with unique ids.
        settings: What to keep; the defaults when None.

    Returns:
        The pairs and the drops. A pair's id is its rollout's; its ``info`` holds ``chosen_id``,
        ``rejected_id``, ``chosen_reward``, ``rejected_reward``, ``chosen_num_turns``, ``rejected_num_turns``,
        ``swapped``, ``rejected_noise`` (the reasons, empty when clean), ``task_type`` and ``split``.

    Raises:
        DataError: Two rollouts share an id, or expert and rollout come from different environments (their
            fingerprints differ), whose rewards cannot be compared.
    """
    settings = settings or PairSettings()
    _require_unique_ids(rollouts)
    best = _best_experts(experts)
    seen: dict[str, set[tuple[str, ...]]] = {task: {_actions(expert)} for task, expert in best.items()}
    outcomes: dict[str, PreferencePair | Drop] = {}
    for rollout in rollouts:
        outcomes[rollout.id] = _judge(rollout, best.get(rollout.task_id), seen, settings)
    for rollout_id in _beyond_max(outcomes, settings):
        task_id = outcomes[rollout_id].task_id
        outcomes[rollout_id] = Drop(trajectory_id=rollout_id, task_id=task_id, reason="over_max")
    return Selection(
        pairs=[result for result in outcomes.values() if isinstance(result, PreferencePair)],
        drops=tuple(result for result in outcomes.values() if isinstance(result, Drop)),
    )


def _judge(
    rollout: Trajectory,
    expert: Trajectory | None,
    seen: dict[str, set[tuple[str, ...]]],
    settings: PairSettings,
) -> PreferencePair | Drop:
    """One rollout's pair, or why there is none. A pair's actions are added to ``seen``."""

    def drop(reason: str, detail: str = "") -> Drop:
        return Drop(trajectory_id=rollout.id, task_id=rollout.task_id, reason=reason, detail=detail)

    defect = _defect(rollout)
    if defect is not None:
        return drop(defect)
    if expert is None:
        return drop("no_expert")
    _require_same_environment(rollout, expert)
    if not _same_prompt(rollout, expert):
        return drop("prompt_mismatch", f"differs from expert trajectory {expert.id!r}")
    unwanted = _unwanted(rollout, expert, settings)
    if unwanted is not None:
        return drop(unwanted, f"rewards {_reward(expert):.4g} (expert) and {_reward(rollout):.4g}")
    actions = _actions(rollout)
    if actions in seen[rollout.task_id]:
        return drop("duplicate")
    swapped = _reward(rollout) > _reward(expert)
    chosen, rejected = (rollout, expert) if swapped else (expert, rollout)
    noise = noise_reasons(rejected, settings.noise_rule)
    if noise and settings.noise == "drop":
        return drop("noisy", ", ".join(noise))
    seen[rollout.task_id].add(actions)
    return _pair(rollout.id, chosen, rejected, swapped=swapped, noise=noise)


def _unwanted(rollout: Trajectory, expert: Trajectory, settings: PairSettings) -> str | None:
    """Why the two rewards make no pair."""
    gain = _reward(rollout) - _reward(expert)
    if abs(gain) <= TIE_TOLERANCE:
        return "tie"
    if abs(gain) < settings.min_gap - TIE_TOLERANCE:
        return "below_min_gap"
    if gain > 0 and settings.better_rollout == "drop":
        return "rollout_better"
    return None


def _pair(
    pair_id: str, chosen: Trajectory, rejected: Trajectory, *, swapped: bool, noise: tuple[str, ...]
) -> PreferencePair:
    return PreferencePair(
        id=pair_id,
        task_id=chosen.task_id,
        prompt=chosen.prompt,
        chosen=chosen.messages[len(chosen.prompt) :],
        rejected=rejected.messages[len(rejected.prompt) :],
        tools=chosen.tools,
        info={
            "chosen_id": chosen.id,
            "rejected_id": rejected.id,
            "chosen_reward": chosen.reward,
            "rejected_reward": rejected.reward,
            "chosen_num_turns": chosen.num_turns,
            "rejected_num_turns": rejected.num_turns,
            "swapped": swapped,
            "rejected_noise": list(noise),
            "task_type": chosen.task_type,
            "split": chosen.split,
        },
    )


def _beyond_max(outcomes: dict[str, PreferencePair | Drop], settings: PairSettings) -> Iterable[str]:
    """The ids of the pairs that are too many for their task."""
    if settings.max_pairs_per_task is None:
        return []
    by_task: dict[str, list[str]] = collections.defaultdict(list)
    for rollout_id, result in outcomes.items():
        if isinstance(result, PreferencePair):
            by_task[result.task_id].append(rollout_id)

    def draw(rollout_id: str) -> bytes:
        return hashlib.sha256(f"{settings.seed}\0{rollout_id}".encode("utf-8", "surrogatepass")).digest()

    return [
        rollout_id
        for ids in by_task.values()
        for rollout_id in sorted(ids, key=draw)[settings.max_pairs_per_task :]
    ]


def _best_experts(experts: Sequence[Trajectory]) -> dict[str, Trajectory]:
    best: dict[str, Trajectory] = {}
    for expert in experts:
        if _defect(expert) is not None:
            continue
        rival = best.get(expert.task_id)
        if rival is None or _rank(expert) > _rank(rival):
            best[expert.task_id] = expert
    return best


def _rank(expert: Trajectory) -> tuple[float, int]:
    return _reward(expert), -expert.num_turns


def _defect(trajectory: Trajectory) -> str | None:
    """What makes a trajectory unfit for any pair."""
    if trajectory.outcome is Outcome.ENVIRONMENT_ERROR:
        return "environment_error"
    if trajectory.num_turns == 0:
        return "no_turns"
    if trajectory.reward is None:
        return "no_reward"
    return None


def _reward(trajectory: Trajectory) -> float:
    if trajectory.reward is None:
        raise ValueError(f"trajectory {trajectory.id!r} has no reward; such ones are dropped first")
    return trajectory.reward


def _same_prompt(a: Trajectory, b: Trajectory) -> bool:
    return a.tools == b.tools and _said(a.prompt) == _said(b.prompt)


def _said(messages: tuple[Message, ...]) -> list[dict[str, object]]:
    return [message.to_chat() for message in messages]


def _actions(trajectory: Trajectory) -> tuple[str, ...]:
    return tuple(action_text(turn.message) for turn in trajectory.turns)


def _require_same_environment(rollout: Trajectory, expert: Trajectory) -> None:
    if rollout.environment and expert.environment and rollout.environment != expert.environment:
        raise DataError(
            f"rollout {rollout.id!r} was made in environment {rollout.environment!r} and expert trajectory "
            f"{expert.id!r} in {expert.environment!r}; make both anew with the same environment"
        )


def _require_unique_ids(rollouts: Sequence[Trajectory]) -> None:
    counts = collections.Counter(rollout.id for rollout in rollouts)
    twice = [rollout_id for rollout_id, count in counts.items() if count > 1]
    if twice:
        shown = ", ".join(repr(rollout_id) for rollout_id in twice[:3])
        more = f" and {len(twice) - 3} more" if len(twice) > 3 else ""
        raise DataError(f"several rollouts share the id {shown}{more}; give every rollout its own")
