"""Small plots for table cells: a dot with its interval, or several dots, on a common scale."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from multiturn.reports.untrusted import reveal
from multiturn.reports.words import label, number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Scale", "dots_plot", "interval_plot"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """A linear scale for `interval_plot`.

    Attributes:
        low: The value at the left end.
        high: The value at the right end.
        marks: Values at which a faint line stands; one of them may be zero.
    """

    low: float
    high: float
    marks: tuple[float, ...]

    @classmethod
    def around(cls, values: Sequence[float], *, include: Sequence[float] = ()) -> Scale:
        """A scale with round marks that holds all values and whatever else shall be on it."""
        everything = [*values, *include]
        marks = MaxNLocator(nbins=3, steps=[1, 2, 2.5, 5, 10]).tick_values(min(everything), max(everything))
        return cls(low=float(marks[0]), high=float(marks[-1]), marks=tuple(float(mark) for mark in marks))

    def place(self, value: float) -> float:
        """Where a value lies, from 0 (left) to 100 (right)."""
        return 100.0 * (value - self.low) / (self.high - self.low)


def interval_plot(interval: Mapping[str, Any], scale: Scale, *, series: int) -> Markup:
    """A dot with its interval on a scale, as wide as its place.

    Args:
        interval: Has ``mean``, ``low`` and ``high``.
        scale: Where values lie.
        series: The number of the method's colour.
    """
    low, mean, high = (scale.place(interval[key]) for key in ("low", "mean", "high"))
    said = f"{number(interval['mean'])}, between {number(interval['low'])} and {number(interval['high'])}"
    return Markup(
        '<svg class="interval series-{}" role="img" aria-label="{said}"><title>{said}</title>{}'
        '<line class="whisker" x1="{}%" x2="{}%" y1="50%" y2="50%"/>'
        '<circle cx="{}%" cy="50%" r="4"/></svg>'
    ).format(series, _marks(scale), *(f"{place:.2f}" for place in (low, high, mean)), said=said)


def dots_plot(values: Mapping[str, float], scale: Scale, series: Mapping[str, int]) -> Markup:
    """A dot for each method on one scale.

    Args:
        values: Each method's value.
        scale: Where values lie.
        series: The number of each method's colour.
    """
    said = ", ".join(f"{label(name)} {number(value)}" for name, value in values.items())
    places = [scale.place(value) for value in values.values()]
    dots = Markup("").join(
        Markup('<circle class="series-{}" cx="{}%" cy="50%" r="4"/>').format(series[name], f"{place:.2f}")
        for name, place in zip(values, places, strict=True)
    )
    return Markup(
        '<svg class="interval" role="img" aria-label="{said}"><title>{said}</title>{}'
        '<line class="span" x1="{}%" x2="{}%" y1="50%" y2="50%"/>{}</svg>'
    ).format(_marks(scale), f"{min(places):.2f}", f"{max(places):.2f}", dots, said=reveal(said))


def _marks(scale: Scale) -> Markup:
    """The faint lines of a scale, the one at zero less faint."""
    return Markup("").join(
        Markup('<line class="{}" x1="{x}%" x2="{x}%" y1="0" y2="100%"/>').format(
            "zero" if mark == 0.0 else "mark", x=f"{scale.place(mark):.2f}"
        )
        for mark in scale.marks
    )
