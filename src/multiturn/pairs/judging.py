"""What every strategy asks of trajectories, and the pair it makes of two."""

from __future__ import annotations

import collections
import hashlib
from typing import TYPE_CHECKING

from multiturn.errors import DataError
from multiturn.pairs.noise import action_text
from multiturn.pairs.selection import TIE_TOLERANCE
from multiturn.trajectory import Message, Outcome, PreferencePair, Trajectory

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "actions_of",
    "beyond_max",
    "defect_of",
    "make_pair",
    "require_same_environment",
    "require_unique_ids",
    "reward_of",
    "said",
    "same_prompt",
    "unwanted_gap",
]


def defect_of(trajectory: Trajectory) -> str | None:
    """What makes a trajectory unfit for any pair: a reason, or None."""
    if trajectory.outcome is Outcome.ENVIRONMENT_ERROR:
        return "environment_error"
    if trajectory.num_turns == 0:
        return "no_turns"
    if trajectory.reward is None:
        return "no_reward"
    return None


def reward_of(trajectory: Trajectory) -> float:
    """The reward of a trajectory that has one."""
    if trajectory.reward is None:
        raise ValueError(f"trajectory {trajectory.id!r} has no reward; such ones are dropped first")
    return trajectory.reward


def unwanted_gap(gap: float, min_gap: float) -> str | None:
    """Why a difference of two rewards makes no pair: a reason, or None."""
    if abs(gap) <= TIE_TOLERANCE:
        return "tie"
    return "below_min_gap" if abs(gap) < min_gap - TIE_TOLERANCE else None


def same_prompt(a: Trajectory, b: Trajectory) -> bool:
    """Whether two trajectories start from the same messages and tools."""
    return a.tools == b.tools and said(a.prompt) == said(b.prompt)


def said(messages: Sequence[Message]) -> list[dict[str, object]]:
    """Messages as chat templates take them, which is what two must agree in to be the same."""
    return [message.to_chat() for message in messages]


def actions_of(trajectory: Trajectory) -> tuple[str, ...]:
    """What a trajectory did; two with the same actions are duplicates."""
    return tuple(action_text(turn.message) for turn in trajectory.turns)


def make_pair(
    pair_id: str, chosen: Trajectory, rejected: Trajectory, *, swapped: bool, noise: tuple[str, ...]
) -> PreferencePair:
    """The pair of two trajectories from the same prompt.

    Args:
        pair_id: Its id.
        chosen: The preferred one.
        rejected: The other.
        swapped: Whether a rollout is preferred over an expert.
        noise: Why the dispreferred one is noisy; empty where it is clean.
    """
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


def beyond_max(pairs: Iterable[PreferencePair], most: int | None, seed: int) -> list[str]:
    """The ids of the pairs that are too many for their task; which stay is drawn by seed and id alone."""
    if most is None:
        return []
    by_task: dict[str, list[str]] = collections.defaultdict(list)
    for pair in pairs:
        by_task[pair.task_id].append(pair.id)

    def draw(pair_id: str) -> bytes:
        return hashlib.sha256(f"{seed}\0{pair_id}".encode("utf-8", "surrogatepass")).digest()

    return [pair_id for ids in by_task.values() for pair_id in sorted(ids, key=draw)[most:]]


def require_same_environment(rollout: Trajectory, expert: Trajectory) -> None:
    """Refuse two trajectories whose rewards cannot be compared.

    Raises:
        DataError: Their environments' fingerprints differ.
    """
    if rollout.environment and expert.environment and rollout.environment != expert.environment:
        raise DataError(
            f"rollout {rollout.id!r} was made in environment {rollout.environment!r} and expert trajectory "
            f"{expert.id!r} in {expert.environment!r}; make both anew with the same environment"
        )


def require_unique_ids(rollouts: Sequence[Trajectory]) -> None:
    """Refuse trajectories that cannot be told apart.

    Raises:
        DataError: Two have the same id.
    """
    counts = collections.Counter(rollout.id for rollout in rollouts)
    twice = [rollout_id for rollout_id, count in counts.items() if count > 1]
    if twice:
        shown = ", ".join(repr(rollout_id) for rollout_id in twice[:3])
        more = f" and {len(twice) - 3} more" if len(twice) > 3 else ""
        raise DataError(f"several rollouts share the id {shown}{more}; give every rollout its own")
