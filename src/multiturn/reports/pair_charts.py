"""Charts of what pairs and their turns are like: weights, implicit rewards, lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.ticker import MaxNLocator

from multiturn.reports.drawing import INK, SIDE_COLOURS, Chart, colour, draw_svg
from multiturn.reports.turns import SIDES, mean_values
from multiturn.reports.words import label, number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from multiturn.reports.turns import PairTurns

__all__ = ["lengths_chart", "rewards_chart", "weights_chart"]

_STYLES = {"chosen": "-", "rejected": "--"}
_MAX_TURNS = 60
"""Beyond so many turns a mean is over too few pairs to be drawn."""


def weights_chart(trainings: Mapping[str, Mapping[str, Any]], series: Mapping[str, int]) -> Chart | None:
    """How much each turn of a typical pair weighs, for each method that has turn weights."""
    weighted = {name: t for name, t in trainings.items() if t.get("weights")}
    if not weighted:
        return None

    def draw(axes: Axes) -> None:
        for name, training in weighted.items():
            for side, style in _STYLES.items():
                weights = training["weights"].get(side, [])
                turns = range(1, len(weights) + 1)
                axes.plot(turns, weights, style, color=colour(series[name]), lw=1.6, marker="o", ms=3.5)
        axes.set_ylim(0.0, 1.06)
        axes.set_xlabel("turn")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    said = "; ".join(
        f"{label(name)}: {', '.join(number(w, 2) for w in training['weights'].get('chosen', []))}"
        for name, training in weighted.items()
    )
    return Chart(
        title="Weight of each turn",
        note="in the loss (for DMPO the curve phi), for pairs with the median numbers of turns",
        svg=draw_svg(draw, "weights", f"Weight of each turn. {said}"),
        methods=tuple(weighted),
        dashed="rejected",
    )


def rewards_chart(
    turns: Mapping[str, Sequence[PairTurns]],
    trainings: Mapping[str, Mapping[str, Any]],
    series: Mapping[str, int],
) -> Chart | None:
    """The mean implicit reward of the first turn, the second and so on, after training.

    Args:
        turns: For each method what the turns of its scored pairs are worth.
        trainings: The summary's ``trainings``; methods that give turns no weight are left out.
        series: The number of each method's colour.
    """
    means = {
        name: mean_values(pairs)
        for name, pairs in turns.items()
        if trainings[name].get("weights") is not None
    }
    means = {name: sides for name, sides in means.items() if any(sides.values())}
    if not means:
        return None

    def draw(axes: Axes) -> None:
        axes.axhline(0.0, color=INK, lw=0.8, ls=(0, (1, 3)))
        for name, sides in means.items():
            for side, style in _STYLES.items():
                values = sides[side][:_MAX_TURNS]
                marker = "o" if len(values) < 25 else ""
                axes.plot(
                    range(1, len(values) + 1),
                    values,
                    style,
                    color=colour(series[name]),
                    lw=1.6,
                    marker=marker,
                    ms=3.5,
                )
        axes.set_xlabel("turn")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    said = "; ".join(
        f"{label(name)} {side}: {', '.join(number(value, 3) for value in sides[side][:_MAX_TURNS])}"
        for name, sides in means.items()
        for side in SIDES
    )
    pairs = max(len(turns[name]) for name in means)
    title = "Implicit reward of each turn"
    return Chart(
        title=title,
        note=f"after training, mean over {pairs} pairs, where at least three have the turn",
        svg=draw_svg(draw, title, f"{title}. {said}"),
        methods=tuple(means),
        dashed="rejected",
    )


def lengths_chart(pairs: Mapping[str, Any] | None) -> Chart | None:
    """How many pairs have a side of so many turns.

    Args:
        pairs: The summary's ``pairs``.
    """
    counts = {side: found for side, found in ((pairs or {}).get("turn_counts") or {}).items() if found}
    if not counts:
        return None
    longest = max(turns for found in counts.values() for turns, _ in found)

    def draw(axes: Axes) -> None:
        for side, found in counts.items():
            known = dict(map(tuple, found))
            heights = [known.get(turns, 0) for turns in range(longest + 2)]
            edges = [turns - 0.5 for turns in range(longest + 3)]
            axes.stairs(heights, edges, color=SIDE_COLOURS[side], lw=1.7, ls=_STYLES[side])
        axes.set_xlim(left=0.5)
        axes.set_xlabel("turns")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    said = "; ".join(
        f"{side}: {', '.join(f'{pairs} of {turns}' for turns, pairs in found)}"
        for side, found in counts.items()
    )
    return Chart(
        title="Length of the trajectories",
        note="pairs by the number of turns of either side",
        svg=draw_svg(draw, "lengths", f"Pairs by number of turns. {said}"),
        methods=(),
        dashed="rejected",
    )
