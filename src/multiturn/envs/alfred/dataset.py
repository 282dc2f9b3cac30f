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

from multiturn.cache import cache_root
from multiturn.envs.alfred.games import TASK_TYPES
from multiturn.envs.alfred.logic import Logic
from multiturn.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["DATA_VARIABLE", "SPLITS", "Entry", "RawGame", "SplitFiles", "open_splits"]

DATA_VARIABLE = "MULTITURN_ALFWORLD_DATA"
SPLITS = ("train", "valid_seen", "valid_unseen")

_COUNTED = "(receptacleAtLocation "
_TASK = re.compile(r"Your task is to: (.*?)\.?\\?\"")
_SOLVABLE = re.compile(r'"solvable"\s*:\s*(true|false)\b')
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
        logic: The rules and sentences that the file brings; None if it brings none.
    """

    task: str
    pddl: str
    logic: Logic | None = None


class SplitFiles(Protocol):
    """The games of one split."""

    @property
    def entries(self) -> Sequence[Entry]:
        """All games, in no particular order."""
        ...

    @property
    def logic(self) -> Logic | None:
        """The rules and sentences that the first of the games brings; None if it brings none."""
        ...

    @property
    def unsolvable(self) -> Sequence[str]:
        """The ids of the games that are left out because their files say that they cannot be won."""
        ...

    @property
    def unmarked(self) -> Sequence[str]:
        """The ids of the games whose files do not say whether they can be won."""
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
        # In this form only solvable games are kept, without rules of their own.
        self.logic: Logic | None = None
        self.unsolvable: Sequence[str] = ()
        self.unmarked: Sequence[str] = ()
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
            cached = cache_root() / "alfworld" / name
            self._open = _indexed(cached) or _index(self._build(cached))
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
        seen: set[str] = set()
        try:
            with lzma.open(self._path, "rt", encoding="utf-8") as file:
                for line in file:
                    if line.strip():
                        yield _new_id(line, seen), line
                    number += 1
        except (ValueError, KeyError, TypeError, RecursionError, lzma.LZMAError, EOFError) as error:
            raise DataError(
                f"is not a row of an ALFWorld game with id, task and pddl ({error!r})",
                path=self._path,
                line=number,
            ) from error


def _new_id(line: str, seen: set[str]) -> str:
    """The id of a row, which is added to those that were `seen`."""
    record = json.loads(line)
    game_id, task, pddl = record["id"], record["task"], record["pddl"]
    if not all(isinstance(value, str) for value in (game_id, task, pddl)):
        raise TypeError("id, task and pddl have to be texts")
    if game_id in seen:
        raise ValueError(f"the id {game_id!r} stands in an earlier row already")
    seen.add(game_id)
    return str(game_id)


def _indexed(cached: Path) -> tuple[zipfile.ZipFile, tuple[Entry, ...]] | None:
    """An archive that was made before; None where there is none that can be read."""
    try:
        archive = zipfile.ZipFile(cached)
    except (OSError, zipfile.BadZipFile):
        return None
    try:
        return _index(archive)
    except (OSError, zipfile.BadZipFile, zlib.error, KeyError, ValueError, TypeError):
        archive.close()
        return None


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
        self._found: tuple[tuple[Entry, bool | None], ...] | None = None

    @property
    def fingerprint(self) -> str:
        listing = [(path.relative_to(self._root).as_posix(), path.stat().st_size) for path in self._files]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]

    @property
    def entries(self) -> Sequence[Entry]:
        return tuple(entry for entry, solvable in self._list() if solvable is not False)

    @property
    def logic(self) -> Logic | None:
        if not self._files:
            return None
        try:
            return self.read(self._files[0].parent.relative_to(self._root).as_posix()).logic
        except DataError:
            return None

    @property
    def unsolvable(self) -> Sequence[str]:
        return tuple(entry.id for entry, solvable in self._list() if solvable is False)

    @property
    def unmarked(self) -> Sequence[str]:
        return tuple(entry.id for entry, solvable in self._list() if solvable is None)

    def _list(self) -> tuple[tuple[Entry, bool | None], ...]:
        """The games of the known types, and whether they can be won, where their files say it."""
        if self._found is None:
            self._found = tuple(self._read_headers())
        return self._found

    def _read_headers(self) -> Iterator[tuple[Entry, bool | None]]:
        for path in self._files:
            text = path.read_text(encoding="utf-8", errors="replace")
            game_id = path.parent.relative_to(self._root).as_posix()
            solvable = _SOLVABLE.search(text)
            if game_id.partition("-")[0] in TASK_TYPES:
                entry = Entry(game_id, text.count(_COUNTED))
                yield entry, None if solvable is None else solvable[1] == "true"

    def read(self, game_id: str) -> RawGame:
        path = self._root / game_id / "game.tw-pddl"
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            logic = Logic(domain=str(data.get("pddl_domain", "")), grammar=data["grammar"])
            pddl, task = data["pddl_problem"], _TASK.search(logic.grammar)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"is not a game of ALFWorld ({error!r})", path=path) from error
        if task is None:
            raise DataError('is not a game of ALFWorld: its grammar has no "Your task is to: ..."', path=path)
        return RawGame(task=f"{task[1].strip()}.", pddl=pddl, logic=logic)
