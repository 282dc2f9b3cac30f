"""Charts: reproducible, harmless inside a page, and whole when the data are not."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from made_up import one_split

from multiturn.reports import charts
from multiturn.reports.charts import learning_charts
from multiturn.reports.pair_charts import lengths_chart, rewards_chart, weights_chart
from multiturn.reports.strips import Scale, dots_plot, interval_plot
from multiturn.reports.turns import PairTurns, TurnValue

SERIES = {"sft": 0, "dmpo": 1, "dpo": 2}


def training(**curves: list[float | None]) -> dict[str, Any]:
    return {
        "curves": {
            name.replace("__", "/"): {"step": list(range(1, len(values) + 1)), "value": values}
            for name, values in curves.items()
        },
        "weights": None,
    }


def turn(value: float) -> TurnValue:
    return TurnValue(reference=-1.0, policy=-1.0, weight=1.0, value=value)


def test_every_curve_has_its_chart() -> None:
    found = learning_charts(one_split().summary["trainings"], SERIES)
    assert [chart.title for chart in found] == [
        "Loss on demonstrations",
        "Loss on pairs",
        "Reward margin",
        "Accuracy",
        "Log-ratio to the reference",
        "Log-probability",
    ]
    assert found[0].methods == ("sft",)
    assert found[1].methods == ("dpo", "dmpo")
    assert found[4].dashed == "rejected"
    assert "DPO chosen from" in found[4].svg
    assert "DPO rejected from" in found[5].svg
    assert found[5].dashed == "rejected"


def test_the_same_numbers_give_the_same_bytes_and_nothing_of_the_outside_is_in_them() -> None:
    trainings = one_split().summary["trainings"]
    first, second = (learning_charts(trainings, SERIES) for _ in range(2))
    assert [chart.svg for chart in first] == [chart.svg for chart in second]
    ids: list[str] = []
    turns = {"dmpo": [PairTurns(chosen=(turn(0.5),), rejected=(turn(-0.5),))] * 3}
    pair_charts = [
        weights_chart(trainings, SERIES),
        rewards_chart(turns, trainings, SERIES),
        lengths_chart(one_split().summary["pairs"]),
    ]
    for chart in [*first, *pair_charts]:
        assert chart is not None
        for foreign in ("http", "<style", "<metadata", "<?xml", "#0304", "#0101", "#0506", "DejaVu"):
            assert foreign not in chart.svg
        assert "var(--series-" in chart.svg or "var(--good)" in chart.svg
        ids += re.findall(r'\bid="([^"]+)"', chart.svg)
        targets = re.findall(r'(?:url\(|href=")#([^")]+)', chart.svg)
        assert set(targets) <= set(ids)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    "values", [[], [None], [0.5], [0.5, None, 0.4], [None] * 30, [float(i) for i in range(3000)]]
)
def test_odd_curves_are_drawn_as_far_as_they_go(values: list[float | None]) -> None:
    found = learning_charts({"sft": training(loss=values)}, SERIES)
    assert len(found) == 1
    assert len(found[0].svg) < 60_000


def test_what_was_not_logged_has_no_chart() -> None:
    assert learning_charts({}, SERIES) == []
    assert weights_chart({"sft": training(loss=[1.0])}, SERIES) is None
    found = learning_charts({"dmpo": training(loss=[0.7], rewards__margins=[0.0])}, SERIES)
    assert [chart.title for chart in found] == ["Loss on pairs", "Reward margin"]


def test_the_weights_are_spelled_out_for_those_who_do_not_see_them() -> None:
    trainings = {"dmpo": training() | {"weights": {"chosen": [1.0, 1 / 3], "rejected": [1.0]}}}
    chart = weights_chart(trainings, SERIES)
    assert chart is not None
    assert 'aria-label="Weight of each turn. DMPO: 1.00, 0.33"' in chart.svg


def test_smoothing_by_hand() -> None:
    """Means over three; at the ends over the two that are there: 1.5, 2, 3, 4, 4.5."""
    smooth = charts._smoothed(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), window=3)
    assert smooth.tolist() == [1.5, 2.0, 3.0, 4.0, 4.5]


def test_a_scale_holds_its_values_between_round_marks() -> None:
    scale = Scale.around([0.26, 0.83], include=[0.0])
    assert scale.low == 0.0
    assert scale.high >= 0.83
    assert scale.place(scale.low) == 0.0
    assert scale.place(scale.high) == 100.0
    assert 0.0 in Scale.around([-0.1, 0.3]).marks
    lonely = Scale.around([], include=[0.0])
    assert math.isfinite(lonely.place(0.0))


def test_an_interval_is_drawn_to_scale() -> None:
    """On a scale from 0 to 2, the mean 1 lies at 50%, the ends 0.5 and 1.5 at 25% and 75%."""
    scale = Scale(low=0.0, high=2.0, marks=(0.0, 1.0, 2.0))
    svg = interval_plot({"mean": 1.0, "low": 0.5, "high": 1.5}, scale, series=3)
    assert 'class="whisker" x1="25.00%" x2="75.00%"' in svg
    assert 'cx="50.00%"' in svg
    assert 'aria-label="1.000, between 0.500 and 1.500"' in svg
    assert svg.count('class="zero"') == 1


def test_names_in_drawings_are_escaped() -> None:
    scale = Scale(low=0.0, high=1.0, marks=(0.0,))
    svg = dots_plot({'"><script>\u202e': 0.5}, scale, {'"><script>\u202e': 1})
    assert "<script>" not in svg
    assert "&#34;&gt;&lt;script&gt;⟨U+202E⟩ 0.500" in svg


def test_the_rewards_of_turns_are_means_and_spelled_out() -> None:
    """Chosen 0.1, 0.2 and 0.6 at turn 1: mean 0.3. Turn 2 is in two pairs only, and is left out."""
    pairs = [
        PairTurns(chosen=(turn(first), *extra), rejected=(turn(-first),))
        for first, extra in ((0.1, ()), (0.2, (turn(9.0),)), (0.6, (turn(9.0),)))
    ]
    trainings: dict[str, Any] = {"dmpo": {"weights": {"chosen": [1.0]}}, "control": {"weights": None}}
    chart = rewards_chart({"dmpo": pairs, "control": pairs}, trainings, {"dmpo": 1, "control": 2})
    assert chart is not None
    assert "DMPO chosen: 0.300; DMPO rejected: \N{MINUS SIGN}0.300" in chart.svg
    assert chart.methods == ("dmpo",)
    assert "mean over 3 pairs" in chart.note
    assert rewards_chart({}, {}, {}) is None
    assert rewards_chart({"dmpo": pairs[:2]}, trainings, {"dmpo": 1}) is None


def test_lengths_are_counted() -> None:
    chart = lengths_chart({"turn_counts": {"chosen": [[1, 2], [3, 1]], "rejected": [[4, 3]]}})
    assert chart is not None
    assert "chosen: 2 of 1, 1 of 3; rejected: 3 of 4" in chart.svg
    assert lengths_chart(None) is None
    assert lengths_chart({"counts": {}}) is None


def test_the_level_of_no_preference_is_drawn_where_there_is_one() -> None:
    curves = training(loss=[0.7, 0.6], rewards__margins=[0.0, 0.1])
    logistic = learning_charts({"a": curves | {"objective": "dpo"}}, {"a": 1})[0]
    squared = learning_charts({"a": curves | {"objective": "ipo"}}, {"a": 1})[0]
    assert "ln 2" in logistic.note
    assert squared.note == ""
    assert logistic.svg.count("<path") == squared.svg.count("<path") + 1
