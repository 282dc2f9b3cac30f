"""Which rollouts become pairs, which are dropped, and why."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiturn.errors import ConfigError, DataError
from multiturn.pairs.select import DROP_REASONS, PairSettings, select_pairs
from multiturn.trajectory import Message, Outcome, PreferencePair, Trajectory


def trajectory(
    task: str = "t1",
    reward: float | None = 1.0,
    *actions: str,
    name: str = "",
    prompt: str = "Find the cup.",
    **fields: Any,
) -> Trajectory:
    messages = [Message(role="system", content="You act."), Message(role="user", content=prompt)]
    for action in actions or ("look", "take cup"):
        messages.append(Message(role="assistant", content=action, token_ids=(7, len(action))))
        messages.append(Message(role="user", content=f"you did {action}"))
    return Trajectory(id=name or f"{task}#0", task_id=task, messages=tuple(messages), reward=reward, **fields)


EXPERT = trajectory("t1", 1.0, "go", "take", name="expert")


def test_the_expert_is_preferred_over_a_worse_rollout() -> None:
    """Rewards 1.0 and 0.4: the expert is chosen. Both sides go on from the same two prompt messages."""
    rollout = trajectory(
        "t1", 0.4, "look", "look again", "sleep", name="t1#3", task_type="pick", split="train"
    )
    selection = select_pairs([EXPERT], [rollout])
    (pair,) = selection.pairs
    assert pair.id == "t1#3"
    assert pair.prompt == EXPERT.messages[:2]
    assert pair.chosen == EXPERT.messages[2:]
    assert pair.rejected == rollout.messages[2:]
    assert pair.chosen[0].token_ids == (7, 2)
    assert pair.info == {
        "chosen_id": "expert",
        "rejected_id": "t1#3",
        "chosen_reward": 1.0,
        "rejected_reward": 0.4,
        "chosen_num_turns": 2,
        "rejected_num_turns": 3,
        "swapped": False,
        "rejected_noise": [],
        "task_type": "",
        "split": "",
    }
    assert selection.counts == {"rollouts": 1, "pairs": 1, "swapped": 0, "noisy_kept": 0, "tasks": 1}
    assert selection.dropped == {}


def test_the_roles_swap_where_the_rollout_is_better() -> None:
    expert = trajectory("t1", 0.5, "go", name="expert")
    rollout = trajectory("t1", 0.75, "look")
    (pair,) = select_pairs([expert], [rollout]).pairs
    assert (pair.info["chosen_id"], pair.info["rejected_id"], pair.info["swapped"]) == (
        "t1#0",
        "expert",
        True,
    )
    assert pair.chosen == rollout.messages[2:]
    assert select_pairs([expert], [rollout], PairSettings(better_rollout="drop")).dropped == {
        "rollout_better": 1
    }


@pytest.mark.parametrize(
    ("rollout", "reason"),
    [
        (trajectory("t1", 0.0, outcome=Outcome.ENVIRONMENT_ERROR), "environment_error"),
        (trajectory("t1", None), "no_reward"),
        (
            Trajectory(id="r", task_id="t1", messages=(Message(role="user", content="Hi"),), reward=0.0),
            "no_turns",
        ),
        (trajectory("t9", 0.0), "no_expert"),
        (trajectory("t1", 0.0, prompt="Find the mug."), "prompt_mismatch"),
        (trajectory("t1", 0.0, tools=({"name": "look"},)), "prompt_mismatch"),
        (trajectory("t1", 1.0), "tie"),
        (trajectory("t1", 0.1 + 0.2 + 0.7), "tie"),  # 1.0 apart from rounding
        (trajectory("t1", 0.9), "below_min_gap"),
        (trajectory("t1", 0.0, "GO", "take"), "duplicate"),
        (trajectory("t1", 0.0, *["look"] * 1, "..."), "noisy"),
    ],
)
def test_every_drop_has_its_reason(rollout: Trajectory, reason: str) -> None:
    selection = select_pairs([EXPERT], [rollout], PairSettings(min_gap=0.2, noise="drop"))
    assert selection.pairs == []
    assert selection.dropped == {reason: 1}
    assert reason in DROP_REASONS
    assert (selection.drops[0].trajectory_id, selection.drops[0].task_id) == (rollout.id, rollout.task_id)


@pytest.mark.parametrize("outcome", [Outcome.TRUNCATED, Outcome.CONTEXT_OVERFLOW, Outcome.INVALID])
def test_bad_endings_are_data(outcome: Outcome) -> None:
    assert len(select_pairs([EXPERT], [trajectory("t1", 0.0, outcome=outcome)]).pairs) == 1


def test_a_gap_of_exactly_the_minimum_stays() -> None:
    """1.0 - 0.9 is 0.09999999999999998 in floats; it must count as 0.1."""
    assert len(select_pairs([EXPERT], [trajectory("t1", 0.9)], PairSettings(min_gap=0.1)).pairs) == 1


def test_two_rollouts_with_the_same_actions_make_one_pair() -> None:
    rollouts = [trajectory("t1", 0.0, "look", "sit", name=f"t1#{i}") for i in range(3)]
    selection = select_pairs([EXPERT], rollouts)
    assert [pair.id for pair in selection.pairs] == ["t1#0"]
    assert selection.dropped == {"duplicate": 2}


def test_noisy_pairs_stay_by_default_and_are_marked() -> None:
    noisy = trajectory("t1", 0.0, "look", "...")
    selection = select_pairs([EXPERT], [noisy])
    assert selection.pairs[0].info["rejected_noise"] == ["no_words"]
    assert selection.counts["noisy_kept"] == 1


def test_only_the_dispreferred_side_is_judged_for_noise() -> None:
    expert = trajectory("t1", 0.5, "go", name="expert")
    noisy_winner = trajectory("t1", 0.75, "look", "...")
    assert len(select_pairs([expert], [noisy_winner], PairSettings(noise="drop")).pairs) == 1


def test_the_best_expert_counts_then_the_shortest_then_the_first() -> None:
    experts = [
        trajectory("t1", 0.5, "a", name="worse"),
        trajectory("t1", 1.0, "a", "b", "c", name="long"),
        trajectory("t1", 1.0, "a", "c", name="first"),
        trajectory("t1", 1.0, "a", "d", name="second"),
        trajectory("t1", 1.0, "a", name="crashed", outcome=Outcome.ENVIRONMENT_ERROR),
    ]
    (pair,) = select_pairs(experts, [trajectory("t1", 0.0, "x")]).pairs
    assert pair.info["chosen_id"] == "first"


def test_too_many_pairs_of_a_task_are_drawn_by_seed_whatever_the_order() -> None:
    rollouts = [trajectory("t1", 0.0, f"look {i}", name=f"t1#{i}") for i in range(20)]
    shuffled = rollouts[::3] + rollouts[2::3] + rollouts[1::3]
    kept = {
        seed: {p.id for p in select_pairs([EXPERT], r, PairSettings(max_pairs_per_task=4, seed=seed)).pairs}
        for r in (rollouts, shuffled)
        for seed in (0, 1)
    }
    again = select_pairs([EXPERT], rollouts, PairSettings(max_pairs_per_task=4, seed=0))
    assert {p.id for p in again.pairs} == kept[0] != kept[1]
    assert [p.id for p in again.pairs] == [r.id for r in rollouts if r.id in kept[0]]
    assert again.dropped == {"over_max": 16}


def test_environments_are_never_mixed() -> None:
    expert = trajectory("t1", 1.0, name="expert", environment="household/1")
    rollout = trajectory("t1", 0.0, "x", environment="household/2", prompt="Other.")
    with pytest.raises(DataError, match=r"household/2.*household/1"):
        select_pairs([expert], [rollout])


def test_rollouts_with_one_id_are_refused() -> None:
    with pytest.raises(DataError, match="'t1#0'"):
        select_pairs([EXPERT], [trajectory("t1", 0.0, "a"), trajectory("t1", 0.0, "b")])


@pytest.mark.parametrize(
    "broken",
    [
        {"min_gap": -0.1},
        {"min_gap": float("nan")},
        {"max_pairs_per_task": 0},
        {"noise": "some"},
        {"better_rollout": "keep"},
    ],
)
def test_unusable_settings_are_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PairSettings(**broken)


ROLLOUT = st.builds(
    lambda task, reward, actions, outcome: trajectory(task, reward, *actions, outcome=outcome),
    st.sampled_from(["t1", "t2", "t3"]),
    st.sampled_from([None, 0.0, 0.25, 0.5, 1.0]),
    st.lists(st.sampled_from(["go", "look", "..."]), min_size=1, max_size=4),
    st.sampled_from(Outcome),
)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(ROLLOUT, max_size=12),
    st.sampled_from(["keep", "drop"]),
    st.sampled_from([None, 1, 2]),
    st.sampled_from([0.0, 0.3, 0.6]),
)
def test_nothing_is_lost_and_chosen_is_always_better(
    drawn: list[Trajectory], noise: Any, most: int | None, min_gap: float
) -> None:
    """Each rollout is in a pair or dropped, once; within a pair the chosen reward is higher by the gap."""
    experts = [trajectory("t1", 0.5, "go", name="e1"), trajectory("t2", 1.0, "go", "take", name="e2")]
    rollouts = [Trajectory.from_json({**r.to_json(), "id": f"{r.task_id}#{i}"}) for i, r in enumerate(drawn)]
    selection = select_pairs(
        experts, rollouts, PairSettings(noise=noise, max_pairs_per_task=most, min_gap=min_gap)
    )
    placed = [pair.id for pair in selection.pairs] + [drop.trajectory_id for drop in selection.drops]
    assert sorted(placed) == sorted(rollout.id for rollout in rollouts)
    assert sum(selection.dropped.values()) == len(selection.drops)
    for pair in selection.pairs:
        chosen, rejected = pair.info["chosen_reward"], pair.info["rejected_reward"]
        assert isinstance(chosen, float)
        assert isinstance(rejected, float)
        assert chosen - rejected >= max(min_gap, 0.25) - 1e-9
        assert PreferencePair.from_json(pair.to_json()) == pair
    for task in ("t1", "t2", "t3"):
        assert most is None or sum(pair.task_id == task for pair in selection.pairs) <= most
