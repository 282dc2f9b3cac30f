"""Rows into files: JSONL, a JSON array or Parquet, by the name's end; all or nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from multiturn.errors import DataError, MissingExtraError
from multiturn.files import partial_of, whole_file

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["write_records"]


def write_records(path: Path, records: Iterator[dict[str, Any]]) -> None:
    """Write records to a file.

    Args:
        path: The file: ``.json`` becomes one array, ``.parquet`` a table, anything else JSONL.
        records: The records. Only a table needs all of them in memory.

    Raises:
        DataError: The records do not fit into a table.
        MissingExtraError: The package that writes tables is not installed.
    """
    if path.suffix == ".parquet":
        _write_table(path, list(records))
        return
    array = path.suffix == ".json"
    with whole_file(path, errors="backslashreplace") as file:
        separator = "[\n" if array else ""
        for record in records:
            file.write(separator + json.dumps(record, ensure_ascii=False) + ("" if array else "\n"))
            separator = ",\n" if array else ""
        if array:
            file.write("[]\n" if separator == "[\n" else "\n]\n")


def _write_table(path: Path, records: list[dict[str, Any]]) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        missing = error.name or "pyarrow"
        raise MissingExtraError("writing a Parquet file", extra="data", missing=missing) from None
    if any(_objects_as_arguments(record) for record in records):
        # A table would give the arguments of every call the keys of all calls.
        raise DataError(
            "cannot be written as a table: the arguments of its tool calls are objects of many shapes; name "
            "it .jsonl, or use --to openai",
            path=path,
        )
    names = list(dict.fromkeys(name for record in records for name in record))
    columns = {name: [_cell(name, record.get(name)) for record in records] for name in names}
    partial = partial_of(path)
    try:
        table = pa.table(columns)
        with partial.open("wb") as file:
            pq.write_table(table, file)
            file.flush()
            os.fsync(file.fileno())
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise DataError(f"cannot be written as a table ({error}); name it .jsonl", path=path) from None
    partial.replace(path)


def _cell(name: str, value: Any) -> Any:
    """A cell; what differs in shape from row to row goes in as JSON text."""
    if name in {"tools", "info"}:
        return (
            json.dumps(value, ensure_ascii=False) if value and not isinstance(value, str) else value or None
        )
    return value


def _objects_as_arguments(value: Any) -> bool:
    if isinstance(value, Mapping):
        return isinstance(value.get("arguments"), Mapping) or any(
            _objects_as_arguments(item) for key, item in value.items() if key not in {"tools", "info"}
        )
    return isinstance(value, list | tuple) and any(_objects_as_arguments(item) for item in value)
