"""A game before it is played, and what its goal sentence asks for."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiturn.envs.alfred.logic import Logic
    from multiturn.envs.alfred.pddl import Problem
    from multiturn.envs.alfred.text import Grammar

__all__ = ["SENTENCES", "TASK_TYPES", "Game", "Goal", "parse_goal"]

SENTENCES: dict[str, tuple[str, ...]] = {
    "pick_and_place_simple": ("put a {object} in {target}.", "put some {object} on {target}."),
    "look_at_obj_in_light": (
        "look at {object} under the {target}.",
        "examine the {object} with the {target}.",
    ),
    "pick_clean_then_place_in_recep": (
        "put a clean {object} in {target}.",
        "clean some {object} and put it in {target}.",
    ),
    "pick_heat_then_place_in_recep": (
        "put a hot {object} in {target}.",
        "heat some {object} and put it in {target}.",
    ),
    "pick_cool_then_place_in_recep": (
        "put a cool {object} in {target}.",
        "cool some {object} and put it in {target}.",
    ),
    "pick_two_obj_and_place": (
        "put two {object} in {target}.",
        "find two {object} and put them in {target}.",
    ),
}
"""Task type -> the sentences in which its goal is put."""

TASK_TYPES = tuple(SENTENCES)
"""The six task types of ALFWorld."""


def _pattern(sentence: str) -> re.Pattern[str]:
    return re.compile(re.escape(sentence).replace(r"\{object\}", r"(\w+)").replace(r"\{target\}", r"(\w+)"))


_PATTERNS = tuple(
    (task_type, _pattern(sentence)) for task_type, sentences in SENTENCES.items() for sentence in sentences
)

_TREATMENTS = {
    "pick_clean_then_place_in_recep": "clean",
    "pick_heat_then_place_in_recep": "heat",
    "pick_cool_then_place_in_recep": "cool",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Game:
    """One game.

    Attributes:
        task_type: One of `TASK_TYPES`.
        task: The goal as a sentence with its full stop.
        problem: The room and the goal.
        grammar: The wording.
        pddl: The problem as its file has it; ``""`` if no file has this one.
        logic: The rules and sentences that the game's own file brings, if it is played in their wording.
    """

    task_type: str
    task: str
    problem: Problem
    grammar: Grammar
    pddl: str = dataclasses.field(default="", repr=False)
    logic: Logic | None = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a goal sentence asks for.

    Attributes:
        object: The kind of object, ``"mug"``.
        target: The kind of receptacle that it has to get to, or of the lamp to look at it under.
        count: How many of them.
        treatment: clean, heat or cool, or ``""``.
        light: Whether the object is to be looked at under a lamp.
    """

    object: str
    target: str
    count: int = 1
    treatment: str = ""
    light: bool = False


def parse_goal(task: str) -> Goal | None:
    """Understand a goal sentence; None if it is in other words than `SENTENCES`."""
    for task_type, pattern in _PATTERNS:
        if match := pattern.fullmatch(task.strip()):
            return Goal(
                object=match[1],
                target=match[2],
                count=2 if task_type == "pick_two_obj_and_place" else 1,
                treatment=_TREATMENTS.get(task_type, ""),
                light=task_type == "look_at_obj_in_light",
            )
    return None
