"""The two environments of the ALFRED text domain: generated games and the real ones of ALFWorld."""

from __future__ import annotations

import abc
import hashlib
import json
import re
from typing import TYPE_CHECKING

from multiturn.envs.alfred.dataset import SPLITS as ALFWORLD_SPLITS
from multiturn.envs.alfred.dataset import open_splits
from multiturn.envs.alfred.engine import Engine
from multiturn.envs.alfred.expert import LIKELY, Expert
from multiturn.envs.alfred.games import Game
from multiturn.envs.alfred.generator import generate
from multiturn.envs.alfred.pddl import parse_problem
from multiturn.envs.alfred.pruning import prune
from multiturn.envs.alfred.text import BANNER, MOVE, NOTHING_HAPPENS, PUT, Grammar
from multiturn.envs.base import Step, Task
from multiturn.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from multiturn.envs.alfred.dataset import SplitFiles
    from multiturn.envs.alfred.generator import HouseholdSettings
    from multiturn.envs.base import ExpertAction

__all__ = ["AlfredEnvironment", "AlfworldEnvironment", "HouseholdEnvironment"]

_ENGINE_VERSION = 1  # raise it whenever the engine answers differently

_INSTRUCTIONS = (
    "You are in a house and have to do a task. The commands are: go to X, open X, close X, take O from X, "
    "{put}, use O, clean O with X, heat O with X, cool O with X, slice O with O, examine X, look, inventory. "
    'O and X stand for an object and a place with their numbers, like "mug 1" and "fridge 1". '
    "Give one command in each turn."
)


class AlfredEnvironment(abc.ABC):
    """What both environments share: an `Environment` around the engine and the expert.

    - The first observation is what there is in the room, and the task. The simulator's banner
      ("-= Welcome to TextWorld, ALFRED! =-") is left out: it costs tokens and says nothing.
    - The step that wins has the reward 1, all others 0. Only winning ends an episode.
    - A step is invalid exactly when the game answers "Nothing happens.".

    Args:
        name: What reports call it.
        fingerprint: What the answers depend on besides the engine.
        grammar: The wording that the instructions describe.
        max_turns: The number of turns after which an episode should be stopped.
        admissible: Whether each step's ``info`` has the ``admissible_commands``. They tell where things
            are, so an agent must not see them if its results are to be comparable.
        search: How the expert looks for things (`SEARCHES`). Trajectories of different experts do not mix, so
            the fingerprint says it.
    """

    def __init__(
        self,
        *,
        name: str,
        fingerprint: str,
        grammar: Grammar,
        max_turns: int,
        admissible: bool,
        search: str,
    ) -> None:
        self.name = name
        self.fingerprint = f"{name}-{_ENGINE_VERSION}-{fingerprint}"
        if search != LIKELY:
            self.fingerprint += f"-{search}"
        self._search = search
        put = grammar.put.format(object="O", receptacle="X")
        self.instructions = _INSTRUCTIONS.format(put=put)
        self.invalid_observation = NOTHING_HAPPENS
        self._max_turns = max_turns
        self._admissible = admissible
        self._engine: Engine | None = None
        self._expert: Expert | None = None

    @property
    def max_turns(self) -> int:
        """The number of turns after which an episode should be stopped."""
        return self._max_turns

    @abc.abstractmethod
    def tasks(self, split: str) -> Sequence[Task]:
        """The tasks of a split.

        Raises:
            ConfigError: There is no such split.
        """

    @abc.abstractmethod
    def game(self, task_id: str) -> Game:
        """The game of a task.

        Raises:
            ConfigError: There is no such task.
        """

    def reset(self, task_id: str) -> Step:
        """Start a game.

        Raises:
            ConfigError: There is no such task.
        """
        game = self.game(task_id)
        self._engine = Engine(game.problem, game.task, game.grammar)
        observation = self._engine.last.observation.removeprefix(BANNER).lstrip("\n")
        self._expert = Expert(observation, game.grammar, search=self._search)
        return self._step(self._engine, observation, reward=0.0)

    def step(self, action: str) -> Step:
        """Enter a command; after the end of a game the last answer comes again, without reward.

        Raises:
            ConfigError: No game was started.
        """
        engine, expert = self._started()
        was_done = engine.last.done
        outcome = engine.step(action)
        if not was_done:
            expert.observe(action, outcome.observation)
        return self._step(engine, outcome.observation, reward=float(outcome.won and not was_done))

    def expert_action(self) -> ExpertAction | None:
        """What the expert would do, from nothing but the observations of this episode so far.

        Raises:
            ConfigError: No game was started.
        """
        engine, expert = self._started()
        return None if engine.last.done else expert.act()

    def close(self) -> None:
        """Forget the game."""
        self._engine = self._expert = None

    def _step(self, engine: Engine, observation: str, *, reward: float) -> Step:
        outcome = engine.last
        return Step(
            observation=observation,
            reward=reward,
            terminated=outcome.done,
            success=outcome.won,
            valid=outcome.valid,
            info={"admissible_commands": list(engine.admissible_commands())} if self._admissible else {},
        )

    def _started(self) -> tuple[Engine, Expert]:
        if self._engine is None or self._expert is None:
            raise ConfigError(f"{self.name}: no game was started; call reset(task_id) first")
        return self._engine, self._expert

    def _no_split(self, split: str, splits: Sequence[str]) -> ConfigError:
        return ConfigError(f"{self.name} has no split {split!r}; it has {', '.join(splits)}")


class HouseholdEnvironment(AlfredEnvironment):
    """Generated household games; see `household` for the options."""

    def __init__(
        self,
        settings: HouseholdSettings,
        *,
        counts: dict[str, int],
        max_turns: int,
        admissible: bool = False,
        search: str = LIKELY,
    ) -> None:
        super().__init__(
            name="household",
            fingerprint=settings.fingerprint,
            grammar=settings.grammar,
            max_turns=max_turns,
            admissible=admissible,
            search=search,
        )
        self._settings = settings
        self._counts = counts

    def tasks(self, split: str) -> Sequence[Task]:
        """The tasks of ``"train"`` or ``"test"``, types in turn; ids are ``"train/0"`` and so on."""
        if split not in self._counts:
            raise self._no_split(split, tuple(self._counts))
        types = self._settings.task_types
        return [
            Task(id=f"{split}/{index}", split=split, type=types[index % len(types)])
            for index in range(self._counts[split])
        ]

    def game(self, task_id: str) -> Game:
        """Make the game of a task."""
        split, _, number = task_id.partition("/")
        index = int(number) if re.fullmatch(r"0|[1-9][0-9]{0,17}", number) else -1
        if not 0 <= index < self._counts.get(split, 0):
            known = (f"{name}/0 to {name}/{count - 1}" for name, count in self._counts.items() if count)
            raise ConfigError(f"household has no task {task_id!r}; it has {', '.join(known)}")
        return generate(self._settings, split, index)


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
    ) -> None:
        self._splits: dict[str, SplitFiles] = open_splits(path)
        files = {split: files.fingerprint for split, files in self._splits.items()}
        parts = [files, grammar.name if grammar else "as in the files", pruned]
        super().__init__(
            name="alfworld" if pruned is None else f"alfworld-pruned-{pruned[0]}x{pruned[1]}",
            fingerprint=hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16],
            grammar=grammar or PUT,
            max_turns=max_turns,
            admissible=admissible,
            search=search,
        )
        self._grammar = grammar
        self._task_types = task_types
        self._limit = limit
        self._largest_room = largest_room
        self._pruned = pruned
        self._tasks: dict[str, tuple[Task, ...]] = {}
        self._ids: dict[str, frozenset[str]] = {}

    def tasks(self, split: str) -> Sequence[Task]:
        """The tasks of a split, in a fixed order that mixes their types.

        Ids are ``"<split>/<folder>/<trial>"``.

        Raises:
            ConfigError: There is no such split, or its files are not there.
        """
        if split not in self._tasks:
            self._tasks[split] = tuple(self._list(split))
            self._ids[split] = frozenset(task.id for task in self._tasks[split])
        return self._tasks[split]

    def _list(self, split: str) -> list[Task]:
        if split not in ALFWORLD_SPLITS:
            raise self._no_split(split, tuple(self._splits))
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

    def game(self, task_id: str) -> Game:
        """Read the game of a task."""
        split, _, game_id = task_id.partition("/")
        if split not in self._splits or not self.tasks(split) or task_id not in self._ids[split]:
            raise ConfigError(
                f"{self.name} has no task {task_id!r}; ids are <split>/<folder>/<trial>, splits are "
                f"{', '.join(self._splits)}, and the options may leave tasks out"
            )
        raw = self._splits[split].read(game_id)
        try:
            problem = parse_problem(raw.pddl)
        except DataError as error:
            raise DataError(f"the game {task_id!r} cannot be used: {error}") from error
        if self._pruned is not None:
            problem = prune(problem, receptacles=self._pruned[0], objects=self._pruned[1])
        grammar = self._grammar or (MOVE if raw.moves else PUT)
        task_type = game_id.partition("-")[0]
        return Game(task_type=task_type, task=raw.task, problem=problem, grammar=grammar)
