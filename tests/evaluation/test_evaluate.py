"""What a policy's episodes amount to."""

from __future__ import annotations

from typing import Any

import pytest

from multiturn.errors import DataError
from multiturn.evaluation.evaluate import score_tasks, summarize
from multiturn.trajectory import Message, Outcome, Trajectory


def episode(task: str, reward: float | None, *, turns: int = 2, sample: int = 0, **fields: Any) -> Trajectory:
    messages = [Message(role="user", content="Go.")]
    for turn in range(turns):
        messages += [Message(role="assistant", content=f"step {turn}"), Message(role="user", content="done")]
    fields = {"success": reward == 1.0, "info": {"invalid_actions": 1}, **fields}
    return Trajectory(id=f"{task}#{sample}", task_id=task, messages=tuple(messages), reward=reward, **fields)


def test_a_small_evaluation_by_hand() -> None:
    """Rewards 1, 0, 0.5, 1 over four tasks: 0.625. Successes 2 of 4. Turns 2, 4, 6, 2: 3.5.

    Every episode has one invalid action: 4 of 14.
    """
    summary = summarize(
        [
            episode("a", 1.0, turns=2),
            episode("b", 0.0, turns=4, outcome=Outcome.TRUNCATED),
            episode("c", 0.5, turns=6, outcome=Outcome.INVALID),
            episode("d", 1.0, turns=2),
        ]
    )
    assert (summary.tasks, summary.episodes) == (4, 4)
    assert summary.reward.mean == 0.625
    assert summary.success is not None
    assert summary.success.mean == 0.5
    assert summary.turns.mean == 3.5
    assert summary.invalid_actions == pytest.approx(4 / 14)
    assert summary.outcomes == {
        "completed": 2,
        "truncated": 1,
        "context_overflow": 0,
        "invalid": 1,
        "environment_error": 0,
    }
    assert summary.reward_alternative is None


def test_replies_without_an_action_are_invalid_too() -> None:
    """Two turns, of which one was not understood and one held no action: 2 of 2."""
    summary = summarize([episode("a", 0.0, turns=2, info={"invalid_actions": 1, "unusable_replies": 1})])
    assert summary.invalid_actions == 1.0


def test_environment_errors_are_left_out_and_counted() -> None:
    summary = summarize(
        [
            episode("a", 1.0),
            episode("b", 0.0, outcome=Outcome.ENVIRONMENT_ERROR, turns=9),
            episode("c", 0.0),
            episode("c", None, sample=1, outcome=Outcome.ENVIRONMENT_ERROR),
        ]
    )
    assert (summary.tasks, summary.episodes, summary.lost_tasks) == (2, 4, ("b",))
    assert summary.outcomes["environment_error"] == 2
    assert summary.reward.mean == 0.5
    assert summary.turns.mean == 2.0


def test_other_bad_endings_count_with_what_they_got() -> None:
    bad = (Outcome.TRUNCATED, Outcome.CONTEXT_OVERFLOW, Outcome.INVALID)
    summary = summarize([episode(str(i), 0.25, outcome=outcome) for i, outcome in enumerate(bad)])
    assert summary.reward.mean == 0.25


def test_the_episodes_of_a_task_are_averaged_first() -> None:
    """Task a: 1, 1, 1, 0 gives 0.75; task b: 0. Over tasks 0.375, over episodes it would be 0.6."""
    episodes = [episode("a", float(i < 3), sample=i) for i in range(4)] + [episode("b", 0.0)]
    summary = summarize(episodes)
    assert summary.reward.mean == 0.375
    assert summary.success is not None
    assert summary.success.mean == 0.375
    score = score_tasks(episodes)["a"]
    assert (score.reward, score.success, score.turns, score.episodes) == (0.75, 0.75, 2.0, 4)


def test_types_are_told_apart_and_decide_the_resampling() -> None:
    episodes = [
        episode(f"{kind}{i}", float(i % 3 == 0), task_type=kind)
        for kind in ("cool", "heat", "clean")
        for i in range(9)
    ]
    summary = summarize(episodes, resamples=500)
    assert list(summary.by_type) == ["clean", "cool", "heat"]
    assert summary.by_type["heat"].tasks == 9
    assert summary.by_type["heat"].reward.mean == pytest.approx(1 / 3)
    assert summary.by_type["heat"].success is not None
    assert summary.by_type["heat"].success.method == "wilson"
    assert summary.reward.method == "stratified"
    assert summary.reward_alternative is not None
    assert summary.reward_alternative.method == "cluster"


def test_unknown_success_and_uncounted_actions_are_not_made_up() -> None:
    summary = summarize([episode("a", 1.0), episode("b", 0.0, success=None, info={})])
    assert summary.success is None
    assert summary.invalid_actions is None


def test_rewards_beyond_zero_to_one_have_no_bounds() -> None:
    summary = summarize([episode("a", -5.0), episode("b", 7.0)])
    assert (summary.reward.low, summary.reward.high) == (-5.0, 7.0)


@pytest.mark.parametrize(
    ("episodes", "complaint"),
    [
        ([], "no evaluation episodes"),
        ([episode("a", None, outcome=Outcome.ENVIRONMENT_ERROR)], "all 1 evaluation episodes"),
        ([episode("a", None)], "'a#0' has no reward"),
        ([episode("a", 0.0, environment="x"), episode("b", 0.0, environment="y")], "x, y"),
        ([episode("a", 0.0, task_type="x"), episode("a", 0.0, task_type="y")], "several types"),
    ],
)
def test_what_cannot_be_averaged_is_refused(episodes: list[Trajectory], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        summarize(episodes)


def test_an_episode_that_was_cut_off_did_not_solve_its_task() -> None:
    """Where the environment says so at the end; a shop for example does not say before anything is bought."""
    cut_off = episode("b", 0.0, success=None, outcome=Outcome.TRUNCATED)
    summary = summarize([episode("a", 1.0), cut_off])
    assert summary.success is not None
    assert summary.success.mean == 0.5
    assert summarize([cut_off]).success is None
