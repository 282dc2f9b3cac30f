"""Household games in the text domain of ALFRED: generated ones (`household`) and the real ones (`alfworld`).

Both are played by the same engine, which answers as the original simulator does but is pure Python: a game
loads in milliseconds, and plays thousands of steps in a second.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TypeVar

from multiturn.envs.alfred.catalogue import ROOMS
from multiturn.envs.alfred.engine import Engine, Outcome
from multiturn.envs.alfred.environment import ENGINES, PYTHON, AlfredEnvironment, HouseholdEnvironment
from multiturn.envs.alfred.expert import LIKELY, SEARCHES
from multiturn.envs.alfred.games import TASK_TYPES
from multiturn.envs.alfred.generator import SIZES, HouseholdSettings, rooms_for
from multiturn.envs.alfred.pddl import Problem, parse_problem
from multiturn.envs.alfred.pruning import LEAST_RECEPTACLES
from multiturn.envs.alfred.real_games import AlfworldEnvironment
from multiturn.envs.alfred.text import GRAMMARS, MOVE, PUT, Grammar
from multiturn.errors import ConfigError

__all__ = [
    "GRAMMARS",
    "MOVE",
    "PUT",
    "ROOMS",
    "SIZES",
    "TASK_TYPES",
    "AlfredEnvironment",
    "AlfworldEnvironment",
    "Engine",
    "Grammar",
    "HouseholdEnvironment",
    "Outcome",
    "Problem",
    "alfworld",
    "household",
    "parse_problem",
]

_DefaultT = TypeVar("_DefaultT", int, None)

_MOST_TURNS = 40  # ALFWorld's usual limit; smaller rooms need fewer


def household(
    *,
    seed: int = 0,
    size: str = "small",
    receptacles: int | None = None,
    objects: int | None = None,
    object_types: int | None = None,
    task_types: Sequence[str] = TASK_TYPES,
    rooms: Sequence[str] = tuple(ROOMS),
    prior: float = 1.0,
    train: int = 1000,
    test: int = 200,
    max_turns: int | None = None,
    grammar: str = "put",
    admissible: bool = False,
    search: str = LIKELY,
    engine: str = PYTHON,
) -> HouseholdEnvironment:
    """Household games that are generated on the spot, in ALFWorld's six task types and its sentences.

    They are not ALFWorld's games: results on them compare with nothing that is published. No game of the
    split ``train`` is also in ``test``.

    Args:
        seed: Another seed, other games.
        size: tiny (4 receptacles with up to 2 objects), small (6, 3), medium (10, 4) or full (24, 6).
        receptacles: How many receptacles a room has, instead of what the size says; at least 4.
        objects: How many objects lie in a receptacle at most, instead of what the size says; at least 1.
        object_types: How many kinds of objects a room has at most, instead of what the size says.
        task_types: Which task types there are, in turn.
        rooms: Which kinds of rooms there are: kitchen, bathroom, bedroom, livingroom.
        prior: From 1 (things lie where they usually do) to 0 (anywhere where they fit).
        train: The number of games in the split ``train``.
        test: The number of games in the split ``test``.
        max_turns: The turn limit; by default 12 + 2 for each receptacle, at most 40.
        grammar: The wording: put ("put X in/on Y", as in published results) or move ("move X to Y").
        admissible: Whether each step's info lists the admissible commands.
        search: How the expert looks for things: likely (where they usually are) or listed (in the order in
            which the room lists its receptacles, which is easier to imitate).
        engine: What plays the games: python (the engine here) or textworld (the official one, slow; needs the
            extra ``multiturn[alfworld]``). They answer the same.

    Raises:
        ConfigError: An option is not usable; the message says what is.
        MissingExtraError: The engine is not installed.
    """
    name = "household"
    chosen = SIZES[_one_of(name, "size", size, tuple(SIZES))]
    settings = HouseholdSettings(
        seed=_whole(name, "seed", seed, 0),
        receptacles=_whole_or(chosen.receptacles, name, "receptacles", receptacles, LEAST_RECEPTACLES),
        objects=_whole_or(chosen.objects, name, "objects", objects, 1),
        object_types=_whole_or(chosen.object_types, name, "object_types", object_types, 2),
        prior=_share(name, "prior", prior),
        task_types=_subset(name, "task_types", task_types, TASK_TYPES),
        rooms=_subset(name, "rooms", rooms, tuple(ROOMS)),
        grammar=_grammar(name, grammar),
    )
    _check_rooms(settings)
    usual_turns = min(_MOST_TURNS, 12 + 2 * settings.receptacles)
    return HouseholdEnvironment(
        settings,
        counts={"train": _whole(name, "train", train, 0), "test": _whole(name, "test", test, 0)},
        max_turns=_whole_or(usual_turns, name, "max_turns", max_turns, 1),
        admissible=admissible,
        search=_one_of(name, "search", search, SEARCHES),
        engine=_one_of(name, "engine", engine, ENGINES),
    )


def alfworld(
    *,
    path: str | None = None,
    grammar: str = "auto",
    task_types: Sequence[str] = TASK_TYPES,
    limit: int | None = None,
    largest_room: int | None = None,
    max_receptacles: int | None = None,
    max_objects_per_receptacle: int | None = None,
    max_turns: int = 40,
    admissible: bool = False,
    search: str = LIKELY,
    banner: bool = True,
    engine: str = PYTHON,
    split_file: str | None = None,
) -> AlfworldEnvironment:
    """The real games of ALFWorld: train, valid_seen and valid_unseen.

    With ``max_receptacles`` or ``max_objects_per_receptacle`` rooms are pruned to what the goal needs and
    some more. Those are other, easier games: the environment is then called ``alfworld-pruned-6x4``, and
    its results compare with nothing that is published.

    Args:
        path: The folder with the games; by default what the environment variable MULTITURN_ALFWORLD_DATA
            says. Either ALFWorld's own (json_2.1.1/<split>/.../game.tw-pddl) or one with
            <split>.jsonl.xz files.
        grammar: The wording: put ("put X in/on Y", as in published results), move ("move X to Y"), or auto
            (what a game's own file says, else put).
        task_types: Which task types there are.
        limit: How many games of each split there are at most; they are of mixed types.
        largest_room: Leave out games whose room has more receptacles than this.
        max_receptacles: Prune rooms to this number of receptacles; at least 4.
        max_objects_per_receptacle: Prune receptacles to this number of objects.
        max_turns: The turn limit.
        admissible: Whether each step's info lists the admissible commands.
        search: How the expert looks for things: likely (where they usually are) or listed (in the order in
            which the room lists its receptacles, which is easier to imitate).
        banner: Whether the first observation begins with the simulator's "-= Welcome to TextWorld, ALFRED!
            =-", as the original's does; the paper's code takes it off.
        engine: What plays the games: python (the engine here) or textworld (the official one, slow; needs the
            extra ``multiturn[alfworld]``). They answer the same.
        split_file: A text file with a game id (``<folder>/<trial>``) in each line: the split ``listed`` then
            has exactly these games, in this order, from whichever split has them.

    Raises:
        ConfigError: The games are not there, or an option is not usable; the message says what to do.
        DataError: ``split_file`` names a game that is not there.
        MissingExtraError: The engine is not installed.
    """
    name = "alfworld"
    pruned = None
    if max_receptacles is not None or max_objects_per_receptacle is not None:
        # One alone leaves the other as it is: no room has as many.
        pruned = (
            _whole_or(99, name, "max_receptacles", max_receptacles, LEAST_RECEPTACLES),
            _whole_or(99, name, "max_objects_per_receptacle", max_objects_per_receptacle, 1),
        )
    return AlfworldEnvironment(
        path=path,
        grammar=None if grammar == "auto" else _grammar(name, grammar),
        task_types=_subset(name, "task_types", task_types, TASK_TYPES),
        limit=_whole_or(None, name, "limit", limit, 1),
        largest_room=_whole_or(None, name, "largest_room", largest_room, 1),
        pruned=pruned,
        max_turns=_whole(name, "max_turns", max_turns, 1),
        admissible=admissible,
        search=_one_of(name, "search", search, SEARCHES),
        banner=_flag(name, "banner", banner),
        engine=_one_of(name, "engine", engine, ENGINES),
        split_file=_text_or_none(name, "split_file", split_file),
    )


def _text_or_none(environment: str, option: str, value: object) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    raise ConfigError(f"{environment}: the option `{option}` is {value!r}; it has to be a path")


def _flag(environment: str, option: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{environment}: the option `{option}` is {value!r}; it has to be true or false")
    return value


def _whole(environment: str, option: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(
            f"{environment}: the option `{option}` is {value!r}; it has to be a whole number, {least} or more"
        )
    return value


def _whole_or(
    default: _DefaultT, environment: str, option: str, value: object, least: int
) -> int | _DefaultT:
    return default if value is None else _whole(environment, option, value, least)


def _share(environment: str, option: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ConfigError(
            f"{environment}: the option `{option}` is {value!r}; it has to be a number from 0 to 1"
        )
    return float(value)


def _check_rooms(settings: HouseholdSettings) -> None:
    """Refuse task types that cannot be done in any of the rooms."""
    for task_type in settings.task_types:
        if not rooms_for(task_type, settings.rooms):
            everywhere = ", ".join(rooms_for(task_type, tuple(ROOMS)))
            raise ConfigError(
                f"household: there is no {task_type} in these rooms ({', '.join(settings.rooms)}), only in "
                f"{everywhere}; add one of these to `rooms`, or leave the task type out of `task_types`"
            )


def _subset(environment: str, option: str, values: object, known: tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise ConfigError(
            f"{environment}: the option `{option}` is {values!r}; it has to be a list of some of "
            f"{', '.join(known)}"
        )
    return tuple(dict.fromkeys(_one_of(environment, option, value, known) for value in values))


def _grammar(environment: str, value: object) -> Grammar:
    return GRAMMARS[_one_of(environment, "grammar", value, tuple(GRAMMARS))]


def _one_of(environment: str, option: str, value: object, known: tuple[str, ...]) -> str:
    if isinstance(value, str) and value in known:
        return value
    near = difflib.get_close_matches(str(value), known, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ConfigError(
        f"{environment}: the option `{option}` does not know {value!r}{hint}; known are {', '.join(known)}"
    )
