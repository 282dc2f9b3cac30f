"""Some of many rows: what is looked at where looking at all of them would take too long."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["LOOKED_AT", "Sample", "look_at"]

LOOKED_AT: Final = 256
"""Of a file's trajectories, and of its pairs, so many are looked at."""
_LONGEST_SHARE: Final = 4
"""One in so many rows that are looked at is there because it is among the longest."""

RowT = TypeVar("RowT")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sample(Generic[RowT]):
    """The rows that are looked at.

    Attributes:
        rows: All of them, in the order of the file: for what may happen to any row.
        spread: Those of them that were not chosen for their length: for averages.
        total: How many rows there are.
    """

    rows: Sequence[RowT]
    spread: Sequence[RowT]
    total: int

    @property
    def partly(self) -> str:
        """``256 of 5000 looked at``; empty where these are all."""
        return "" if len(self.rows) == self.total else f"{len(self.rows)} of {self.total} looked at"

    @property
    def remark(self) -> str:
        """The same in brackets, after a blank."""
        return f" ({self.partly})" if self.partly else ""


def look_at(rows: Sequence[RowT], size: Callable[[RowT], float], *, most: int = LOOKED_AT) -> Sample[RowT]:
    """Choose the rows that are looked at: the longest, and others evenly spread from the first to the last.

    Args:
        rows: All rows.
        size: How long a row is, roughly; it is asked of every row, so it should be cheap.
        most: Rows that are looked at, at least 4; all where there are no more.
    """
    if len(rows) <= most:
        return Sample(rows=rows, spread=rows, total=len(rows))
    by_size = sorted(range(len(rows)), key=lambda index: (-size(rows[index]), index))
    longest = by_size[: most // _LONGEST_SHARE]
    others = sorted(by_size[len(longest) :])
    count = most - len(longest)
    spread = [others[place * (len(others) - 1) // (count - 1)] for place in range(count)]
    return Sample(
        rows=[rows[index] for index in sorted([*longest, *spread])],
        spread=[rows[index] for index in spread],
        total=len(rows),
    )
