"""The results as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich import box
from rich.table import Table
from rich.text import Text

from multiturn.reports.untrusted import reveal
from multiturn.reports.words import (
    interval_text,
    label,
    number,
    oracle_note,
    percent,
    percent_interval,
    signed,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["format_table"]

_STYLES: Final = {"better": "green", "worse": "red", "undecided": ""}


def format_table(summary: Mapping[str, Any]) -> Table:
    """The results of a summary: a row for each method, a part for each split where there are several.

    Args:
        summary: What `multiturn.reports.summary.build_summary` gives.

    Returns:
        A table that fits into 80 columns and is readable without colour.
    """
    level = f"{100 * summary['level']:g}%"
    caption = f"in brackets: {level} intervals over tasks"
    compared = any(split["comparisons"] for split in summary["splits"].values())
    if compared:
        caption += "; differences are paired by task"
    several = len(summary["splits"]) > 1
    for split, results in summary["splits"].items():
        for name, method in results["methods"].items():
            if method.get("samples"):
                where = f"{split}: " if several else ""
                caption += f"\n{reveal(where + oracle_note(name, method['samples']))}"
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        caption=Text(caption, style="table.caption"),  # a text would be read as markup
        caption_justify="left",
    )
    table.add_column("method", no_wrap=True)
    for heading in ("average\nreward", "success", "turns", "invalid\nactions"):
        table.add_column(heading, justify="right", no_wrap=True)
    if compared:
        against = Text(f"against\n{reveal(label(summary['baseline']))}")
        table.add_column(against, justify="right", no_wrap=True)
        table.add_column("better/\nequal/\nworse", justify="right", no_wrap=True)
    for split, results in summary["splits"].items():
        if several:
            table.add_row(Text(reveal(split), style="bold"))
        for name in summary["methods"]:
            if name in results["methods"]:
                cells = [Text(reveal(label(name))), *_figures(results["methods"][name])]
                if compared:
                    cells += _against_baseline(name, summary["baseline"], results)
                table.add_row(*cells)
        table.add_section()
    return table


def _figures(method: Mapping[str, Any]) -> list[Text]:
    reward, success, invalid = method["reward"], method["success"], method["invalid_actions"]
    return [
        _two_lines(number(reward["mean"]), interval_text(reward)),
        Text("") if success is None else _two_lines(percent(success["mean"]), percent_interval(success)),
        Text(number(method["turns"]["mean"], 1)),
        Text("" if invalid is None else percent(invalid)),
    ]


def _against_baseline(name: str, baseline: str, results: Mapping[str, Any]) -> list[Text]:
    for comparison in results["comparisons"]:
        if (comparison["method"], comparison["baseline"]) == (name, baseline):
            difference, style = comparison["reward"], _STYLES[comparison["verdict"]]
            counts = "/".join(str(comparison[key]) for key in ("better", "equal", "worse"))
            return [
                _two_lines(signed(difference["mean"]), interval_text(difference), style=style),
                Text(counts),
            ]
    return [Text(""), Text("")]


def _two_lines(figure: str, interval: str, *, style: str = "") -> Text:
    return Text.assemble((figure, style or "bold"), "\n", (interval, "dim"))
