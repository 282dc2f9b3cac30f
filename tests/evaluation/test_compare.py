"""Two policies on the same tasks."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiturn.errors import DataError
from multiturn.evaluation.compare import compare, sign_test
from multiturn.trajectory import Message, Outcome, Trajectory


def play(
    rewards: dict[str, float], *, crashed: tuple[str, ...] = (), environment: str = "e"
) -> list[Trajectory]:
    return [
        Trajectory(
            id=f"{task}#0",
            task_id=task,
            messages=(Message(role="user", content="Go."), Message(role="assistant", content="Gone.")),
            reward=reward,
            success=reward == 1.0,
            task_type=task[0],
            environment=environment,
            outcome=Outcome.ENVIRONMENT_ERROR if task in crashed else Outcome.COMPLETED,
        )
        for task, reward in rewards.items()
    ]


def test_a_comparison_by_hand() -> None:
    """Differences 1, 0, 0.5, -0.5: mean 0.25; two better, one equal, one worse."""
    comparison = compare(
        play({"a1": 1.0, "a2": 0.0, "b1": 0.5, "b2": 0.0}),
        play({"b2": 0.5, "b1": 0.0, "a2": 0.0, "a1": 0.0}),
        names=("dmpo", "sft"),
    )
    assert (comparison.method, comparison.baseline, comparison.tasks) == ("dmpo", "sft", 4)
    assert comparison.reward.mean == 0.25
    assert (comparison.better, comparison.equal, comparison.worse) == (2, 1, 1)
    assert comparison.sign_test == 1.0
    assert comparison.differences == {"a1": 1.0, "a2": 0.0, "b1": 0.5, "b2": -0.5}
    assert {kind: interval.mean for kind, interval in comparison.by_type.items()} == {"a": 0.5, "b": 0.0}
    assert comparison.success is not None
    assert comparison.success.mean == 0.25
    assert comparison.verdict == "undecided"


def test_pairing_sees_what_two_separate_intervals_do_not() -> None:
    """Half of the tasks are hopeless; of the others one in five is newly won: 0.1 [0.04, 0.16] on 100 tasks.

    The two rates, 0.4 and 0.5, each -+ 0.1, overlap widely.
    """
    baseline = play({f"a{i}": float(i < 40) for i in range(100)})
    method = play({f"a{i}": float(i < 50) for i in range(100)})
    comparison = compare(method, baseline)
    assert comparison.reward.mean == pytest.approx(0.1)
    assert comparison.reward.low == pytest.approx(0.04, abs=0.02)
    assert comparison.reward.high == pytest.approx(0.16, abs=0.02)
    assert comparison.verdict == "better"
    assert compare(baseline, method).verdict == "worse"
    assert comparison.sign_test == pytest.approx(2 / 2**10)


def test_an_end_that_is_zero_but_for_rounding_is_zero() -> None:
    found = compare(play({f"a{i}": 0.0 for i in range(9)}), play({f"a{i}": 1.0 for i in range(9)}))
    assert found.verdict == "worse"
    touching = dataclasses.replace(found.reward, low=-0.13, high=-1.1e-18)
    assert dataclasses.replace(found, reward=touching).verdict == "undecided"


def test_equal_policies_are_undecided_not_certain() -> None:
    rewards = {f"a{i}": float(i % 2) for i in range(30)}
    comparison = compare(play(rewards), play(rewards))
    assert (comparison.reward.mean, comparison.equal, comparison.verdict) == (0.0, 30, "undecided")
    assert comparison.reward.low < 0.0 < comparison.reward.high


def test_the_last_bits_of_a_reward_are_no_difference() -> None:
    """0.1 + 0.2 is 0.30000000000000004 in floats: as good as 0.3, in the list of differences too."""
    comparison = compare(play({"a1": 0.1 + 0.2, "a2": 0.5}), play({"a1": 0.3, "a2": 0.5}))
    assert (comparison.better, comparison.equal) == (0, 2)
    assert comparison.differences == {"a1": 0.0, "a2": 0.0}


def test_other_tasks_are_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"only dmpo has 'a3'; only sft has 'a1', 'a2', 'a4' and 2 more"):
        compare(
            play({"a3": 1.0, "b": 0.0}),
            play({"b": 1.0, "a1": 0.0, "a2": 0.0, "a4": 0.0, "a5": 0.0, "a6": 0.0}),
            names=("dmpo", "sft"),
        )


def test_environments_are_never_mixed() -> None:
    with pytest.raises(DataError, match="same environment"):
        compare(play({"a": 1.0}), play({"a": 1.0}, environment="other"))


def test_tasks_lost_to_the_environment_are_left_out_on_both_sides() -> None:
    rewards = {"a1": 1.0, "a2": 1.0, "a3": 0.0, "a4": 1.0}
    comparison = compare(play(rewards, crashed=("a1",)), play(rewards, crashed=("a3",)))
    assert (comparison.tasks, comparison.excluded) == (2, ("a1", "a3"))


def test_nothing_left_to_compare_is_an_error() -> None:
    rewards = {"a1": 1.0, "a2": 1.0}
    with pytest.raises(DataError, match="no task left"):
        compare(play(rewards, crashed=("a1",)), play(rewards, crashed=("a2",)))


def test_the_sign_test_by_hand() -> None:
    """8 to 2: 2 * (1 + 10 + 45) / 1024 = 0.109."""
    assert sign_test(8, 2) == sign_test(2, 8) == 112 / 1024
    assert sign_test(0, 0) == sign_test(5, 5) == 1.0
    assert sign_test(2000, 0) == 0.0 or sign_test(2000, 0) < 1e-300


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=25
    )
)
def test_swapping_the_two_mirrors_the_comparison(rewards: list[tuple[float, float]]) -> None:
    ours = play({f"a{i}": reward for i, (reward, _) in enumerate(rewards)})
    theirs = play({f"a{i}": reward for i, (_, reward) in enumerate(rewards)})
    one, other = (compare(a, b, resamples=200) for a, b in ((ours, theirs), (theirs, ours)))
    assert one.reward.mean == pytest.approx(-other.reward.mean)
    assert (one.better, one.equal, one.worse) == (other.worse, other.equal, other.better)
    assert one.better + one.equal + one.worse == one.tasks == len(rewards)
    assert one.sign_test == other.sign_test
    assert -1.0 <= one.reward.low <= one.reward.mean <= one.reward.high <= 1.0
