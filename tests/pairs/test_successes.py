"""Which rollouts become demonstrations, and why the others do not."""

from __future__ import annotations

import pytest

from multiturn.errors import DataError
from multiturn.pairs.successes import select_successes
from multiturn.trajectory import Message, Outcome, Trajectory


def rollout(
    name: str, reward: float | None, *actions: str, outcome: Outcome = Outcome.COMPLETED, where: str = ""
) -> Trajectory:
    messages = [Message(role="user", content="Find the cup.")]
    for action in actions:
        messages.append(Message(role="assistant", content=action))
        messages.append(Message(role="user", content=f"you did {action}"))
    return Trajectory(
        id=name,
        task_id=name.partition("#")[0],
        messages=tuple(messages),
        reward=reward,
        outcome=outcome,
        environment=where,
    )


def test_each_rollout_is_kept_or_dropped_for_one_reason() -> None:
    """Of nine: a#1, a#3 and b#0 are kept. b's demonstration is another one than b#0."""
    demonstrations = [rollout("a#0", 1.0, "go", "take"), rollout("b#0", 1.0, "look", "take")]
    rollouts = [
        rollout("a#0", 1.0, "go", "take"),
        rollout("a#1", 1.0, "walk", "take"),
        rollout("a#2", 1.0, "walk", "take"),
        rollout("a#3", 0.8, "run", "take"),
        rollout("a#4", 0.7, "sleep"),
        rollout("a#5", None, "sleep"),
        rollout("b#0", 1.0, "go", "take"),
        rollout("b#1", 1.0, "go", outcome=Outcome.ENVIRONMENT_ERROR),
        rollout("b#2", 1.0),
    ]
    found = select_successes(rollouts, demonstrations, min_reward=0.8)
    assert [t.id for t in found.trajectories] == ["a#1", "a#3", "b#0"]
    assert found.dropped == {
        "duplicate": 2,
        "below_min_reward": 1,
        "no_reward": 1,
        "environment_error": 1,
        "no_turns": 1,
    }


def test_of_too_many_the_first_ones_stay() -> None:
    """A duplicate is no further success: it is dropped as one, also where there are enough."""
    rollouts = [rollout(f"a#{n}", 1.0, action) for n, action in enumerate(["x", "x", "y", "z", "y"])]
    found = select_successes([*rollouts, rollout("b#0", 1.0, "x")], [], min_reward=1.0, max_per_task=2)
    assert [t.id for t in found.trajectories] == ["a#0", "a#2", "b#0"]
    assert found.dropped == {"duplicate": 2, "over_max": 1}


def test_demonstrations_of_another_environment_are_refused() -> None:
    with pytest.raises(DataError, match="make both anew with the same environment"):
        select_successes(
            [rollout("a#0", 1.0, "x", where="house/1")],
            [rollout("a#0", 1.0, "y", where="house/2")],
            min_reward=1,
        )
