"""JSONL files of trajectories and preference pairs; every complaint names file and line."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from multiturn.errors import DataError
from multiturn.files import whole_file
from multiturn.trajectory import PreferencePair, Trajectory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["json_lines", "read_pairs", "read_trajectories", "write_jsonl"]

_Parsed = TypeVar("_Parsed")


def read_trajectories(path: Path | str) -> list[Trajectory]:
    """Read a JSONL file of trajectories.

    Raises:
        DataError: The file is missing or a line is not a trajectory; the message names file and line.
    """
    return [_located(Trajectory.from_json, record, path, line) for line, record in json_lines(Path(path))]


def read_pairs(path: Path | str) -> list[PreferencePair]:
    """Read a JSONL file of preference pairs.

    Raises:
        DataError: The file is missing or empty, or a line is not a pair; the message names file and line.
    """
    pairs: list[PreferencePair] = []
    for line, record in json_lines(Path(path)):
        parse = functools.partial(PreferencePair.from_json, default_id=f"line-{line}")
        pairs.append(_located(parse, record, path, line))
    if not pairs:
        raise DataError("holds no pairs; there is nothing to train on", path=path)
    return pairs


def write_jsonl(path: Path | str, records: Iterable[Trajectory | PreferencePair]) -> None:
    """Write records to a JSONL file, all or nothing: a crash leaves the old file or the new one."""
    with whole_file(Path(path), errors="backslashreplace") as file:
        for record in records:
            file.write(json.dumps(record.to_json(), ensure_ascii=False) + "\n")


def json_lines(path: Path) -> Iterator[tuple[int, object]]:
    """The lines of a JSONL file that are not empty, parsed, one after the other.

    Yields:
        The line's number, from 1, and what it holds. A line that is no JSON comes as a `DataError` that
        says so, without the place, for the reader to raise or to count.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror}); check the path", path=path) from None
    with file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                # Decoded line by line, so that a bad byte is reported where it stands.
                record = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                record = DataError(f"is not JSON ({error}); fix or delete the line")
            yield number, record


def _located(parse: Callable[[object], _Parsed], record: object, path: Path | str, line: int) -> _Parsed:
    """Parse one record; an error learns the file and line it came from."""
    try:
        if isinstance(record, DataError):
            raise record
        return parse(record)
    except DataError as error:
        raise DataError(str(error), path=path, line=line) from None
