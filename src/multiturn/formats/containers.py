"""Rows out of files: JSONL, JSON arrays and objects, Parquet, or a Hugging Face dataset saved to disk.

JSONL and Parquet are read piece by piece, in constant memory.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from multiturn.errors import ConfigError, DataError, MissingExtraError
from multiturn.jsonl import json_lines

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Row", "Rows", "has_rollout_header", "open_rows"]

_PARQUET: Final = b"PAR1"
_HEADER: Final = b'{"rollouts": '
_JSON_TEXT: Final = frozenset({"tools", "rejected_tools", "info"})
"""Columns that a table may hold as JSON text, because their rows differ in shape."""
_DECODER: Final = json.JSONDecoder()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a file.

    Attributes:
        number: Its line, or its place counted from 1.
        unit: What `number` counts.
        line: The line it begins in, in a file of text.
        content: What it holds, or the error that says why nobody can tell.
    """

    number: int
    unit: Literal["line", "item", "row"]
    line: int | None
    content: object

    @property
    def default_id(self) -> str:
        """What a record without an id is called."""
        return f"{self.unit}-{self.number}"

    def error(self, message: str, path: Path) -> DataError:
        """An error that says where the row is."""
        place = "" if self.unit == "line" else f"{self.unit} {self.number}: "
        return DataError(place + message, path=path, line=self.line)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The rows of a file.

    Attributes:
        total: How many there are at most; None when nobody knows before the end.
        rows: They, one after the other.
    """

    total: int | None
    rows: Iterator[Row]


def open_rows(path: Path, *, split: str | None = None) -> Rows:
    """The rows of a file or of a saved dataset; the content decides which kind it is, not the name.

    Args:
        path: The file or folder.
        split: Of a dataset with several splits, the one to read.

    Raises:
        DataError: It cannot be read.
        ConfigError: The split is missing, or there is none of this name.
        MissingExtraError: The package that reads tables is not installed.
    """
    if path.is_dir():
        return _saved_dataset(path, split)
    if split is not None:
        raise ConfigError(f"--dataset-split is for saved datasets, and {path} is a file; leave it out")
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror}); check the path", path=path) from None
    if start.startswith(_PARQUET):
        return _parquet(path)
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[") and not _is_line(start):
        return Rows(total=None, rows=_array(path))
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")[0].strip() == b"{":
        return Rows(total=None, rows=_objects(path))
    return Rows(total=_count_lines(path), rows=_lines(path))


def has_rollout_header(path: Path) -> bool:
    """Whether a file is one that a rollout writes: a header, then an episode in each line."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_HEADER)) == _HEADER


def _is_line(start: bytes) -> bool:
    """Whether a text that begins with a bracket is JSONL with a list in its first line, and no array."""
    first, _, rest = start.partition(b"\n")
    try:
        value = json.loads(first.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return False
    return bool(rest.strip()) or (value != [] and not any(isinstance(item, Mapping) for item in value))


def _count_lines(path: Path) -> int:
    """The lines of a text, the last one too where nothing ends it."""
    count, block = 0, b"\n"
    with path.open("rb") as file:
        while more := file.read(1 << 20):
            count, block = count + more.count(b"\n"), more
    return count + (not block.endswith(b"\n"))


def _lines(path: Path) -> Iterator[Row]:
    """JSONL. A rollout file's header is passed over, and so is what a crash left of its last line."""
    rollouts = has_rollout_header(path)
    for number, content in json_lines(path):
        if rollouts and number == 1:
            continue
        if not (rollouts and isinstance(content, DataError) and _last_and_cut_off(path, number)):
            yield Row(number=number, unit="line", line=number, content=content)


def _last_and_cut_off(path: Path, number: int) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n" and number == _count_lines(path)


def _objects(path: Path) -> Iterator[Row]:
    """JSON objects, one after the other, that are written over several lines each."""
    text = _whole_text(path)
    at, line = _skip(text, 0)
    number = 0
    while at < len(text):
        number += 1
        content, end = _item(text, at, number=number, path=path, line=line)
        yield Row(number=number, unit="item", line=line + 1, content=content)
        line += text.count("\n", at, end)
        at, more = _skip(text, end)
        line += more


def _array(path: Path) -> Iterator[Row]:
    """The items of a JSON array, each with the line it begins in."""
    text = _whole_text(path)
    at, line = _skip(text, text.index("[") + 1)
    line += text.count("\n", 0, text.index("["))
    number = 0
    while at < len(text) and text[at] != "]":
        number += 1
        content, end = _item(text, at, number=number, path=path, line=line)
        yield Row(number=number, unit="item", line=line + 1, content=content)
        line += text.count("\n", at, end)
        at, more = _skip(text, end)
        line += more
        if at < len(text) and text[at] == ",":
            at, more = _skip(text, at + 1)
            line += more
        elif at < len(text) and text[at] != "]":
            raise DataError(f"a comma is missing after item {number}; fix it", path=path, line=line + 1)
    if at >= len(text):
        raise DataError("the array has no end; the file is cut off, so write it again", path=path)
    at, more = _skip(text, at + 1)
    if at < len(text):
        raise DataError(
            "something follows the end of the array; write one array, or JSONL",
            path=path,
            line=line + more + 1,
        )


def _whole_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 text ({error.reason}); save it as UTF-8", path=path) from None


def _item(text: str, at: int, *, number: int, path: Path, line: int) -> tuple[object, int]:
    """The JSON value that begins somewhere in a text, and where it ends."""
    try:
        return _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError) as error:
        line += _lines_into(error, at, text)
        raise DataError(f"item {number}: is not JSON ({error}); fix it", path=path, line=line + 1) from None


def _lines_into(error: Exception, at: int, text: str) -> int:
    return text.count("\n", at, error.pos) if isinstance(error, json.JSONDecodeError) else 0


def _skip(text: str, at: int) -> tuple[int, int]:
    """The next character that is no white space, and the line ends before it."""
    begin = at
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at, text.count("\n", begin, at)


def _parquet(path: Path) -> Rows:
    try:
        import pyarrow.parquet
        from datasets import Features
    except ImportError as error:
        raise _missing("a Parquet file", error) from None
    try:
        file = pyarrow.parquet.ParquetFile(path)
        features = Features.from_arrow_schema(file.schema_arrow)
    except (pyarrow.ArrowException, ValueError, OSError) as error:
        raise _unreadable_table(path, error) from None

    def records() -> Iterator[Any]:
        try:
            for batch in file.iter_batches(batch_size=256):
                yield from (features.decode_example(record) for record in batch.to_pylist())
        except (pyarrow.ArrowException, ValueError, OSError) as error:
            raise _unreadable_table(path, error) from None

    return Rows(total=file.metadata.num_rows, rows=_table_rows(records()))


def _unreadable_table(path: Path, error: Exception) -> DataError:
    return DataError(
        f"is not a Parquet file that can be read ({_one_line(error)}); write it again", path=path
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _saved_dataset(path: Path, split: str | None) -> Rows:
    try:
        import datasets
    except ImportError as error:
        raise _missing("a saved dataset", error) from None
    if not (path / "state.json").is_file() and not (path / "dataset_dict.json").is_file():
        raise DataError("is a folder and no dataset that `save_to_disk` wrote; name a file in it", path=path)
    try:
        table = datasets.load_from_disk(str(path))
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DataError(
            f"is no dataset that can be read ({_one_line(error)}); save it again", path=path
        ) from None
    if isinstance(table, datasets.DatasetDict):
        names = ", ".join(table)
        if split is None and len(table) > 1:
            raise ConfigError(f"{path} has the splits {names}; choose one with --dataset-split")
        if split is not None and split not in table:
            raise ConfigError(f"--dataset-split: {path} has no split {split!r}; use one of {names}")
        table = table[split or next(iter(table))]
    elif split is not None:
        raise ConfigError(f"--dataset-split: {path} has no splits; leave it out")
    return Rows(total=len(table), rows=_table_rows(iter(table)))


def _table_rows(records: Iterator[Any]) -> Iterator[Row]:
    for number, record in enumerate(records, start=1):
        content = {
            key: _from_text(value) if key in _JSON_TEXT else _plain(value)
            for key, value in record.items()
            if value is not None
        }
        yield Row(number=number, unit="row", line=None, content=content)


def _from_text(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return _plain(value)


def _plain(value: Any) -> Any:
    """A cell as JSON has it. A table gives every object the fields of all, so null means none there."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _missing(what: str, error: ImportError) -> MissingExtraError:
    return MissingExtraError(f"reading {what}", extra="data", missing=error.name or "datasets")
