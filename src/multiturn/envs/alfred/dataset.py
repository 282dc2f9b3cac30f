"""The files of the real ALFWorld games, in their two layouts; games are read when they are asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import lzma
import os
import re
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from multiturn.envs.alfred.games import TASK_TYPES
from multiturn.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["DATA_VARIABLE", "SPLITS", "Entry", "RawGame", "SplitFiles", "open_splits"]

DATA_VARIABLE = "MULTITURN_ALFWORLD_DATA"
SPLITS = ("train", "valid_seen", "valid_unseen")

_COUNTED = "(receptacleAtLocation "
_TASK = re.compile(r"Your task is to: (.*?)\.?\\?\"")
_CACHE_VERSION = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A game that can be read.

    Attributes:
        id: ``"<folder>/<trial>"``, as ALFWorld names its games.
        receptacles: How many receptacles the room has.
    """

    id: str
    receptacles: int

    @property
    def task_type(self) -> str:
        """The task type, which the id begins with."""
        return self.id.partition("-")[0]


@dataclasses.dataclass(frozen=True, slots=True)
class RawGame:
    """A game as its file has it.

    Attributes:
        task: The goal sentence.
        pddl: The problem.
        moves: Whether the file's own grammar says "move X to Y" instead of "put X in/on Y".
    """

    task: str
    pddl: str
    moves: bool = False


class SplitFiles(Protocol):
    """The games of one split."""

    @property
    def entries(self) -> Sequence[Entry]:
        """All games, in no particular order."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes with the files."""
        ...

    def read(self, game_id: str) -> RawGame:
        """Read one game."""
        ...


def open_splits(path: str | Path | None) -> dict[str, SplitFiles]:
    """Find the games.

    Args:
        path: A folder with ``<split>.jsonl.xz`` files, or the data folder of ALFWorld itself, which holds
            ``json_2.1.1/<split>/<folder>/<trial>/game.tw-pddl``; None for the folder that the environment
            variable ``MULTITURN_ALFWORLD_DATA`` names.

    Returns:
        Split -> its files, for those splits that are there.

    Raises:
        ConfigError: No folder is given, or there are no games in it.
    """
    path = path or os.environ.get(DATA_VARIABLE)
    if not path:
        raise ConfigError(
            "alfworld needs the files of the ALFWorld games: set the environment variable "
            f"{DATA_VARIABLE}, or the option `path`, to the folder that holds them (json_2.1.1/train/... "
            "as ALFWorld's own download makes it, or train.jsonl.xz)"
        )
    root = Path(path).expanduser()
    if not root.is_dir():
        raise ConfigError(f"alfworld: {root} is not a folder; set {DATA_VARIABLE} or the option `path`")
    splits: dict[str, SplitFiles] = {}
    for split in SPLITS:
        compact = root / f"{split}.jsonl.xz"
        folders = [folder for folder in (root / split, *root.glob(f"json_2.1.*/{split}")) if folder.is_dir()]
        if compact.is_file():
            splits[split] = _CompactFiles(compact)
        elif folders:
            splits[split] = _GameFolders(max(folders))
    if not splits:
        raise ConfigError(
            f"alfworld: there are no games in {root}: neither json_2.1.1/<split>/ nor <split>.jsonl.xz for a "
            f"split of {', '.join(SPLITS)}; set {DATA_VARIABLE} or the option `path` to the right folder"
        )
    return splits


class _CompactFiles:
    """A ``.jsonl.xz`` file with a game in each row: id, task, pddl.

    An xz file can only be read from its beginning. So its games go once into a zip archive in the cache
    folder, from which each can be read alone.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        self._open: tuple[zipfile.ZipFile, tuple[Entry, ...]] | None = None

    @property
    def fingerprint(self) -> str:
        return self._digest

    @property
    def entries(self) -> Sequence[Entry]:
        return self._opened()[1]

    def read(self, game_id: str) -> RawGame:
        archive = self._opened()[0]
        try:
            record = json.loads(archive.read(game_id))
        except (OSError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(
                f"is damaged ({error}); delete it, and it will be made anew", path=archive.filename
            ) from error
        return RawGame(task=record["task"], pddl=record["pddl"])

    def _opened(self) -> tuple[zipfile.ZipFile, tuple[Entry, ...]]:
        if self._open is None:
            name = f"{self._path.name.partition('.')[0]}-{self._digest}-{_CACHE_VERSION}.zip"
            cached = _cache_folder() / name
            try:
                self._open = _index(zipfile.ZipFile(cached))
            except (OSError, zipfile.BadZipFile, KeyError, ValueError):
                self._open = _index(self._build(cached))
        return self._open

    def _build(self, cached: Path) -> zipfile.ZipFile:
        """Make the archive: in the cache folder or, where one cannot write, in memory."""
        partial = cached.with_name(f"{cached.name}.{os.getpid()}.partial")
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            self._write(partial)
            partial.replace(cached)
            return zipfile.ZipFile(cached)
        except OSError:
            buffer = io.BytesIO()
            self._write(buffer)
            return zipfile.ZipFile(buffer)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)

    def _write(self, target: Path | io.BytesIO) -> None:
        index = []
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for game_id, line in self._rows():
                archive.writestr(game_id, line)
                index.append((game_id, line.count(_COUNTED)))
            archive.writestr("index", json.dumps(index))

    def _rows(self) -> Iterator[tuple[str, str]]:
        """The id and the text of each row."""
        number = 1
        try:
            with lzma.open(self._path, "rt", encoding="utf-8") as file:
                for line in file:
                    if line.strip():
                        yield _row_id(line), line
                    number += 1
        except (ValueError, KeyError, TypeError, lzma.LZMAError, EOFError) as error:
            raise DataError(
                f"is not a row of an ALFWorld game with id, task and pddl ({error!r})",
                path=self._path,
                line=number,
            ) from error


def _row_id(line: str) -> str:
    record = json.loads(line)
    game_id, task, pddl = record["id"], record["task"], record["pddl"]
    if not all(isinstance(value, str) for value in (game_id, task, pddl)):
        raise TypeError("id, task and pddl have to be texts")
    return str(game_id)


def _index(archive: zipfile.ZipFile) -> tuple[zipfile.ZipFile, tuple[Entry, ...]]:
    index = json.loads(archive.read("index"))
    return archive, tuple(Entry(game_id, receptacles) for game_id, receptacles in index)


class _GameFolders:
    """ALFWorld's own layout: ``<folder>/<trial>/game.tw-pddl`` under the folder of the split."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files = sorted(
            path
            for path in root.glob("*/*/game.tw-pddl")
            # As in ALFWorld itself, which does not support these tasks.
            if "movable" not in path.parts[-3] and "Sliced" not in path.parts[-3]
        )
        self._entries: tuple[Entry, ...] | None = None

    @property
    def fingerprint(self) -> str:
        listing = [(path.relative_to(self._root).as_posix(), path.stat().st_size) for path in self._files]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]

    @property
    def entries(self) -> Sequence[Entry]:
        if self._entries is None:
            self._entries = tuple(self._list())
        return self._entries

    def _list(self) -> Iterator[Entry]:
        for path in self._files:
            text = path.read_text(encoding="utf-8")
            game_id = path.parent.relative_to(self._root).as_posix()
            if '"solvable": false' not in text and game_id.partition("-")[0] in TASK_TYPES:
                yield Entry(game_id, text.count(_COUNTED))

    def read(self, game_id: str) -> RawGame:
        path = self._root / game_id / "game.tw-pddl"
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            grammar, pddl = data["grammar"], data["pddl_problem"]
            task = _TASK.search(grammar)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"is not a game of ALFWorld ({error!r})", path=path) from error
        if task is None:
            raise DataError('is not a game of ALFWorld: its grammar has no "Your task is to: ..."', path=path)
        return RawGame(task=f"{task[1].strip()}.", pddl=pddl, moves="move {o} to {r}" in grammar)


def _cache_folder() -> Path:
    base = os.environ.get("MULTITURN_CACHE")
    return (Path(base).expanduser() if base else Path.home() / ".cache" / "multiturn") / "alfworld"
