"""The environment with the real games of ALFWorld."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from multiturn.envs.alfred.dataset import SPLITS, open_splits
from multiturn.envs.alfred.environment import PYTHON, AlfredEnvironment
from multiturn.envs.alfred.expert import LIKELY
from multiturn.envs.alfred.game_list import read_ids
from multiturn.envs.alfred.games import Game
from multiturn.envs.alfred.logic import wording_of
from multiturn.envs.alfred.pddl import parse_problem
from multiturn.envs.alfred.pruning import prune
from multiturn.envs.alfred.text import PUT, Grammar
from multiturn.envs.base import Task
from multiturn.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from multiturn.envs.alfred.dataset import SplitFiles
    from multiturn.envs.alfred.logic import Logic

__all__ = ["LISTED_GAMES", "AlfworldEnvironment"]

LISTED_GAMES = "listed"
"""The split that the option ``split_file`` makes."""


class AlfworldEnvironment(AlfredEnvironment):
    """The real games of ALFWorld; see `alfworld` for the options."""

    def __init__(
        self,
        *,
        path: str | Path | None = None,
        grammar: Grammar | None = None,
        task_types: tuple[str, ...],
        limit: int | None = None,
        largest_room: int | None = None,
        pruned: tuple[int, int] | None = None,
        max_turns: int = 40,
        admissible: bool = False,
        search: str = LIKELY,
        banner: bool = True,
        engine: str = PYTHON,
        split_file: str | Path | None = None,
    ) -> None:
        self._splits: dict[str, SplitFiles] = open_splits(path)
        files = {split: files.fingerprint for split, files in self._splits.items()}
        parts = [files, grammar.name if grammar else "as in the files", pruned]
        super().__init__(
            name="alfworld" if pruned is None else f"alfworld-pruned-{pruned[0]}x{pruned[1]}",
            fingerprint=hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16],
            grammar=grammar or _first_wording(self._splits.values()),
            max_turns=max_turns,
            admissible=admissible,
            search=search,
            banner=banner,
            engine=engine,
        )
        self._grammar = grammar
        self._task_types = task_types
        self._limit = limit
        self._largest_room = largest_room
        self._pruned = pruned
        self._split_file = None if split_file is None else Path(split_file).expanduser()
        self._tasks: dict[str, tuple[Task, ...]] = {}
        self._listed_ids: frozenset[str] = frozenset()
        if self._split_file is not None:
            self._tasks[LISTED_GAMES] = tuple(self._read_list(self._split_file))
            self._listed_ids = frozenset(task.id for task in self._tasks[LISTED_GAMES])
        self._ids: dict[str, frozenset[str]] = {}

    def tasks(self, split: str) -> Sequence[Task]:
        """The tasks of a split, in a fixed order that mixes their types.

        Ids are ``"<split>/<folder>/<trial>"``. The split ``"listed"`` has the games of the option
        ``split_file`` in the order of the file, whatever the other options leave out.

        Raises:
            ConfigError: There is no such split, or its files are not there.
        """
        if split not in self._tasks:
            self._tasks[split] = tuple(self._list(split))
        return self._tasks[split]

    def _list(self, split: str) -> list[Task]:
        if split == LISTED_GAMES:
            raise ConfigError("the split 'listed' needs the option `split_file`, a list of game ids")
        if split not in SPLITS:
            listed = () if self._split_file is None else (LISTED_GAMES,)
            raise self._no_split(split, (*self._splits, *listed))
        if split not in self._splits:
            raise ConfigError(
                f"the files of the split {split!r} are not there; the folder has {', '.join(self._splits)}"
            )
        entries = [
            entry
            for entry in self._splits[split].entries
            if entry.task_type in self._task_types
            and (self._largest_room is None or entry.receptacles <= self._largest_room)
        ]
        entries.sort(key=lambda entry: hashlib.sha256(entry.id.encode()).digest())
        chosen = entries if self._limit is None else entries[: self._limit]
        return [Task(id=f"{split}/{entry.id}", split=split, type=entry.task_type) for entry in chosen]

    def _read_list(self, path: Path) -> Iterator[Task]:
        homes = {entry.id: split for split, files in self._splits.items() for entry in files.entries}
        for line, game_id in read_ids(path):
            split = homes.get(game_id)
            if split is None:
                raise DataError(
                    f"there is no game {game_id!r} in the splits that are there ({', '.join(self._splits)}); "
                    "get the files of its split, or take the line out",
                    path=path,
                    line=line,
                )
            yield Task(id=f"{split}/{game_id}", split=LISTED_GAMES, type=game_id.partition("-")[0])

    def game(self, task_id: str) -> Game:
        """Read the game of a task."""
        split, _, game_id = task_id.partition("/")
        if not self._has(split, task_id):
            raise ConfigError(
                f"{self.name} has no task {task_id!r}; ids are <split>/<folder>/<trial>, splits are "
                f"{', '.join(self._splits)}, and the options may leave tasks out"
            )
        raw = self._splits[split].read(game_id)
        try:
            problem = parse_problem(raw.pddl)
        except DataError as error:
            raise DataError(f"the game {task_id!r} cannot be used: {error}") from error
        pruned = self._pruned
        if pruned is not None:
            problem = prune(problem, receptacles=pruned[0], objects=pruned[1])
        own = _wording(raw.logic)
        grammar = self._grammar or own
        return Game(
            task_type=game_id.partition("-")[0],
            task=raw.task,
            problem=problem,
            grammar=grammar,
            pddl=raw.pddl if pruned is None else "",
            logic=raw.logic if raw.logic is not None and raw.logic.domain and grammar == own else None,
        )

    def _has(self, split: str, task_id: str) -> bool:
        if split not in self._splits:
            return False
        if split not in self._ids:
            self._ids[split] = frozenset(task.id for task in self.tasks(split))
        return task_id in self._ids[split] or task_id in self._listed_ids


def _wording(logic: Logic | None) -> Grammar:
    return PUT if logic is None else wording_of(logic.domain, logic.grammar)


def _first_wording(splits: Iterable[SplitFiles]) -> Grammar:
    """How the games are worded, to tell agents before they see one."""
    return _wording(next((logic for files in splits if (logic := files.logic) is not None), None))
