"""Reading a file in any format, with what cannot be read counted by reason."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Final

from multiturn.errors import DataError
from multiturn.formats.base import REWARD_FIELDS, BadRecord, Context, Format
from multiturn.formats.containers import open_rows
from multiturn.formats.detect import FIRST_ROWS, detect, format_named
from multiturn.trajectory import PreferencePair, Trajectory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from multiturn.formats.base import Item
    from multiturn.formats.containers import Row

__all__ = [
    "SHOWN_ROWS",
    "ReadOptions",
    "RecordReader",
    "load_pairs",
    "load_trajectories",
    "pairs_of",
    "trajectories_of",
]

SHOWN_ROWS: Final = 20
"""How many unusable rows of one reason are remembered by number."""
_OTHER: Final = "not_valid"
"""The reason of what a record's own class refuses."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How to read a file.

    Attributes:
        source: The format's name; None finds it out.
        skip_bad: Leave out rows that cannot be read, and count them. Otherwise the first is an error.
        reward_field: The field of a trajectory's return (``"info.score"`` goes into an object); None takes
            ``reward``, ``score`` or ``return``, whichever is there.
        split: The split of a saved dataset that has several.
        id_prefix: Stands before the ids of records that have none of their own.
    """

    source: str | None = None
    skip_bad: bool = False
    reward_field: str | None = None
    split: str | None = None
    id_prefix: str = ""

    def __post_init__(self) -> None:
        """Refuse a format that is none.

        Raises:
            ConfigError: It is.
        """
        if self.source is not None:
            format_named(self.source)


class RecordReader:
    """Goes through the trajectories or pairs of a file, once.

    Args:
        path: The file, or the folder of a saved dataset.
        options: How to read it.

    Attributes:
        path: The file.
        source: Its format; None where the file has no rows.
        total: The number of rows at most; None when nobody knows before the end.
        row: The row that was read last.
        rows: The rows so far.
        bad: How many of them were unusable, by reason.
        first_bad: The message about the first of them, with its place, by reason.
        bad_rows: The numbers of the first of them, at most `SHOWN_ROWS`, by reason.
        unread: Fields that hold something and are not read, by name, and how often.

    Raises:
        DataError: The file cannot be read, or is in no format that is known.
    """

    def __init__(self, path: Path | str, options: ReadOptions | None = None) -> None:
        self.path = Path(path)
        self._options = options or ReadOptions()
        opened = open_rows(self.path, split=self._options.split)
        first = list(itertools.islice(opened.rows, FIRST_ROWS))
        self._rows = itertools.chain(first, opened.rows)
        self.total = opened.total
        self.source = self._detected(first)
        self.row: Row | None = None
        self.rows = 0
        self.bad: collections.Counter[str] = collections.Counter()
        self.first_bad: dict[str, str] = {}
        self.bad_rows: dict[str, list[int]] = {}
        self.unread: collections.Counter[str] = collections.Counter()

    def __iter__(self) -> Iterator[Item]:
        """The items, in their order.

        Raises:
            DataError: A row is unusable, and unusable rows are not to be skipped. It names the first one,
                and comes when all others have been looked at and counted.
        """
        context = Context(
            reward_fields=(self._options.reward_field,) if self._options.reward_field else REWARD_FIELDS,
            unread=self.unread,
        )
        first_bad: tuple[Row, str] | None = None
        for row in self._rows:
            self.row, self.rows = row, self.rows + 1
            try:
                item = self._read(row, context)
            except DataError as error:
                reason = _reason(row, error)
                self.bad[reason] += 1
                self.first_bad.setdefault(reason, str(row.error(str(error), self.path)))
                if self.bad[reason] <= SHOWN_ROWS:
                    self.bad_rows.setdefault(reason, []).append(row.number)
                first_bad = first_bad or (row, str(error))
                continue
            if first_bad is None or self._options.skip_bad:
                yield item
        if first_bad is not None and not self._options.skip_bad:
            row, what = first_bad
            more = "" if self.rows == 1 else f" ({self.describe_bad()}; --skip-bad leaves them out)"
            raise row.error(f"{what}{more}", self.path)

    def describe_bad(self) -> str:
        """The unusable rows so far, in words."""
        counts = ", ".join(f"{count} {reason}" for reason, count in self.bad.most_common())
        return f"unusable rows: {self.bad.total()} of {self.rows}: {counts}"

    def _read(self, row: Row, context: Context) -> Item:
        content = row.content
        if isinstance(content, DataError):
            raise content
        source = self._source()
        if not isinstance(content, dict):
            raise _no_object(content)
        default_id = f"{self._options.id_prefix}{row.default_id}"
        return source.read(content, dataclasses.replace(context, default_id=default_id))

    def _source(self) -> Format:
        if self.source is None:
            raise ValueError("a file without rows has no format")
        return self.source

    def _detected(self, first: list[Row]) -> Format | None:
        if self._options.source is not None:
            return format_named(self._options.source)
        if not first:
            return None
        contents = [row.content for row in first]
        if not any(isinstance(content, dict) for content in contents):
            content = contents[0]
            error = content if isinstance(content, DataError) else _no_object(content)
            raise first[0].error(str(error), self.path)
        try:
            return detect(contents)
        except DataError as error:
            raise DataError(str(error), path=self.path) from None


def _reason(row: Row, error: DataError) -> str:
    if isinstance(row.content, DataError):
        return "not_json"
    return error.reason if isinstance(error, BadRecord) else _OTHER


def _no_object(content: object) -> BadRecord:
    return BadRecord(f"a record must be a JSON object, not {type(content).__name__}", reason="no_object")


def load_trajectories(path: Path | str, options: ReadOptions | None = None) -> list[Trajectory]:
    """All trajectories of a file in any format; none of a file without rows.

    Args:
        path: The file, or the folder of a saved dataset.
        options: How to read it.

    Raises:
        DataError: The file cannot be read, a row is unusable, or there are pairs in it.
    """
    return trajectories_of(RecordReader(path, options))


def load_pairs(path: Path | str, options: ReadOptions | None = None) -> list[PreferencePair]:
    """All pairs of a file in any format.

    Args:
        path: The file, or the folder of a saved dataset.
        options: How to read it.

    Raises:
        DataError: The file cannot be read or is empty, a row is unusable, or there are trajectories in it.
    """
    return pairs_of(RecordReader(path, options))


def trajectories_of(reader: RecordReader) -> list[Trajectory]:
    """What a reader goes through, which must be trajectories.

    Raises:
        DataError: A row is unusable, or there are pairs among them.
    """
    items = []
    for item in reader:
        if isinstance(item, PreferencePair):
            raise DataError(
                "holds pairs, not trajectories; `multiturn train --objective sft` learns their chosen sides",
                path=reader.path,
            )
        items.append(item)
    return items


def pairs_of(reader: RecordReader) -> list[PreferencePair]:
    """What a reader goes through, which must be pairs, at least one.

    Raises:
        DataError: There are none, a row is unusable, or there are trajectories among them.
    """
    items = []
    for item in reader:
        if isinstance(item, Trajectory):
            raise DataError(
                "holds trajectories, not pairs; make pairs of them with `multiturn pairs`", path=reader.path
            )
        items.append(item)
    if not items:
        raise DataError("holds no pairs; there is nothing to train on", path=reader.path)
    return items
