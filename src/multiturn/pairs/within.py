"""Preference pairs from scored trajectories alone: those of a task among themselves.

Any two trajectories of a task that start from the same prompt are a candidate; the one with the higher
reward would be chosen. A candidate is no pair for one of these reasons, looked for in this order:

- ``tie``, ``below_min_gap``: the rewards are equal, or differ by less than ``min_gap``.
- ``noisy``: the dispreferred one is noisy (`multiturn.pairs.noise`), and ``noise`` is ``"drop"``.
- ``not_selected``: the strategy takes another candidate of the task.
- ``over_max``: the task already has ``max_pairs_per_task`` pairs.

The strategies, each over what is left after the first two:

``all-above-margin``
    Every candidate.
``best-vs-worst``
    One of each task: the best trajectory and the worst. Of several with the same reward the best is the one
    with the fewest turns, and the worst the one with the most.
``length-matched``
    One of each task: of the candidates whose chosen side has the task's highest reward, the one whose sides
    are nearest in their number of turns; then the one with the larger difference of rewards.
``first-divergence``
    One of each task: the two that share the most turns before they part; then the one with the larger
    difference of rewards.

What is still equal is decided by the order of the input. Trajectories of which nothing can be learned are
dropped first (``environment_error``, ``no_turns``, ``no_reward``, and ``duplicate`` for the same actions as
an earlier one); then those that are ``alone`` in their task, or in their task alone with their prompt
(``prompt_mismatch``); ``unpaired`` are those all of whose candidates came to nothing.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import json
from typing import TYPE_CHECKING, Any

from multiturn.pairs.branch import branch_of, branch_point
from multiturn.pairs.judging import (
    actions_of,
    beyond_max,
    defect_of,
    make_pair,
    require_same_environment,
    require_unique_ids,
    reward_of,
    said,
    unwanted_gap,
)
from multiturn.pairs.noise import noise_reasons
from multiturn.pairs.selection import CANDIDATE_REASONS, Drop, PairSettings, Selection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from multiturn.trajectory import PreferencePair, Trajectory

__all__ = ["pair_within_tasks"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """Two trajectories of a task, the better one first.

    Attributes:
        chosen: The better one.
        rejected: The other.
    """

    chosen: Trajectory
    rejected: Trajectory

    @property
    def gap(self) -> float:
        """The difference of their rewards."""
        return reward_of(self.chosen) - reward_of(self.rejected)


class _NoiseOf(dict[str, tuple[str, ...]]):
    """Why trajectories are noisy, by id; each is judged once, for it is in many candidates."""

    def __init__(self, settings: PairSettings) -> None:
        super().__init__()
        self._rule = settings.noise_rule

    def of(self, trajectory: Trajectory) -> tuple[str, ...]:
        """Why this one is noisy; empty where it is clean."""
        if trajectory.id not in self:
            self[trajectory.id] = noise_reasons(trajectory, self._rule)
        return self[trajectory.id]


def pair_within_tasks(trajectories: Sequence[Trajectory], settings: PairSettings) -> Selection:
    """Pair the trajectories of every task among themselves.

    Args:
        trajectories: Any number for each task, with unique ids.
        settings: What to keep; the strategy is one of this module's.

    Returns:
        The pairs, the trajectories that are in none, and the candidates that made none. A pair's id is
        ``<chosen id> > <rejected id>``; its ``info`` holds what that of `multiturn.pairs.select.select_pairs`
        does, and ``strategy`` and ``shared_turns``.

    Raises:
        DataError: Two trajectories share an id, or those of a task come from different environments.
    """
    require_unique_ids(trajectories)
    drops: dict[str, Drop] = {}
    noise = _NoiseOf(settings)
    unpaired: collections.Counter[str] = collections.Counter()
    pairs: list[PreferencePair] = []
    for group in _groups(trajectories, drops):
        taken = _select(_candidates(group, settings, noise, unpaired), settings)
        unpaired["not_selected"] -= len(taken)
        pairs += [_pair(candidate, settings, noise) for candidate in taken]
    too_many = set(beyond_max(pairs, settings.max_pairs_per_task, settings.seed))
    unpaired["over_max"] += len(too_many)
    pairs = [pair for pair in pairs if pair.id not in too_many]
    paired = {pair.info[key] for pair in pairs for key in ("chosen_id", "rejected_id")}
    for trajectory in trajectories:
        if trajectory.id not in paired and trajectory.id not in drops:
            drops[trajectory.id] = _drop(trajectory, "unpaired")
    return Selection(
        pairs=pairs,
        drops=tuple(drops[t.id] for t in trajectories if t.id in drops),
        rollouts=len(trajectories),
        unpaired={reason: unpaired[reason] for reason in CANDIDATE_REASONS if unpaired[reason]},
    )


def _groups(trajectories: Sequence[Trajectory], drops: dict[str, Drop]) -> list[list[Trajectory]]:
    """The usable trajectories by task and prompt, at least two in each group; the others are dropped."""
    tasks: dict[str, dict[str, list[Trajectory]]] = {}
    seen: set[tuple[str, str, tuple[str, ...]]] = set()
    for trajectory in trajectories:
        defect = defect_of(trajectory)
        start = json.dumps([said(trajectory.prompt), [dict(t) for t in trajectory.tools]], default=str)
        done = (trajectory.task_id, start, actions_of(trajectory))
        if defect is not None or done in seen:
            drops[trajectory.id] = _drop(trajectory, defect or "duplicate")
            continue
        seen.add(done)
        tasks.setdefault(trajectory.task_id, {}).setdefault(start, []).append(trajectory)
    groups = []
    for prompts in tasks.values():
        for group in prompts.values():
            if len(group) > 1:
                groups.append(group)
            else:
                reason = "prompt_mismatch" if len(prompts) > 1 else "alone"
                drops[group[0].id] = _drop(group[0], reason)
    return groups


def _candidates(
    group: Sequence[Trajectory],
    settings: PairSettings,
    noise: _NoiseOf,
    unpaired: collections.Counter[str],
) -> list[_Candidate]:
    """Every two trajectories of a group that may be a pair; ``unpaired`` counts the others, and these too."""
    candidates = []
    for first, second in itertools.combinations(group, 2):
        require_same_environment(second, first)
        better, worse = (second, first) if reward_of(second) > reward_of(first) else (first, second)
        reason = unwanted_gap(reward_of(better) - reward_of(worse), settings.min_gap)
        if reason is None and settings.noise == "drop" and noise.of(worse):
            reason = "noisy"
        unpaired[reason or "not_selected"] += 1
        if reason is None:
            candidates.append(_Candidate(chosen=better, rejected=worse))
    return candidates


def _select(candidates: Sequence[_Candidate], settings: PairSettings) -> list[_Candidate]:
    """The candidates that the strategy takes, in their order."""
    if settings.strategy == "all-above-margin" or not candidates:
        return list(candidates)
    ranks = {"best-vs-worst": _extremes, "length-matched": _nearest, "first-divergence": _most_shared()}
    return [max(candidates, key=ranks[settings.strategy])]  # the first of those that are equal


def _extremes(candidate: _Candidate) -> tuple[Any, ...]:
    chosen, rejected = candidate.chosen, candidate.rejected
    return reward_of(chosen), -chosen.num_turns, -reward_of(rejected), rejected.num_turns


def _nearest(candidate: _Candidate) -> tuple[Any, ...]:
    chosen, rejected = candidate.chosen, candidate.rejected
    return reward_of(chosen), -abs(chosen.num_turns - rejected.num_turns), candidate.gap


def _most_shared() -> Callable[[_Candidate], tuple[Any, ...]]:
    """The rank by shared turns; it remembers what every trajectory says, for each is in many candidates."""

    @functools.cache
    def continuation(trajectory_id: str) -> list[dict[str, object]]:
        return said(by_id[trajectory_id].messages[len(by_id[trajectory_id].prompt) :])

    by_id: dict[str, Trajectory] = {}

    def rank(candidate: _Candidate) -> tuple[Any, ...]:
        by_id[candidate.chosen.id], by_id[candidate.rejected.id] = candidate.chosen, candidate.rejected
        shared, _ = branch_of(continuation(candidate.chosen.id), continuation(candidate.rejected.id))
        return shared, candidate.gap

    return rank


def _pair(candidate: _Candidate, settings: PairSettings, noise: _NoiseOf) -> PreferencePair:
    chosen, rejected = candidate.chosen, candidate.rejected
    reasons = noise.of(rejected)
    pair = make_pair(f"{chosen.id} > {rejected.id}", chosen, rejected, swapped=False, noise=reasons)
    shared, _ = branch_point(pair.chosen, pair.rejected)
    more = {"strategy": settings.strategy, "shared_turns": shared}
    return dataclasses.replace(pair, info={**pair.info, **more})


def _drop(trajectory: Trajectory, reason: str) -> Drop:
    return Drop(trajectory_id=trajectory.id, task_id=trajectory.task_id, reason=reason)
