"""Play games on the official engine: TextWorld, with the names that ALFWorld gives to things.

It is slow, and no two threads may use it at a time. `Engine` answers the same, to the letter; this one is
for those who want to see that for themselves.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import sys
import threading
from typing import TYPE_CHECKING, Any

from multiturn.envs.alfred.engine import Outcome
from multiturn.envs.alfred.logic import published_logic
from multiturn.envs.alfred.text import NOTHING_HAPPENS
from multiturn.envs.alfred.writing import problem_text
from multiturn.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from multiturn.envs.alfred.games import Game

__all__ = ["OfficialEngine", "OfficialSimulator", "official_version"]

_PACKAGES = ("textworld", "alfworld")
_LOCK = threading.Lock()
"""TextWorld keeps the state of its parsers and of its planner's options in modules."""


def official_version() -> str:
    """The versions of the packages that make up the official engine, ``"textworld-1.7.0-alfworld-0.4.2"``.

    Raises:
        MissingExtraError: One is not installed.
    """
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError("engine: textworld", extra="alfworld", missing=package)
    return "-".join(f"{package}-{importlib.metadata.version(package)}" for package in _PACKAGES)


class OfficialSimulator:
    """The official engine; it plays one game after the other.

    Raises:
        MissingExtraError: ``textworld`` or ``alfworld`` is not installed.
    """

    def __init__(self) -> None:
        official_version()
        with _alone():
            try:
                import textworld
                from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
                from textworld.envs.pddl import PddlEnv

                infos = textworld.EnvInfos(won=True, admissible_commands=True)
                self._env: Any = AlfredDemangler(PddlEnv(infos), shuffle=False)
            except ImportError as error:
                raise MissingExtraError(
                    "engine: textworld", extra="alfworld", missing=error.name or str(error)
                ) from error

    def start(self, game: Game) -> OfficialEngine:
        """Start a game; the one before it is over then.

        Raises:
            DataError: TextWorld cannot read the game.
        """
        logic = game.logic or published_logic(game.grammar, game.task)
        data = {
            "pddl_domain": logic.domain,
            "grammar": logic.grammar,
            "pddl_problem": game.pddl or problem_text(game.problem),
        }
        with _alone():
            try:
                self._env.load(data)
                state = self._env.reset()
            except Exception as error:
                raise DataError(
                    f"TextWorld cannot read the game {game.task!r}: {type(error).__name__}: {error}"
                ) from error
        return OfficialEngine(self._env, state)


class OfficialEngine:
    """One game on the official engine, with the methods of `Engine`. Made by `OfficialSimulator`."""

    def __init__(self, env: Any, state: Any) -> None:
        self._env = env
        self._take_in(state)

    def step(self, command: str) -> Outcome:
        """Enter one command.

        Returns:
            The answer; the previous one again if the game is over.
        """
        if not self.last.done:
            with _alone():
                state, _, _ = self._env.step(command)
            self._take_in(state)
        return self.last

    def admissible_commands(self) -> list[str]:
        """All commands that would do something now, sorted, without duplicates."""
        return list(self._commands)

    def _take_in(self, state: Any) -> None:
        text, won = str(state.feedback), bool(state["won"])
        self._commands: list[str] = list(state["admissible_commands"])
        self.last = Outcome(text, valid=text != NOTHING_HAPPENS, won=won, done=won)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Nobody else uses TextWorld meanwhile, and it leaves the command line of this process as it was."""
    with _LOCK:
        arguments = sys.argv
        try:
            yield
        finally:
            sys.argv = arguments
