"""How charts are drawn: inline SVG by matplotlib, in the colours of the page.

The drawings hold no timestamps and no random ids: the same numbers give the same bytes. Names of methods are
in their accessible descriptions only, escaped; legends are the page's own.
Colours are CSS variables of the page, so that one drawing serves light and dark.
"""

from __future__ import annotations

import dataclasses
import io
import re
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from multiturn.reports.untrusted import reveal

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

__all__ = ["INK", "SIDE_COLOURS", "Chart", "colour", "draw_svg"]

# matplotlib has no CSS variables; these colours stand for them and are replaced in the SVG.
INK: Final = "#010101"
_GRID: Final = "#020202"
SIDE_COLOURS: Final = {"chosen": "#050601", "rejected": "#050602"}
_VARIABLES: Final = {
    INK: "var(--muted)",
    _GRID: "var(--grid)",
    SIDE_COLOURS["chosen"]: "var(--good)",
    SIDE_COLOURS["rejected"]: "var(--bad)",
    **{f"#0304{slot:02x}": f"var(--series-{slot})" for slot in range(8)},
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
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
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


def colour(slot: int) -> str:
    """What stands for the colour of a method's number."""
    return f"#0304{slot % 8:02x}"


def draw_svg(draw: Callable[[Axes], None], name: str, description: str) -> Markup:
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
