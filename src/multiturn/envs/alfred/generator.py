"""Make up household games of all six ALFWorld task types, solvable by construction."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import random
from typing import TYPE_CHECKING

from multiturn.envs.alfred.catalogue import FITS, OPENABLE, PROPERTIES, ROOMS, TOOLS, USUAL_PLACES, pddl_name
from multiturn.envs.alfred.games import SENTENCES, TASK_TYPES, Game
from multiturn.envs.alfred.pddl import And, Atom, Exists, Not, Problem
from multiturn.envs.alfred.text import PUT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from multiturn.envs.alfred.pddl import Condition
    from multiturn.envs.alfred.text import Grammar

__all__ = ["SIZES", "SPLITS", "HouseholdSettings", "generate", "rooms_for"]

_VERSION = 1  # raise it whenever the same settings make other games

SPLITS = ("train", "test")

_TREATMENTS = {
    "pick_clean_then_place_in_recep": ("clean", "cleanable", "isclean"),
    "pick_heat_then_place_in_recep": ("heat", "heatable", "ishot"),
    "pick_cool_then_place_in_recep": ("cool", "coolable", "iscool"),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HouseholdSettings:
    """What decides a household game, besides its split and number.

    Attributes:
        seed: Another seed, other games.
        receptacles: How many receptacles a room has, at least 4. Kinds of rooms that do not offer so many
            have as many as they offer (a bathroom 24, a kitchen 35).
        objects: How many objects lie in one receptacle at most, at least 1.
        object_types: How many kinds of objects a room holds at most, at least 2.
        prior: In [0, 1]. 1: objects lie where they usually do; 0: anywhere where they fit.
        task_types: Task types in turn: game ``i`` has type ``task_types[i % len(task_types)]``.
        rooms: The kinds of rooms to draw from.
        grammar: The wording.
    """

    seed: int = 0
    receptacles: int = 6
    objects: int = 3
    object_types: int = 8
    prior: float = 1.0
    task_types: tuple[str, ...] = TASK_TYPES
    rooms: tuple[str, ...] = tuple(ROOMS)
    grammar: Grammar = PUT

    @property
    def fingerprint(self) -> str:
        """Changes whenever the games do."""
        tables = [USUAL_PLACES, {name: sorted(fits) for name, fits in FITS.items()}, sorted(OPENABLE), TOOLS]
        rooms = {name: [room.receptacles, room.objects] for name, room in ROOMS.items()}
        properties = {name: sorted(objects) for name, objects in PROPERTIES.items()}
        parts = [_VERSION, dataclasses.asdict(self), tables, rooms, properties, SENTENCES]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


SIZES = {
    "tiny": HouseholdSettings(receptacles=4, objects=2, object_types=4),
    "small": HouseholdSettings(receptacles=6, objects=3, object_types=8),
    "medium": HouseholdSettings(receptacles=10, objects=4, object_types=14),
    "full": HouseholdSettings(receptacles=24, objects=6, object_types=28),
}
"""Name of a size -> settings of that size."""


def generate(settings: HouseholdSettings, split: str, index: int) -> Game:
    """Make game number ``index`` of a split.

    The same arguments give the same game on every machine. No game of one split is also in the other: the
    hash of the receptacles, the goal and where the wanted objects lie decides which split a room may belong
    to, and rooms are drawn until one may.

    Args:
        settings: What the games are like.
        split: One of `SPLITS`.
        index: The number of the game, from 0.
    """
    task_type = settings.task_types[index % len(settings.task_types)]
    attempt = 0
    while True:
        key = f"household/{_VERSION}/{settings.seed}/{split}/{index}/{attempt}"
        room = _Room(settings, task_type, random.Random(key))  # noqa: S311 - games, not secrets
        if room.complete and room.split() == split:
            return room.game()
        attempt += 1


class _Room:
    """A room under construction: receptacles, what lies where, and the goal."""

    def __init__(self, settings: HouseholdSettings, task_type: str, rng: random.Random) -> None:
        self._settings = settings
        self._task_type = task_type
        self._rng = rng
        self._room = rng.choice(rooms_for(task_type, settings.rooms))
        self.object, self.target = rng.choice(_goals(task_type, self._room))
        self._draw_receptacles()
        self.contents: list[list[str]] = [[] for _ in self.receptacles]
        self.complete = self._place_goal()
        self._sentence = rng.choice(SENTENCES[task_type])

    def _draw_receptacles(self) -> None:
        """The receptacles that the goal needs, then others as the room offers them."""
        offered = ROOMS[self._room].receptacles
        needed = [self._source()]
        if self._task_type == "look_at_obj_in_light":
            needed.append(self._usual_place("desklamp", offered))
        else:
            needed.append(self.target)
        if self._task_type in _TREATMENTS:
            needed.append(TOOLS[_TREATMENTS[self._task_type][0]])
        chosen = list(dict.fromkeys(needed))
        rest = [kind for kind, count in offered.items() for _ in range(count - (kind in chosen))]
        # Drawn by the kind first: else a kitchen would be all cabinets.
        while rest and len(chosen) < self._settings.receptacles:
            kind = self._rng.choice(sorted(set(rest)))
            rest.remove(kind)
            chosen.append(kind)
        self.receptacles = sorted(chosen)

    def _source(self) -> str:
        """A kind of receptacle, not the target, where the wanted object can lie."""
        offered = [kind for kind in ROOMS[self._room].receptacles if kind != self.target]
        return self._usual_place(self.object, offered)

    def _usual_place(self, name: str, kinds: Iterable[str]) -> str:
        """One of the kinds of receptacles where the object lies, drawn by the prior."""
        places = [kind for kind in kinds if kind in USUAL_PLACES[name]]
        return self._rng.choices(places, self._weights(name, places))[0]

    def _weights(self, name: str, kinds: Sequence[str]) -> list[float]:
        """How probable it is that the object lies in each of these receptacles, given by their kinds."""
        places, counts = USUAL_PLACES[name], collections.Counter(kinds)
        usual = [places.get(kind, 0) / counts[kind] for kind in kinds]
        total = sum(usual)
        possible = sum(weight > 0 for weight in usual)
        prior = self._settings.prior
        return [prior * weight / total + (1 - prior) * (weight > 0) / possible for weight in usual]

    def _place_goal(self) -> bool:
        """Put the wanted objects, and the lamp, where they lie at first; False if there is no space."""
        wanted = [self.object] * (2 if self._task_type == "pick_two_obj_and_place" else 1)
        if self._task_type == "look_at_obj_in_light":
            return self._place("desklamp") and self._place(self.object)
        return all(self._place(name, forbidden=self.target) for name in wanted)

    def _place_others(self) -> None:
        """Add objects that the goal does not ask for."""
        names = [name for name in ROOMS[self._room].objects if name not in {self.object, "desklamp"}]
        names = self._rng.sample(names, min(len(names), max(1, self._settings.object_types - 1)))
        count = sum(self._rng.randint(0, self._settings.objects) for _ in self.receptacles)
        for _ in range(count):
            self._place(self._rng.choice(names))

    def _place(self, name: str, *, forbidden: str = "") -> bool:
        """Put an object where there is space for it, by the prior; False if there is none."""
        free = [
            number
            for number, kind in enumerate(self.receptacles)
            if len(self.contents[number]) < self._settings.objects
            and kind in USUAL_PLACES[name]
            and kind != forbidden
        ]
        if free:
            weights = self._weights(name, [self.receptacles[number] for number in free])
            self.contents[self._rng.choices(free, weights)[0]].append(name)
        return bool(free)

    def split(self) -> str:
        """The only split that this room may belong to, while only the wanted objects are in it."""
        contents = [sorted(objects) for objects in self.contents]
        parts = [self._task_type, self.object, self.target, self.receptacles, contents]
        return SPLITS[hashlib.sha256(json.dumps(parts).encode()).digest()[0] % len(SPLITS)]

    def game(self) -> Game:
        """Furnish the room with other objects; the finished game."""
        self._place_others()
        return Game(
            task_type=self._task_type,
            task=self._sentence.format(object=self.object, target=self.target),
            problem=Problem(name="household", facts=self._facts(), goal=self._goal()),
            grammar=self._settings.grammar,
        )

    def _facts(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        facts: dict[str, list[tuple[str, ...]]] = {"atlocation": [("agent1", "loc_bar_00")]}

        def say(predicate: str, *arguments: str) -> None:
            facts.setdefault(predicate, []).append(arguments)

        locations = list(range(1, len(self.receptacles) + 1))
        self._rng.shuffle(locations)
        serial = 0
        for number, (kind, contents) in enumerate(zip(self.receptacles, self.contents, strict=True)):
            suffix = f"_bar_{kind}" if kind != pddl_name(kind) else ""
            receptacle = f"{pddl_name(kind)}_bar_{number:03d}{suffix}"
            location = f"loc_bar_{locations[number]:02d}"
            say("receptacletype", receptacle, f"{kind}type")
            say("receptacleatlocation", receptacle, location)
            if kind in OPENABLE:
                say("openable", receptacle)
            for name in contents:
                serial += 1
                item = f"{name}_bar_{serial:03d}"
                say("objecttype", item, f"{name}type")
                say("objectatlocation", item, location)
                say("inreceptacle", item, receptacle)
                if name != "desklamp":
                    say("pickupable", item)
                for predicate, names in PROPERTIES.items():
                    if name in names:
                        say(predicate, item)
        for kind in sorted(set(self.receptacles)):
            for name in sorted(FITS.get(kind, ())):
                say("cancontain", f"{kind}type", f"{name}type")
        return {predicate: tuple(arguments) for predicate, arguments in facts.items()}

    def _goal(self) -> Condition:
        if self._task_type == "look_at_obj_in_light":
            lamp_on = (
                Atom("objecttype", ("?lamp", "desklamptype")),
                Atom("toggleable", ("?lamp",)),
                Atom("istoggled", ("?lamp",)),
                Atom("inreceptacle", ("?lamp", "?r")),
                Atom("receptacleatlocation", ("?r", "?l")),
                Atom("atlocation", ("?a", "?l")),
            )
            held = (Atom("objecttype", ("?o", f"{self.object}type")), Atom("holds", ("?a", "?o")))
            return And((Exists(("?lamp", "?r", "?a", "?l"), And(lamp_on)), Exists(("?o", "?a"), And(held))))
        placed = self._placed("?o")
        if self._task_type == "pick_two_obj_and_place":
            other = Exists(("?p",), And((*self._placed("?p"), Not(Atom("=", ("?o", "?p"))))))
            return Exists(("?o", "?r"), And((*placed, other)))
        return Exists(("?o", "?r"), And(placed))

    def _placed(self, variable: str) -> tuple[Condition, ...]:
        """The object ``variable`` of the wanted kind, treated as asked for, is in ``?r``, a target."""
        parts = [
            Atom("inreceptacle", (variable, "?r")),
            Atom("objecttype", (variable, f"{self.object}type")),
            Atom("receptacletype", ("?r", f"{self.target}type")),
        ]
        if self._task_type in _TREATMENTS:
            parts += [Atom(predicate, (variable,)) for predicate in _TREATMENTS[self._task_type][1:]]
        return tuple(parts)


def rooms_for(task_type: str, rooms: Sequence[str]) -> list[str]:
    """The kinds of rooms in which a task type has a goal."""
    return [room for room in rooms if _goals(task_type, room)]


def _goals(task_type: str, room: str) -> list[tuple[str, str]]:
    """All (object, target) of a task type in a kind of room."""
    return _GOALS[task_type, room]


def _all_goals(task_type: str, room: str) -> list[tuple[str, str]]:
    offered, objects = ROOMS[room].receptacles, ROOMS[room].objects
    if task_type == "look_at_obj_in_light":
        portable = [name for name in objects if name != "desklamp"]
        return [(name, "desklamp") for name in portable] if "desklamp" in objects else []
    tool = TOOLS[_TREATMENTS[task_type][0]] if task_type in _TREATMENTS else ""
    treatable = PROPERTIES[_TREATMENTS[task_type][1]] if task_type in _TREATMENTS else None
    if tool and tool not in offered:
        return []
    return [
        (name, target)
        for name in objects
        for target in offered
        if name in FITS.get(target, ())
        and target != tool
        and (treatable is None or name in treatable)
        and any(place in offered for place in USUAL_PLACES[name] if place != target)
    ]


_GOALS = {(task_type, room): _all_goals(task_type, room) for task_type in TASK_TYPES for room in ROOMS}
