"""Charts as inline SVG by matplotlib: learning curves and turn weights.

The drawings hold no timestamps and no random ids: the same numbers give the same bytes. Names of methods are
in their accessible descriptions only, escaped; legends are the page's own.
Colours are CSS variables of the page, so that one drawing serves light and dark.
"""

from __future__ import annotations

import dataclasses
import io
import math
import re
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from multiturn.reports.untrusted import reveal
from multiturn.reports.words import label, number

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

__all__ = ["Chart", "learning_charts", "weights_chart"]

# matplotlib has no CSS variables; these colours stand for them and are replaced in the SVG.
_INK: Final = "#010101"
_GRID: Final = "#020202"
_VARIABLES: Final = {_INK: "var(--muted)", _GRID: "var(--grid)"} | {
    f"#0304{slot:02x}": f"var(--series-{slot})" for slot in range(8)
}
# Any: newer matplotlib spells out every key in the type, older takes any string.
_SETTINGS: Final[Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "multiturn",
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "font.size": 9.0,
    "font.family": ["DejaVu Sans"],
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.major.size": 3.0,
    "ytick.major.size": 0.0,
    "path.simplify": True,
}
_SIZE: Final = (4.7, 2.35)
_MAX_POINTS: Final = 400
_SMOOTH_FROM: Final = 20
"""Curves with at least so many points are drawn smoothed, with the points themselves pale behind."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart and its words.

    Attributes:
        title: What it shows.
        note: How to read it; may be empty.
        svg: The drawing.
        methods: The methods in it, in order.
        dashed: What dashed lines are, where there are any.
    """

    title: str
    note: str
    svg: Markup
    methods: tuple[str, ...]
    dashed: str = ""


def learning_charts(trainings: Mapping[str, Mapping[str, Any]], series: Mapping[str, int]) -> list[Chart]:
    """The learning curves of all trainings.

    Args:
        trainings: The summary's ``trainings``.
        series: The number of each method's colour.
    """
    pairwise = {name: t for name, t in trainings.items() if "rewards/margins" in t["curves"]}
    alone = {name: t for name, t in trainings.items() if name not in pairwise}
    charts = [
        _curves_chart("Loss on demonstrations", "nats a token", alone, series, ["nll/token", "loss"], None),
        _curves_chart(
            "Loss on pairs",
            "ln 2 = 0.693 where policy and reference agree, without a likelihood term",
            pairwise,
            series,
            ["loss"],
            math.log(2.0),
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
        _log_ratio_chart(pairwise, series),
    ]
    return [chart for chart in charts if chart is not None]


def weights_chart(trainings: Mapping[str, Mapping[str, Any]], series: Mapping[str, int]) -> Chart | None:
    """How much each turn of a typical pair weighs, for each method that has turn weights."""
    weighted = {name: t for name, t in trainings.items() if t.get("weights")}
    if not weighted:
        return None

    def draw(axes: Axes) -> None:
        for name, training in weighted.items():
            for side, style in (("chosen", "-"), ("rejected", "--")):
                weights = training["weights"].get(side, [])
                turns = range(1, len(weights) + 1)
                axes.plot(turns, weights, style, color=_colour(series[name]), lw=1.6, marker="o", ms=3.5)
        axes.set_ylim(0.0, 1.06)
        axes.set_xlabel("turn")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    said = "; ".join(
        f"{label(name)}: {', '.join(number(w, 2) for w in training['weights'].get('chosen', []))}"
        for name, training in weighted.items()
    )
    return Chart(
        title="Weight of each turn",
        note="in the loss, for pairs with the median numbers of turns",
        svg=_svg(draw, "weights", f"Weight of each turn. {said}"),
        methods=tuple(weighted),
        dashed="rejected",
    )


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
            axes.axhline(level, color=_INK, lw=0.8, ls=(0, (1, 3)))
        for name, curve in known.items():
            _plot_curve(axes, curve, _colour(series[name]), "-")
        axes.set_xlabel("step")

    return Chart(
        title=title,
        note=note,
        svg=_svg(draw, title, f"{title}. {_from_to(known)}"),
        methods=tuple(known),
    )


def _log_ratio_chart(trainings: Mapping[str, Mapping[str, Any]], series: Mapping[str, int]) -> Chart | None:
    known = {name: t["curves"] for name, t in trainings.items() if "logratios/chosen" in t["curves"]}
    if not known:
        return None

    def draw(axes: Axes) -> None:
        axes.axhline(0.0, color=_INK, lw=0.8, ls=(0, (1, 3)))
        for name, curves in known.items():
            for side, style in (("chosen", "-"), ("rejected", "--")):
                if f"logratios/{side}" in curves:
                    _plot_curve(axes, curves[f"logratios/{side}"], _colour(series[name]), style)
        axes.set_xlabel("step")

    title = "Log-ratio to the reference"
    said = _from_to({f"{label(name)} chosen": curves["logratios/chosen"] for name, curves in known.items()})
    return Chart(
        title=title,
        note="nats a trajectory; where the chosen side falls too, the policy unlearns what it should keep",
        svg=_svg(draw, title, f"{title}. {said}"),
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


def _colour(slot: int) -> str:
    return f"#0304{slot % 8:02x}"


def _svg(draw: Callable[[Axes], None], name: str, description: str) -> Markup:
    """Draw, and make of matplotlib's file an element that fits into a page."""
    with mpl.rc_context():
        mpl.rcdefaults()  # whatever style the user prefers elsewhere
        mpl.rcParams.update(_SETTINGS)
        figure = Figure(figsize=_SIZE, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.grid(axis="y", color=_GRID, lw=0.6)
        axes.set_axisbelow(True)
        axes.margins(x=0.02)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _embed(buffer.getvalue(), re.sub(r"\W+", "-", name.lower()), description)


def _embed(svg: str, name: str, description: str) -> Markup:
    """Strip the prolog and the global style, make ids unique, sizes free and colours variable."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # A style element inside an inline drawing would apply to the whole page.
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", svg)
    svg = re.sub(r"font-family: [^;\"]+;? ?", "", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    box = re.search(r'viewBox="[^"]*"', svg)
    body = svg[svg.index(">") + 1 :]
    head = Markup('<svg class="chart" role="img" aria-label="{}" ').format(reveal(description))
    return Markup(f"{head}{box.group() if box else ''}>{body}")  # noqa: S704 - numbers and constants only
