"""The file of a rollout: append-only JSONL that survives ``kill -9`` and knows whose episodes it holds.

The first line is the header; every other line is one trajectory, written by a single write before the next
episode counts as done. A line that a crash cut off is dropped when the file is opened again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeGuard

from multiturn.errors import DataError, RunStateError
from multiturn.jsonl import read_trajectories
from multiturn.trajectory import Trajectory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    from multiturn.trajectory import Json

if sys.platform != "win32":
    import fcntl

__all__ = ["RolloutStore", "StoreHeader", "read_episodes", "read_rollouts"]

_FORMAT: Final = 1
_SYNC_SECONDS: Final = 0.1
"""Seconds between two waits for the disk; each takes about as long as an episode of a text game."""
_HEADER_START: Final = b'{"rollouts": '
"""How every header begins: what a crash left of one is told by it from a file of another kind."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoreHeader:
    """What all episodes of a file have in common.

    Attributes:
        environment: The environment's fingerprint.
        agent: The agent's fingerprint.
        settings: Everything else that decides how an episode goes.
    """

    environment: str
    agent: str
    settings: Mapping[str, Json] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        """The header as JSON."""
        return {
            "rollouts": _FORMAT,
            "environment": self.environment,
            "agent": self.agent,
            "settings": dict(self.settings),
        }


class RolloutStore:
    """A file of episodes, open for appending. One process at a time.

    Args:
        path: The file; it and its folder are made if need be.
        header: Whose episodes these are.

    Attributes:
        path: The file.
        dropped: The lines dropped on opening because a crash had cut them off: 0 or 1.

    Raises:
        RunStateError: The file holds episodes of another header, or another process has it open.
        DataError: The file is of another kind, or damaged other than at its end. It is left as it is.
    """

    def __init__(self, path: Path | str, header: StoreHeader) -> None:
        self.path = Path(path)
        self.dropped = 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._synced_at = -math.inf
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            self._lock()
            self._kept = self._recover(header)
        except BaseException:
            os.close(self._fd)
            raise
        self._closed = False

    @property
    def done_ids(self) -> frozenset[str]:
        """The ids of the trajectories in the file."""
        return frozenset(self._kept)

    def append(self, trajectory: Trajectory) -> None:
        """Add a trajectory; when this returns, no end of this process loses it.

        A power cut may lose those that followed another within a tenth of a second, while the file is open.

        Raises:
            RunStateError: The file holds a trajectory of this id already.
        """
        if trajectory.id in self._kept:
            raise RunStateError(f"{self.path} holds trajectory {trajectory.id!r} already")
        self._write(trajectory.to_json())
        self._kept[trajectory.id] = trajectory

    def trajectories(self) -> list[Trajectory]:
        """The trajectories, in the order of their jobs."""
        return _in_order(self._kept)

    def close(self) -> None:
        """Close the file and let others have it. May be called twice."""
        if not self._closed:
            self._closed = True
            try:
                os.fsync(self._fd)
            finally:
                os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self) -> None:
        if sys.platform == "win32":
            return
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunStateError(
                f"{self.path} is being written by another process; wait for it to end, or write elsewhere"
            ) from None

    def _recover(self, header: StoreHeader) -> dict[str, Trajectory]:
        """Check the header, cut off what a crash left behind, and return what is there, by id.

        Nothing is cut off before it is clear that the file is one of rollouts: it may be somebody's notes.
        """
        content = _read_all(self._fd)
        end = content.rfind(b"\n") + 1
        wanted = header.to_json()
        kept: dict[str, Trajectory] = {}
        if end:
            lines = list(_lines(content[:end], self.path))
            _compare(lines[0][1] if lines else None, json.loads(json.dumps(wanted)), self.path)
            kept = _by_id(_parse(lines[1:], self.path))
        elif not _HEADER_START.startswith(content[: len(_HEADER_START)]):
            raise _no_header(self.path)
        self.dropped = int(end < len(content))
        if self.dropped:
            os.ftruncate(self._fd, end)
            os.fsync(self._fd)
        if not end:
            self._write(wanted)
            _sync_folder(self.path.parent)
        return kept

    def _write(self, record: Mapping[str, Json]) -> None:
        line = memoryview(_encode(record))
        while line:
            # A disk that is nearly full may take a part only.
            line = line[os.write(self._fd, line) :]
        now = time.monotonic()
        if now - self._synced_at >= _SYNC_SECONDS:
            os.fsync(self._fd)
            self._synced_at = now


def read_rollouts(path: Path | str) -> list[Trajectory]:
    """The trajectories of a file, in the order of their jobs, whatever order they came to their ends in.

    The file may be open elsewhere, and may end in a line that a crash cut off.

    Raises:
        DataError: The file is missing, is not a rollout file, or a line is damaged.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror}); check the path", path=path) from None
    lines = list(_lines(content[: content.rfind(b"\n") + 1], path))
    if not lines or not _is_header(lines[0][1]):
        raise _no_header(path)
    return _in_order(_by_id(_parse(lines[1:], path)))


def read_episodes(path: Path | str) -> list[Trajectory]:
    """The trajectories of a file that a rollout wrote, or of plain JSONL with one trajectory a line.

    Raises:
        DataError: The file is missing, or a line is not a trajectory; the message names file and line.
    """
    try:
        with Path(path).open("rb") as file:
            first = next(_lines(file.readline(), Path(path)), (1, None))[1]
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror}); check the path", path=path) from None
    return read_rollouts(path) if _is_header(first) else read_trajectories(path)


def _by_id(trajectories: Sequence[Trajectory]) -> dict[str, Trajectory]:
    """The trajectories by id; of several with one id the first."""
    return {t.id: t for t in reversed(trajectories)}


def _in_order(kept: Mapping[str, Trajectory]) -> list[Trajectory]:
    return sorted(kept.values(), key=lambda t: (_job_number(t), t.id))


def _job_number(trajectory: Trajectory) -> float:
    number = trajectory.info.get("job")
    return float(number) if isinstance(number, int | float) else float("inf")


def _encode(record: Mapping[str, Json]) -> bytes:
    try:
        return (json.dumps(record, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:
        # Half a surrogate pair, which a tokenizer can leave behind, exists in JSON's escapes only.
        return (json.dumps(record) + "\n").encode()


def _read_all(fd: int) -> bytes:
    os.lseek(fd, 0, os.SEEK_SET)
    with open(fd, "rb", closefd=False) as file:
        return file.read()


def _lines(content: bytes, path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"is not JSON ({error}); delete the line and run again", path=path, line=number
            ) from None


def _parse(lines: Sequence[tuple[int, Any]], path: Path) -> list[Trajectory]:
    trajectories = []
    for number, record in lines:
        try:
            trajectories.append(Trajectory.from_json(record))
        except DataError as error:
            raise DataError(str(error), path=path, line=number) from None
    return trajectories


def _is_header(record: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(record, dict) and "rollouts" in record


def _no_header(path: Path) -> DataError:
    return DataError(
        "is not a file of rollouts: its first line is not their header; check the path", path=path, line=1
    )


def _compare(found: object, wanted: Mapping[str, Any], path: Path) -> None:
    """Refuse a header that differs.

    Raises:
        RunStateError: It does; the message lists the differences.
        DataError: It is not a header.
    """
    if not _is_header(found):
        raise _no_header(path)
    old, new = _flat(found), _flat(wanted)
    changes = [
        f"  {key}: {old.get(key)!r} in the file, {new.get(key)!r} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if changes:
        raise RunStateError(
            f"{path} holds episodes that were played otherwise; they are never mixed:\n"
            + "\n".join(changes)
            + "\nwrite to another file, or delete this one to play its episodes again"
        )


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    settings = record.get("settings")
    flat = {key: value for key, value in record.items() if key != "settings"}
    return flat | {f"settings.{k}": v for k, v in (settings if isinstance(settings, dict) else {}).items()}


def _sync_folder(folder: Path) -> None:
    """Make a new file's name survive a power cut, where the system can do that."""
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
