"""What a turn is worth, worked by hand."""

from __future__ import annotations

from typing import Any

import pytest

from multiturn.reports.turns import PairTurns, TurnValue, mean_values, pair_turns, weights_of

SCORES: dict[str, Any] = {
    "chosen": {
        "reference": [-2.0, -1.0],
        "policy": [-1.0, -3.0],
        "weights": [1.0, 0.5],
        "rewards": [0.1, -0.1],
    },
    "rejected": {"reference": [-4.0], "policy": [-4.5], "weights": [1.0], "rewards": [-0.05]},
}


def test_rewards_and_their_margin() -> None:
    """0.1 - 0.1 + 0.05."""
    turns = pair_turns(SCORES)
    assert turns is not None
    assert [turn.value for turn in turns.chosen] == [0.1, -0.1]
    assert [turn.weight for turn in turns.chosen] == [1.0, 0.5]
    assert turns.margin == pytest.approx(0.05)
    assert (turns.chosen[0].reference, turns.chosen[0].policy) == (-2.0, -1.0)


def test_a_method_without_pairs_has_log_ratios() -> None:
    """-1 + 2 and -3 + 1; -4.5 + 4: the margin is 1 - 2 + 0.5."""
    plain = {side: found | {"weights": None, "rewards": None} for side, found in SCORES.items()}
    turns = pair_turns(plain)
    assert turns is not None
    assert [(turn.weight, turn.value) for turn in turns.chosen] == [(None, 1.0), (None, -2.0)]
    assert turns.margin == -0.5


@pytest.mark.parametrize("key", ["reference", "policy", "rewards"])
def test_what_is_not_known_has_no_values(key: str) -> None:
    assert pair_turns(SCORES | {"rejected": SCORES["rejected"] | {key: [None]}}) is None


def test_weights() -> None:
    assert weights_of("dmpo", 0.5, 2) == pytest.approx([1.0, 1 / 3])
    assert weights_of("dpo", 0.5, 3) == [1.0, 1.0, 1.0]
    assert weights_of("dpo", 0.5, 3, weighting="exponential") == [1.0, 0.5, 0.25]
    assert weights_of("dpo", None, 2, weighting="somebodys:own") is None
    assert weights_of("somebodys:own", None, 2) is None
    assert weights_of("sft", None, 3) is None
    assert weights_of(None, None, 3) is None
    assert weights_of("dmpo", 0.5, 0) is None


def test_means_stop_where_pairs_become_few() -> None:
    def side(*values: float) -> tuple[TurnValue, ...]:
        return tuple(TurnValue(reference=0.0, policy=0.0, weight=1.0, value=value) for value in values)

    pairs = [PairTurns(chosen=side(*v), rejected=side(1.0)) for v in ((1.0, 5.0), (2.0, 6.0), (6.0,))]
    assert mean_values(pairs) == {"chosen": [3.0], "rejected": [1.0]}
    assert mean_values([]) == {"chosen": [], "rejected": []}
