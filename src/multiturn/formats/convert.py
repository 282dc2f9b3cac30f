"""From one format to another, row by row, with a count of everything that did not come along."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multiturn.errors import ConfigError, DataError
from multiturn.files import partial_of
from multiturn.formats.base import BadRecord, Context, kind_of
from multiturn.formats.detect import FORMATS, format_named
from multiturn.formats.held import lost_fields
from multiturn.formats.reading import ReadOptions, RecordReader
from multiturn.formats.writing import write_records
from multiturn.progress import progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from multiturn.formats.base import Format, Item
    from multiturn.formats.containers import Row
    from multiturn.progress import Bar

__all__ = ["ConversionReport", "convert"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ConversionReport:
    """What a conversion did.

    Attributes:
        source: The format that was read.
        target: The format that was written.
        rows: The rows that were read.
        written: The rows that were written.
        bad: Rows that were left out, by reason.
        lost: What the new format cannot hold, by name, with the rows that had it.
        unread: Fields that hold something and were not read, by name.
    """

    source: str
    target: str
    rows: int
    written: int
    bad: dict[str, int]
    lost: dict[str, int]
    unread: dict[str, int]

    def describe(self) -> str:
        """The counts in a few lines."""
        lines = [f"{self.written} of {self.rows} rows, from {self.source} to {self.target}"]
        for title, counts in (
            ("left out", self.bad),
            (f"not held by {self.target}", self.lost),
            ("not read", self.unread),
        ):
            if counts:
                lines.append(f"{title}: " + ", ".join(f"{name} ({count})" for name, count in counts.items()))
        return "\n".join(lines)


def convert(
    source: Path | str, target: Path | str, *, to: str, options: ReadOptions | None = None
) -> ConversionReport:
    """Write a file's trajectories or pairs in another format, all or nothing.

    JSONL comes and goes row by row. A name that ends in ``.json`` is written as one array, ``.parquet`` as a
    table, anything else as JSONL. Every row that is written is read back: text never changes, and what else
    does is counted.

    Args:
        source: The file, or the folder of a saved dataset.
        target: The file to write.
        to: The name of the format to write.
        options: How to read ``source``.

    Raises:
        ConfigError: There is no such format, or it cannot hold what ``source`` does.
        DataError: ``source`` cannot be read, holds no rows, or has unusable ones that are not to be skipped.
        IsADirectoryError: ``target`` is a folder.
        MissingExtraError: A table is read or written, and the package for it is not installed.
    """
    target = Path(target)
    conversion = _Conversion(RecordReader(source, options), format_named(to, option="--to"), options)
    partial = partial_of(target)
    try:
        with progress("convert", total=conversion.reader.total) as bar:
            write_records(target, conversion.records(bar))
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    return conversion.report()


class _Conversion:
    """A conversion under way."""

    def __init__(self, reader: RecordReader, target: Format, options: ReadOptions | None) -> None:
        if reader.source is None:
            raise DataError("holds no rows; there is nothing to convert", path=reader.path)
        self.reader = reader
        self._source = reader.source
        self._target = target
        self._skip_bad = options is not None and options.skip_bad
        self._written = 0
        self._unheld: collections.Counter[str] = collections.Counter()
        self._lost: collections.Counter[str] = collections.Counter()

    def records(self, bar: Bar) -> Iterator[dict[str, Any]]:
        """The rows of the new file."""
        first_bad: tuple[Row, str] | None = None
        done = 0
        for item in self.reader:
            self._require_place(item)
            if self.reader.rows - done >= 256:
                bar.advance(self.reader.rows - done)
                done = self.reader.rows
            try:
                record = self._record(item)
            except BadRecord as error:
                self._unheld[error.reason] += 1
                first_bad = first_bad or (self._row(), str(error))
                continue
            if first_bad is None or self._skip_bad:
                self._written += 1
                yield record
        bar.advance(self.reader.rows - done)
        if first_bad is not None and not self._skip_bad:
            row, what = first_bad
            counts = f"{self._unheld.total()} of {self.reader.rows} rows"
            message = f"{what} ({counts} cannot be written; --skip-bad leaves them out)"
            raise row.error(message, self.reader.path)

    def report(self) -> ConversionReport:
        """What was done."""
        return ConversionReport(
            source=self._source.name,
            target=self._target.name,
            rows=self.reader.rows,
            written=self._written,
            bad=dict(self.reader.bad + self._unheld),
            lost=dict(self._lost),
            unread=dict(self.reader.unread),
        )

    def _record(self, item: Item) -> dict[str, Any]:
        record = self._target.write(item)
        context = Context(default_id=f"line-{self._written + 1}")
        try:
            reread = self._target.read(record, context)
        except DataError as error:
            raise BadRecord(f"the format cannot hold it: {error}", reason="cannot_hold") from None
        lost = lost_fields(item, reread)
        if item.id == self._row().default_id:  # nobody gave it that id
            lost = [name for name in lost if name != "id"]
        self._lost.update(lost)
        return record

    def _row(self) -> Row:
        if self.reader.row is None:
            raise ValueError("no row has been read yet")
        return self.reader.row

    def _require_place(self, item: Item) -> None:
        kind = kind_of(item)
        if kind not in self._target.holds:
            able = ", ".join(known.name for known in FORMATS if kind in known.holds)
            more = "; `multiturn pairs` makes pairs of trajectories" if kind == "trajectories" else ""
            raise ConfigError(
                f"--to: {self.reader.path} holds {kind}, which {self._target.name} does not; use one of "
                f"{able}{more}"
            )
