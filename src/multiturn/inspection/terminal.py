"""Rows and surveys for people: coloured in a terminal, lines of text elsewhere."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from rich.style import Style
from rich.table import Table
from rich.text import Text

from multiturn.reports.untrusted import reveal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from multiturn.inspection.rows import InspectedRow, InspectedSide, InspectedToken
    from multiturn.inspection.survey import Spread, Survey

__all__ = ["plain_row", "show_row", "survey_lines"]

_LEAST: Final = (214, 234, 248)
"""The background of a scored token that weighs nothing, and below the one of the heaviest in the row."""
_MOST: Final = (21, 67, 140)
_UNSCORED: Final = Style(dim=True)
_SPECIAL: Final = Style(dim=True, italic=True, color="magenta")
_OPENING: Final = 60
"""Characters of a turn that the table of turns shows."""


def show_row(console: Console, row: InspectedRow) -> None:
    """Print a row: its text, each scored token on a colour that says its weight, and a table of its turns.

    Args:
        console: Where to print.
        row: The row.
    """
    heaviest = max((weight for side in row.sides for weight in side.weights), default=1.0)
    console.print(Text(reveal(row.id), style="bold"))
    for number, side in enumerate(row.sides):
        console.rule(Text(_title(side)), align="left")
        # What both sides share is shown once.
        first = side.shared if number else 0
        if first:
            console.print(
                Text(f"... the first {first} tokens are those of {row.sides[0].name} ...", _UNSCORED)
            )
        fork = side.shared if side.name else None
        console.print(_coloured(side, first, fork, heaviest), soft_wrap=True)
        console.print(_turn_table(side))
    console.print(_legend(heaviest))


def plain_row(row: InspectedRow) -> Iterator[str]:
    """A row as lines with tabs between: side, index, id, turn, whether it is scored, weight, text.

    The text is as JSON writes it. Turns count from 1; what is not scored has ``-`` for its turn and weight.
    Lines that begin with ``#`` say what is true of a side or a turn, and where the sides of a pair part.

    Args:
        row: The row.
    """
    yield f"# {json.dumps(reveal(row.id), ensure_ascii=False)}"
    for side in row.sides:
        yield f"# {_title(side)}"
        for turn, (weight, closed) in enumerate(zip(side.weights, side.closed, strict=True)):
            tokens = sum(token.turn == turn for token in side.tokens)
            yield f"# turn {turn + 1}: {tokens} tokens, weight {weight:.6g}, {_end(closed=closed)}"
    yield "side\ttoken\tid\tturn\tscored\tweight\ttext"
    for side in row.sides:
        for index, token in enumerate(side.tokens):
            if side.name and index == side.shared:
                yield f"# fork: the {index} tokens before are the same on both sides"
            number, weighs, scored = _numbers(token)
            text = json.dumps(reveal(token.text), ensure_ascii=False)
            cells = (side.name or "trajectory", str(index), str(token.id), number, scored, weighs, text)
            yield "\t".join(cells)


def survey_lines(found: Survey) -> Iterator[str]:
    """A survey in lines.

    Args:
        found: The survey.
    """
    yield f"{found.usable} of {found.rows} rows can be trained on" + (
        f" ({found.kind})" if found.kind else ""
    )
    for reason, count in found.left_out.items():
        yield f"  {count} left out: {reason}"
    for problem in sorted(found.problems.values(), key=lambda problem: -problem.count):
        yield f"  {problem.count} refused: {reveal(problem.example)}"
        if problem.count > 1:
            more = ", ..." if problem.count > len(problem.rows) else ""
            yield f"    rows {', '.join(map(str, problem.rows))}{more}"
    if found.tokens is not None and found.turns is not None:
        yield f"tokens of a conversation: {_spread(found.tokens)}"
        yield f"scored turns: {_spread(found.turns)}"
        yield f"scored tokens: {found.scored_share:.1%} of all"
        yield f"shared prefixes: {found.shared_share:.1%} of the first rows' tokens need no computing"
    for lengths in found.lengths:
        yield (
            f"{lengths.quantity}: chosen {lengths.chosen:.1f}, rejected {lengths.rejected:.1f} on average "
            f"(standardized difference {lengths.difference:+.2f})"
        )
    if found.cut:
        yield f"{found.cut} conversations are cut at a turn boundary"
    for warning in found.warnings:
        yield f"warning: {warning}"


def _title(side: InspectedSide) -> str:
    parts = [
        side.name or "trajectory",
        f"{len(side.tokens)} tokens",
        f"{side.scored} of them scored",
        f"T = {len(side.weights)} turns",
        *(["cut to fit"] if side.cut else []),
    ]
    return ", ".join(parts)


def _coloured(side: InspectedSide, first: int, fork: int | None, heaviest: float) -> Text:
    text = Text()
    for index, token in enumerate(side.tokens[first:], start=first):
        if index == fork:
            text.append(" fork ", Style(bold=True, reverse=True, color="red"))
        shown = reveal(token.text).replace("\n", "⏎\n")
        text.append(shown, _style(token, heaviest))
    return text


def _style(token: InspectedToken, heaviest: float) -> Style:
    if token.weight is None:
        return _SPECIAL if token.special else _UNSCORED
    level = max(0.0, min(1.0, token.weight / heaviest)) if heaviest > 0 else 0.0
    return _ink(level) + Style(underline=token.special)


def _ink(level: float) -> Style:
    """How a token of a weight is written, from 0 (none) to 1 (the row's heaviest)."""
    red, green, blue = (round(low + (high - low) * level) for low, high in zip(_LEAST, _MOST, strict=True))
    return Style.parse(f"{'#ffffff' if level > 0.5 else '#000000'} on #{red:02x}{green:02x}{blue:02x}")


def _turn_table(side: InspectedSide) -> Table:
    headings = ("turn", "tokens", "weight", "end of turn", "begins with")
    table = Table(*headings, box=None, pad_edge=False, header_style="dim")
    for turn, weight in enumerate(side.weights):
        tokens = [token for token in side.tokens if token.turn == turn]
        said = reveal("".join(token.text for token in tokens)).replace("\n", " ")
        begins = said if len(said) <= _OPENING else f"{said[: _OPENING - 1]}…"
        end = Text("scored", "green") if side.closed[turn] else Text("not scored", "bold red")
        table.add_row(str(turn + 1), str(len(tokens)), f"{weight:.4g}", end, Text(begins))
    return table


def _legend(heaviest: float) -> Text:
    text = Text()
    text.append("not scored", _UNSCORED)
    text.append("  ")
    text.append("special token", _SPECIAL)
    for share in (0.0, 0.5, 1.0):
        text.append("  ")
        text.append(f" weight {share * heaviest:.3g} ", _ink(share))
    text.append("  underlined: a special token that is scored, such as the end of a turn")
    return text


def _end(*, closed: bool) -> str:
    return "its end is scored" if closed else "its end is not scored: the reply was cut off"


def _numbers(token: InspectedToken) -> tuple[str, str, str]:
    """A token's turn and weight, and whether it is scored."""
    if token.turn is None or token.weight is None:
        return "-", "-", "no"
    return str(token.turn + 1), f"{token.weight:.6g}", "yes"


def _spread(spread: Spread) -> str:
    shown = ", ".join(
        f"{name} {spread.percentiles[p]:g}"
        for name, p in (("least", 0), ("median", 50), ("90%", 90), ("99%", 99), ("most", 100))
    )
    return f"mean {spread.mean:.1f}, {shown}"
