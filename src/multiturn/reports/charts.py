"""Learning curves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from multiturn.reports.drawing import INK, Chart, colour, draw_svg
from multiturn.reports.words import label, number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

__all__ = ["learning_charts"]

_LOGISTIC: Final = ("dmpo", "dpo", "cdpo", "robust")
"""Objectives whose loss is ln 2 where policy and reference agree."""
_MAX_POINTS: Final = 400
_SMOOTH_FROM: Final = 20
"""Curves with at least so many points are drawn smoothed, with the points themselves pale behind."""


def learning_charts(trainings: Mapping[str, Mapping[str, Any]], series: Mapping[str, int]) -> list[Chart]:
    """The learning curves of all trainings.

    Args:
        trainings: The summary's ``trainings``.
        series: The number of each method's colour.
    """
    pairwise = {name: t for name, t in trainings.items() if "rewards/margins" in t["curves"]}
    alone = {name: t for name, t in trainings.items() if name not in pairwise}
    logistic = all(t.get("objective", "dmpo") in _LOGISTIC for t in pairwise.values())
    charts = [
        _curves_chart("Loss on demonstrations", "nats a token", alone, series, ["nll/token", "loss"], None),
        _curves_chart(
            "Loss on pairs",
            "ln 2 = 0.693 where policy and reference agree, without a likelihood term" if logistic else "",
            pairwise,
            series,
            ["loss"],
            math.log(2.0) if logistic else None,
        ),
        _curves_chart(
            "Reward margin",
            "implicit reward of chosen minus rejected",
            pairwise,
            series,
            ["rewards/margins"],
            0.0,
        ),
        _curves_chart(
            "Accuracy",
            "share of pairs with a positive margin",
            pairwise,
            series,
            ["rewards/accuracies"],
            0.5,
        ),
        _sides_chart(
            "Log-ratio to the reference",
            "nats a trajectory; where the chosen side falls too, the policy unlearns what it should keep",
            pairwise,
            series,
            "logratios",
            0.0,
        ),
        _sides_chart(
            "Log-probability",
            "nats a trajectory, of those in each step; both sides falling is a collapse of likelihood",
            pairwise,
            series,
            "logps",
            None,
        ),
    ]
    return [chart for chart in charts if chart is not None]


def _curves_chart(
    title: str,
    note: str,
    trainings: Mapping[str, Mapping[str, Any]],
    series: Mapping[str, int],
    metrics: Sequence[str],
    level: float | None,
) -> Chart | None:
    """One curve a training: the first of the metrics that it logged."""
    curves = {
        name: next((t["curves"][metric] for metric in metrics if metric in t["curves"]), None)
        for name, t in trainings.items()
    }
    known = {name: curve for name, curve in curves.items() if curve is not None}
    if not known:
        return None

    def draw(axes: Axes) -> None:
        if level is not None:
            axes.axhline(level, color=INK, lw=0.8, ls=(0, (1, 3)))
        for name, curve in known.items():
            _plot_curve(axes, curve, colour(series[name]), "-")
        axes.set_xlabel("step")

    return Chart(
        title=title,
        note=note,
        svg=draw_svg(draw, title, f"{title}. {_from_to(known)}"),
        methods=tuple(known),
    )


def _sides_chart(
    title: str,
    note: str,
    trainings: Mapping[str, Mapping[str, Any]],
    series: Mapping[str, int],
    metric: str,
    level: float | None,
) -> Chart | None:
    """Two curves a training: a metric of the chosen side and of the rejected one."""
    known = {name: t["curves"] for name, t in trainings.items() if f"{metric}/chosen" in t["curves"]}
    if not known:
        return None

    def draw(axes: Axes) -> None:
        if level is not None:
            axes.axhline(level, color=INK, lw=0.8, ls=(0, (1, 3)))
        for name, curves in known.items():
            for side, style in (("chosen", "-"), ("rejected", "--")):
                if f"{metric}/{side}" in curves:
                    _plot_curve(axes, curves[f"{metric}/{side}"], colour(series[name]), style)
        axes.set_xlabel("step")

    said = _from_to(
        {
            f"{label(name)} {side}": curves[f"{metric}/{side}"]
            for name, curves in known.items()
            for side in ("chosen", "rejected")
            if f"{metric}/{side}" in curves
        }
    )
    return Chart(
        title=title,
        note=note,
        svg=draw_svg(draw, title, f"{title}. {said}"),
        methods=tuple(known),
        dashed="rejected",
    )


def _from_to(curves: Mapping[str, Mapping[str, Any]]) -> str:
    told = []
    for name, curve in curves.items():
        values = [value for value in curve["value"] if value is not None]
        if values:
            steps = curve["step"][-1]
            told.append(f"{label(name)} from {number(values[0])} to {number(values[-1])} at step {steps}")
    return "; ".join(told)


def _plot_curve(axes: Axes, curve: Mapping[str, Any], colour: str, style: str) -> None:
    """A curve: smoothed where there is enough of it, with what was smoothed pale behind."""
    step = np.asarray(curve["step"], dtype=np.float64)
    value = np.asarray([math.nan if v is None else v for v in curve["value"]], dtype=np.float64)
    step, value = step[np.isfinite(value)], value[np.isfinite(value)]
    if step.size > _MAX_POINTS:
        parts = np.array_split(np.arange(step.size), _MAX_POINTS)
        step, value = (np.array([array[part].mean() for part in parts]) for array in (step, value))
    if step.size < _SMOOTH_FROM:
        marker = "o" if step.size < 3 else ""
        axes.plot(step, value, style, color=colour, lw=1.6, marker=marker, ms=3.5)
        return
    axes.plot(step, value, "-", color=colour, lw=0.7, alpha=0.28)
    axes.plot(step, _smoothed(value, window=max(3, step.size // 12)), style, color=colour, lw=1.7)


def _smoothed(values: NDArray[np.float64], *, window: int) -> NDArray[np.float64]:
    """Centred running means; towards the ends over what is there."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(values.size)
    first, last = np.maximum(at - window // 2, 0), np.minimum(at + window // 2 + 1, values.size)
    means: NDArray[np.float64] = (sums[last] - sums[first]) / (last - first)
    return means
