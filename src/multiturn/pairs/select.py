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

from typing import TYPE_CHECKING

from multiturn.pairs.judging import (
    actions_of,
    beyond_max,
    defect_of,
    make_pair,
    require_same_environment,
    require_unique_ids,
    reward_of,
    same_prompt,
    unwanted_gap,
)
from multiturn.pairs.noise import noise_reasons
from multiturn.pairs.selection import DROP_REASONS, Drop, PairSettings, Selection
from multiturn.trajectory import PreferencePair

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiturn.trajectory import Trajectory

__all__ = ["DROP_REASONS", "Drop", "PairSettings", "Selection", "select_pairs"]


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
    require_unique_ids(rollouts)
    best = _best_experts(experts)
    seen: dict[str, set[tuple[str, ...]]] = {task: {actions_of(expert)} for task, expert in best.items()}
    outcomes: dict[str, PreferencePair | Drop] = {}
    for rollout in rollouts:
        outcomes[rollout.id] = _judge(rollout, best.get(rollout.task_id), seen, settings)
    made = [result for result in outcomes.values() if isinstance(result, PreferencePair)]
    for rollout_id in beyond_max(made, settings.max_pairs_per_task, settings.seed):
        task_id = outcomes[rollout_id].task_id
        outcomes[rollout_id] = Drop(trajectory_id=rollout_id, task_id=task_id, reason="over_max")
    return Selection(
        pairs=[result for result in outcomes.values() if isinstance(result, PreferencePair)],
        drops=tuple(result for result in outcomes.values() if isinstance(result, Drop)),
        rollouts=len(rollouts),
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

    defect = defect_of(rollout)
    if defect is not None:
        return drop(defect)
    if expert is None:
        return drop("no_expert")
    require_same_environment(rollout, expert)
    if not same_prompt(rollout, expert):
        return drop("prompt_mismatch", f"differs from expert trajectory {expert.id!r}")
    unwanted = _unwanted(rollout, expert, settings)
    if unwanted is not None:
        return drop(unwanted, f"rewards {reward_of(expert):.4g} (expert) and {reward_of(rollout):.4g}")
    actions = actions_of(rollout)
    if actions in seen[rollout.task_id]:
        return drop("duplicate")
    swapped = reward_of(rollout) > reward_of(expert)
    chosen, rejected = (rollout, expert) if swapped else (expert, rollout)
    noise = noise_reasons(rejected, settings.noise_rule)
    if noise and settings.noise == "drop":
        return drop("noisy", ", ".join(noise))
    seen[rollout.task_id].add(actions)
    return make_pair(rollout.id, chosen, rejected, swapped=swapped, noise=noise)


def _unwanted(rollout: Trajectory, expert: Trajectory, settings: PairSettings) -> str | None:
    """Why the two rewards make no pair."""
    gain = reward_of(rollout) - reward_of(expert)
    too_small = unwanted_gap(gain, settings.min_gap)
    if too_small is not None:
        return too_small
    if gain > 0 and settings.better_rollout == "drop":
        return "rollout_better"
    return None


def _best_experts(experts: Sequence[Trajectory]) -> dict[str, Trajectory]:
    best: dict[str, Trajectory] = {}
    for expert in experts:
        if defect_of(expert) is not None:
            continue
        rival = best.get(expert.task_id)
        if rival is None or _rank(expert) > _rank(rival):
            best[expert.task_id] = expert
    return best


def _rank(expert: Trajectory) -> tuple[float, int]:
    return reward_of(expert), -expert.num_turns
