"""The best of several samples of a task, worked by hand, and what must hold of any."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiturn.errors import DataError
from multiturn.evaluation.best_of import best_episodes, summarize_best
from multiturn.evaluation.compare import compare
from multiturn.evaluation.evaluate import summarize
from multiturn.trajectory import Message, Outcome, Trajectory

BROKEN: dict[str, Any] = {"outcome": Outcome.ENVIRONMENT_ERROR, "success": None}


def sample(task: str, number: int, reward: float | None, *, turns: int = 1, **fields: Any) -> Trajectory:
    messages = (Message(role="user", content="Go."), *(Message(role="assistant", content="go"),) * turns)
    fields = {"success": reward == 1.0, **fields}
    return Trajectory(id=f"{task}#{number}", task_id=task, messages=messages, reward=reward, **fields)


def test_a_best_of_three_by_hand() -> None:
    """Task a: 0.25, 1, 0.25; task b: 0.5, 0, 0. Best: 1 and 0.5, mean 0.75. All: 0.5 and 1/6, mean 1/3.

    One best episode of two succeeds; of the samples 1/3 of a's and none of b's, mean 1/6. The best took 4 and
    2 turns.
    """
    rewards = {"a": (0.25, 1.0, 0.25), "b": (0.5, 0.0, 0.0)}
    samples = [
        sample(task, number, reward, turns=number * 2 + 2)
        for number in range(3)
        for task, reward in ((task, rewards[task][number]) for task in rewards)
    ]
    assert [t.id for t in best_episodes(samples)] == ["a#1", "b#0"]
    found = summarize_best(samples)
    assert found.reward.mean == 0.75
    assert found.success is not None
    assert found.success.mean == 0.5
    assert found.turns.mean == 3.0
    assert (found.tasks, found.episodes) == (2, 2)
    assert found.samples is not None
    assert found.samples.reward.mean == pytest.approx(1 / 3)
    assert found.samples.success is not None
    assert found.samples.success.mean == pytest.approx(1 / 6)
    assert (found.samples.per_task, found.samples.episodes, found.samples.lost) == (3, 6, 0)


def test_of_equals_the_one_that_solved_the_task_counts_and_then_the_first() -> None:
    samples = [
        sample("a", 0, 0.5, success=False),
        sample("a", 1, 0.5, success=True),
        sample("a", 2, 0.5, success=True),
    ]
    assert [t.id for t in best_episodes(samples)] == ["a#1"]


def test_a_best_that_was_cut_off_did_not_solve_its_task() -> None:
    """Of the best nobody says whether tasks were solved; the samples show that the environment does say."""
    samples = [
        each
        for task in "ab"
        for each in (
            sample(task, 0, 0.0, success=None, outcome=Outcome.TRUNCATED),
            sample(task, 1, 0.0, success=False),
        )
    ]
    assert [(t.id, t.success) for t in best_episodes(samples)] == [("a#0", False), ("b#0", False)]
    found = summarize_best(samples)
    assert found.success is not None
    assert found.success.mean == 0.0
    silent = [sample("a", n, 0.0, success=None, outcome=Outcome.TRUNCATED) for n in range(2)]
    assert best_episodes(silent)[0].success is None


def test_samples_that_the_environment_broke_are_never_the_best() -> None:
    """Task a has one left, task b none: that one is lost, and compared with nothing."""
    samples = [
        sample("a", 0, 1.0, **BROKEN),
        sample("a", 1, 0.0),
        sample("b", 0, None, **BROKEN),
        sample("b", 1, None, **BROKEN),
    ]
    best = best_episodes(samples)
    assert [t.id for t in best] == ["a#1", "b#0"]
    found = summarize_best(samples)
    assert (found.reward.mean, found.tasks, found.lost_tasks) == (0.0, 1, ("b",))
    assert found.samples is not None
    assert (found.samples.episodes, found.samples.lost) == (4, 3)
    greedy = [sample("a", 0, 1.0), sample("b", 0, 1.0)]
    assert compare(best, greedy).excluded == ("b",)


def test_a_sample_without_a_reward_is_refused() -> None:
    with pytest.raises(DataError, match="'a#1' has no reward"):
        best_episodes([sample("a", 0, 1.0), sample("a", 1, None)])


REWARDS = st.sampled_from([0.0, 0.25, 1.0])


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(REWARDS, min_size=n, max_size=n), min_size=1)))
def test_the_best_is_never_below_a_sample(by_task: list[list[float]]) -> None:
    """More samples never make it worse, and with one sample it is that one: the mean."""
    samples = [
        sample(str(task), number, reward)
        for task, rewards in enumerate(by_task)
        for number, reward in enumerate(rewards)
    ]
    best = best_episodes(samples)
    assert [t.reward for t in best] == [max(rewards) for rewards in by_task]
    fewer = [t for t in samples if not t.id.endswith(f"#{len(by_task[0]) - 1}")]
    for less, more in zip(best_episodes(fewer), best, strict=False):
        assert (less.reward or 0.0) <= (more.reward or 0.0)
    one = [t for t in samples if t.id.endswith("#0")]
    assert best_episodes(one) == one
    if len(by_task) < 4:
        found = summarize_best(one)
        assert found.samples is not None
        assert found.reward == found.samples.reward == summarize(one).reward
        assert found.reward.mean == pytest.approx(statistics.fmean(rewards[0] for rewards in by_task))
