"""What the environments of the ALFRED text domain share, and the one with generated games."""

from __future__ import annotations

import abc
import re
from typing import TYPE_CHECKING

from multiturn.envs.alfred.engine import Engine
from multiturn.envs.alfred.expert import LIKELY, Expert
from multiturn.envs.alfred.generator import generate
from multiturn.envs.alfred.official import OfficialSimulator, official_version
from multiturn.envs.alfred.text import BANNER, NOTHING_HAPPENS
from multiturn.envs.base import Step, Task
from multiturn.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiturn.envs.alfred.games import Game
    from multiturn.envs.alfred.generator import HouseholdSettings
    from multiturn.envs.alfred.official import OfficialEngine
    from multiturn.envs.alfred.text import Grammar
    from multiturn.envs.base import ExpertAction

__all__ = ["ENGINES", "PYTHON", "TEXTWORLD", "AlfredEnvironment", "HouseholdEnvironment"]

PYTHON = "python"
TEXTWORLD = "textworld"
ENGINES = (PYTHON, TEXTWORLD)
"""What can play the games: the engine here, or the official one."""

_ENGINE_VERSION = 1  # raise it whenever the engine answers differently

_INSTRUCTIONS = (
    "You are in a house and have to do a task. The commands are: go to X, open X, close X, take O from X, "
    "{put}, use O, clean O with X, heat O with X, cool O with X, slice O with O, examine X, look, inventory. "
    'O and X stand for an object and a place with their numbers, like "mug 1" and "fridge 1". '
    "Give one command in each turn."
)


class AlfredEnvironment(abc.ABC):
    """What both environments share: an `Environment` around the engine and the expert.

    - The first observation is what there is in the room, and the task. Before it comes, if wanted, the
      simulator's banner ("-= Welcome to TextWorld, ALFRED! =-"), which costs tokens and says nothing.
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
        banner: Whether the first observation begins with the simulator's banner.
        engine: What plays the games (`ENGINES`).

    Raises:
        MissingExtraError: The engine is not installed.
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
        banner: bool,
        engine: str,
    ) -> None:
        self.name = name
        self.fingerprint = f"{name}-{_ENGINE_VERSION}-{fingerprint}"
        if search != LIKELY:
            self.fingerprint += f"-{search}"
        if banner:
            self.fingerprint += "-banner"
        if engine == TEXTWORLD:
            self.fingerprint += f"-{official_version()}"
        self._search = search
        self._banner = banner
        self._official = engine == TEXTWORLD
        put = grammar.put.format(object="O", receptacle="X")
        self.instructions = _INSTRUCTIONS.format(put=put)
        self.invalid_observation = NOTHING_HAPPENS
        self._max_turns = max_turns
        self._admissible = admissible
        self._simulator: OfficialSimulator | None = None
        self._engine: Engine | OfficialEngine | None = None
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
        self._engine = engine = self._begin(game)
        bare = engine.last.observation.removeprefix(BANNER).lstrip("\n")
        self._expert = Expert(bare, game.grammar, search=self._search)
        return self._step(engine, engine.last.observation if self._banner else bare, reward=0.0)

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
        self._engine = self._expert = self._simulator = None

    def _begin(self, game: Game) -> Engine | OfficialEngine:
        if not self._official:
            return Engine(game.problem, game.task, game.grammar)
        if self._simulator is None:
            self._simulator = OfficialSimulator()
        return self._simulator.start(game)

    def _step(self, engine: Engine | OfficialEngine, observation: str, *, reward: float) -> Step:
        outcome = engine.last
        return Step(
            observation=observation,
            reward=reward,
            terminated=outcome.done,
            success=outcome.won,
            valid=outcome.valid,
            info={"admissible_commands": list(engine.admissible_commands())} if self._admissible else {},
        )

    def _started(self) -> tuple[Engine | OfficialEngine, Expert]:
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
        engine: str = PYTHON,
    ) -> None:
        super().__init__(
            name="household",
            fingerprint=settings.fingerprint,
            grammar=settings.grammar,
            max_turns=max_turns,
            admissible=admissible,
            search=search,
            banner=False,
            engine=engine,
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
