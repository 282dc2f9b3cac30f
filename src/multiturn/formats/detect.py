"""Which format a file is in, by what its first rows hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from multiturn.errors import ConfigError, DataError
from multiturn.formats import agentgym, native, openai, sharegpt, swift, trl

if TYPE_CHECKING:
    from multiturn.formats.base import Format

__all__ = ["FIRST_ROWS", "FORMATS", "detect", "format_named"]

FORMATS: Final[tuple[Format, ...]] = (
    native.FORMAT,
    agentgym.FORMAT,
    sharegpt.FORMAT,
    swift.FORMAT,
    trl.FORMAT,
    openai.FORMAT,
)
"""Every format, the more special ones first: a row is in the first format that recognizes it."""

FIRST_ROWS: Final = 20
"""So many rows are looked at."""


def detect(rows: Sequence[object]) -> Format:
    """The format that most of some rows are in.

    Args:
        rows: The first rows of a file, parsed; those that are no objects are passed over.

    Returns:
        The format; the first in `FORMATS` of those that recognize equally many rows.

    Raises:
        DataError: No row is in any format; the message lists what was tried.
    """
    objects = [row for row in rows[:FIRST_ROWS] if isinstance(row, Mapping)]
    found = [next((f for f in FORMATS if f.detects(row)), None) for row in objects]
    best = max(FORMATS, key=lambda f: sum(one is f for one in found))
    if best not in found:
        columns = sorted({str(key) for row in objects for key in row})
        shown = ", ".join(columns[:12]) + (", ..." if len(columns) > 12 else "")
        tried = "\n".join(f"  {f.name}: {f.about}" for f in FORMATS)
        raise DataError(
            f"none of the first {len(objects)} rows is in a format that is known (their columns: "
            f"{shown or 'none'}); rename the columns, or say which it is with --from. Tried:\n{tried}"
        )
    return best


def format_named(name: str, *, option: str = "--from") -> Format:
    """The format of a name.

    Args:
        name: The name.
        option: What the name was given for, for errors.

    Raises:
        ConfigError: There is none of this name.
    """
    for known in FORMATS:
        if known.name == name:
            return known
    raise ConfigError(
        f"{option}: there is no format {name!r}; use one of {', '.join(f.name for f in FORMATS)}"
    )
