"""The strategies within tasks: which two become a pair, and what becomes of the rest."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiturn.errors import ConfigError, DataError
from multiturn.pairs.selection import CANDIDATE_REASONS, DROP_REASONS, PairSettings, Selection, Strategy
from multiturn.pairs.strategies import build_pairs
from multiturn.training.rows import read_pair
from multiturn.trajectory import Message, Outcome, Trajectory

WITHIN: tuple[Strategy, ...] = ("best-vs-worst", "all-above-margin", "length-matched", "first-divergence")


def attempt(
    name: str, reward: float | None, *actions: str, task: str = "t", prompt: str = "Find it.", **fields: Any
) -> Trajectory:
    messages = [Message(role="user", content=prompt)]
    for action in actions:
        messages.append(Message(role="assistant", content=action, token_ids=(len(name), 7)))
        messages.append(Message(role="user", content=f"after {action}"))
    return Trajectory(id=name, task_id=task, messages=tuple(messages), reward=reward, **fields)


def paired(strategy: Strategy, *attempts: Trajectory, **options: Any) -> list[tuple[Any, Any]]:
    selection = build_pairs([], attempts, PairSettings(strategy=strategy, **options))
    return [(pair.info["chosen_id"], pair.info["rejected_id"]) for pair in selection.pairs]


BEST = attempt("best", 1.0, "a", "b", "c")
MIDDLE = attempt("middle", 0.5, "a", "b", "d", "e")
LOW = attempt("low", 0.25, "a", "x", "y", "z", "w")
WORST = attempt("worst", 0.0, "q")
FOUR = (MIDDLE, WORST, BEST, LOW)


def test_the_best_and_the_worst() -> None:
    assert paired("best-vs-worst", *FOUR) == [("best", "worst")]


def test_of_equal_rewards_the_shortest_best_and_the_longest_worst() -> None:
    short, long = attempt("short", 1.0, "a"), attempt("long", 0.0, "q", "r")
    assert paired("best-vs-worst", *FOUR, long, short) == [("short", "long")]


def test_all_above_the_margin() -> None:
    """Rewards 1, 0.5, 0.25, 0: six candidates; gaps of 0.5 or more: 1-0.5, 1-0.25, 1-0 and 0.5-0."""
    assert len(paired("all-above-margin", *FOUR)) == 6
    assert set(paired("all-above-margin", *FOUR, min_gap=0.5)) == {
        ("best", "middle"),
        ("best", "low"),
        ("best", "worst"),
        ("middle", "worst"),
    }


def test_the_nearest_in_length() -> None:
    """The best has 3 turns, the others 4, 5 and 1: 4 is nearest. Without it 5 and 1 are equally near, and
    the larger gap decides."""
    assert paired("length-matched", *FOUR) == [("best", "middle")]
    assert paired("length-matched", BEST, LOW, WORST) == [("best", "worst")]


def test_a_margin_comes_before_the_length() -> None:
    """Of gaps 0.5, 0.75 and 1 only the last two are enough; 5 turns and 1 turn are both 2 away from 3."""
    assert paired("length-matched", *FOUR, min_gap=0.75) == [("best", "worst")]


def test_the_two_that_part_last() -> None:
    """Best and middle share two turns, best and low one, the worst none with anybody."""
    assert paired("first-divergence", *FOUR) == [("best", "middle")]
    selection = build_pairs([], FOUR, PairSettings(strategy="first-divergence"))
    (pair,) = selection.pairs
    assert (pair.id, pair.info["shared_turns"], pair.info["strategy"]) == (
        "best > middle",
        2,
        "first-divergence",
    )
    assert pair.prompt == BEST.messages[:1]
    assert (pair.chosen, pair.rejected) == (BEST.messages[1:], MIDDLE.messages[1:])
    assert selection.dropped == {"unpaired": 2}
    assert selection.unpaired == {"not_selected": 5}
    assert selection.counts == {"rollouts": 4, "pairs": 1, "swapped": 0, "noisy_kept": 0, "tasks": 1}


def test_shared_turns_as_context() -> None:
    """Two shared turns, four messages, go into the prompt; there nothing is scored, so T is 1 and 2."""
    options = PairSettings(strategy="first-divergence", shared_turns="context")
    (pair,) = build_pairs([], FOUR, options).pairs
    assert pair.prompt == BEST.messages[:5]
    assert [m.content for m in pair.chosen if m.role == "assistant"] == ["c"]
    assert [m.content for m in pair.rejected if m.role == "assistant"] == ["d", "e"]
    assert [pair.info[key] for key in ("chosen_num_turns", "rejected_num_turns", "context_turns")] == [
        1,
        2,
        2,
    ]
    assert [side.unscored for side in read_pair(pair, 0).conversations] == [2, 2]


def test_every_trajectory_has_its_reason() -> None:
    attempts = [
        attempt("crashed", 0.0, "a", outcome=Outcome.ENVIRONMENT_ERROR),
        attempt("silent", 0.0),
        attempt("unknown", None, "a"),
        BEST,
        attempt("again", 0.5, "A", "b ", "c"),
        attempt("elsewhere", 0.0, "a", prompt="Find that."),
        attempt("lonely", 0.0, "a", task="u"),
        attempt("equal", 1.0, "z"),
    ]
    selection = build_pairs([], attempts, PairSettings(strategy="all-above-margin"))
    assert {drop.trajectory_id: drop.reason for drop in selection.drops} == {
        "crashed": "environment_error",
        "silent": "no_turns",
        "unknown": "no_reward",
        "again": "duplicate",
        "elsewhere": "prompt_mismatch",
        "lonely": "alone",
        "best": "unpaired",
        "equal": "unpaired",
    }
    assert selection.unpaired == {"tie": 1}
    assert set(selection.dropped) <= set(DROP_REASONS)


def test_noisy_losers_can_be_left_out() -> None:
    noisy = attempt("noisy", 0.0, "...")
    assert paired("best-vs-worst", BEST, MIDDLE, noisy) == [("best", "noisy")]
    assert paired("best-vs-worst", BEST, MIDDLE, noisy, noise="drop") == [("best", "middle")]
    selection = build_pairs([], (BEST, MIDDLE, noisy), PairSettings(strategy="best-vs-worst", noise="drop"))
    assert selection.unpaired == {"noisy": 2}


def test_too_many_pairs_of_a_task() -> None:
    chosen = {seed: paired("all-above-margin", *FOUR, max_pairs_per_task=2, seed=seed) for seed in range(4)}
    assert all(len(pairs) == 2 for pairs in chosen.values())
    assert len({tuple(pairs) for pairs in chosen.values()}) > 1
    selection = build_pairs([], FOUR, PairSettings(strategy="all-above-margin", max_pairs_per_task=2))
    assert selection.unpaired == {"over_max": 4}


def test_experts_are_trajectories_like_others_here() -> None:
    expert = attempt("low", 1.0, "e")
    selection = build_pairs([expert], [LOW, WORST], PairSettings(strategy="best-vs-worst"))
    assert selection.pairs[0].id == "expert:low > worst"
    beside = build_pairs([expert], [LOW, WORST], PairSettings())
    assert [pair.info["rejected_id"] for pair in beside.pairs] == ["low", "worst"]


def test_context_for_pairs_with_an_expert() -> None:
    (pair,) = build_pairs([BEST], [MIDDLE], PairSettings(shared_turns="context")).pairs
    assert (len(pair.prompt), pair.info["context_turns"]) == (5, 2)


@pytest.mark.parametrize("broken", [{"strategy": "random"}, {"shared_turns": "hide"}])
def test_unknown_words_are_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(broken.values()))):
        PairSettings(**broken)


def test_ids_and_environments_are_never_mixed() -> None:
    with pytest.raises(DataError, match="share the id 'best'"):
        paired("best-vs-worst", BEST, BEST)
    with pytest.raises(DataError, match="e/2"):
        paired(
            "best-vs-worst",
            attempt("a", 1.0, "x", environment="e/1"),
            attempt("b", 0.0, "y", environment="e/2"),
        )


ATTEMPTS = st.lists(
    st.tuples(
        st.sampled_from(["t", "u"]),
        st.sampled_from([None, 0.0, 0.3, 0.6, 1.0]),
        st.lists(st.sampled_from(["a", "b", "..."]), max_size=4),
        st.sampled_from(["Find it.", "Find that."]),
    ),
    max_size=9,
)


@settings(deadline=None, max_examples=80)
@given(
    ATTEMPTS,
    st.sampled_from(WITHIN),
    st.sampled_from(["keep", "drop"]),
    st.sampled_from([0.0, 0.5]),
    st.sampled_from([None, 1]),
    st.sampled_from(["score", "context"]),
)
def test_nothing_is_lost(
    drawn: list[Any], strategy: Strategy, noise: Any, gap: float, most: int | None, shared: Any
) -> None:
    """Each trajectory is in a pair or dropped once; each candidate is a pair or counted once."""
    attempts = [
        attempt(f"{i}", reward, *actions, task=task, prompt=prompt)
        for i, (task, reward, actions, prompt) in enumerate(drawn)
    ]
    options = PairSettings(
        strategy=strategy, noise=noise, min_gap=gap, max_pairs_per_task=most, shared_turns=shared
    )
    selection = build_pairs([], attempts, options)
    in_pairs = {pair.info[key] for pair in selection.pairs for key in ("chosen_id", "rejected_id")}
    dropped = [drop.trajectory_id for drop in selection.drops]
    assert sorted([*in_pairs, *dropped]) == sorted(t.id for t in attempts)  # type: ignore[type-var]
    assert len(selection.pairs) + sum(selection.unpaired.values()) == candidates(selection, attempts)
    assert list(selection.unpaired) == [r for r in CANDIDATE_REASONS if selection.unpaired.get(r)]
    for pair in selection.pairs:
        better, worse = pair.info["chosen_reward"], pair.info["rejected_reward"]
        assert isinstance(better, float)
        assert isinstance(worse, float)
        assert better - worse >= max(gap, 0.3) - 1e-9
        whole = {t.id: t for t in attempts}
        for side, key in ((pair.chosen, "chosen_id"), (pair.rejected, "rejected_id")):
            said = [m.content for m in pair.prompt + side]
            assert said == [m.content for m in whole[str(pair.info[key])].messages]


def candidates(selection: Selection, attempts: list[Trajectory]) -> int:
    """n over 2 of every task and prompt, of the trajectories that are usable."""
    unusable = {d.trajectory_id for d in selection.drops if d.reason != "unpaired"}
    groups: dict[tuple[str, str], int] = {}
    for one in attempts:
        key = (one.task_id, one.messages[0].content)
        groups[key] = groups.get(key, 0) + (one.id not in unusable)
    return sum(math.comb(n, 2) for n in groups.values())
