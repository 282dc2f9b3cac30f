"""The rules of the ALFRED text domain: which actions are possible, and what they change."""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING

from multiturn.envs.alfred.pddl import satisfied
from multiturn.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from multiturn.envs.alfred.pddl import Problem

__all__ = ["Action", "World", "display_names"]

_KNIVES = ("knifetype", "butterknifetype")
_SINKS = ("sinktype", "sinkbasintype")


@dataclasses.dataclass(frozen=True, slots=True)
class Action:
    """One possible action.

    Attributes:
        verb: look, inventory, help, goto, open, close, take, put, examine_receptacle, examine_object, use,
            heat, clean, cool or slice.
        object: The id of the object, or ``""``.
        receptacle: The id of the receptacle, or ``""``; for ``slice`` the id of the knife.
        location: The id of the location one goes to, or ``""``.
    """

    verb: str
    object: str = ""
    receptacle: str = ""
    location: str = ""


def display_names(ids: Iterable[str]) -> dict[str, str]:
    """The names that players see, ``"sinkbasin 1"`` for ``"sink_bar_..._bar_sinkbasin"``.

    Numbers go downward over the sorted ids of one kind: the first id has the highest number.

    Args:
        ids: The ids, in lower case, of everything the problem's facts mention.
    """
    kinds = {entity: _kind(entity) for entity in sorted(set(ids))}
    left = collections.Counter(kind for entity, kind in kinds.items() if "_bar_" in entity)
    names = {}
    for entity, kind in kinds.items():
        if "_bar_" in entity:
            names[entity] = f"{kind} {left[kind]}"
            left[kind] -= 1
        else:
            names[entity] = f"{kind} "
    return names


def _kind(entity: str) -> str:
    kind, bar, _ = entity.partition("_bar_")
    if not bar:
        return entity
    return kind + "basin" if "basin" in entity else kind


class World:
    """A room and what has been done in it.

    Facts are kept as in the domain: for each predicate a set of argument tuples. What an action made
    false is remembered as a fact of ``not_<predicate>``, since some sentences ask for exactly that.

    Args:
        problem: The room at the start and the goal.
        cleans_in_any_sink: Whether receptacles of type Sink clean as those of type SinkBasin do.

    Raises:
        DataError: The problem does not say where the agent is.
    """

    def __init__(self, problem: Problem, *, cleans_in_any_sink: bool = True) -> None:
        self._goal = problem.goal
        self._facts: dict[str, set[tuple[str, ...]]] = collections.defaultdict(set)
        for predicate, arguments in problem.facts.items():
            self._facts[predicate].update(arguments)
        if len(self._facts["atlocation"]) != 1:
            raise DataError(f"problem {problem.name!r} does not say where its one agent is (atLocation)")
        self.agent = next(iter(self._facts["atlocation"]))[0]
        self.names = display_names(
            argument for facts in self._facts.values() for fact in facts for argument in fact
        )
        self.places: tuple[tuple[str, str], ...] = tuple(
            (receptacle, location) for receptacle, location in sorted(self._facts["receptacleatlocation"])
        )
        self._receptacles_at: dict[str, list[str]] = collections.defaultdict(list)
        for receptacle, location in self.places:
            self._receptacles_at[location].append(receptacle)
        self._receptacle_types = _group(self._facts["receptacletype"])
        self._object_types = _group(self._facts["objecttype"])
        self._fits = {
            (receptacle_type, object_type) for receptacle_type, object_type in self._facts["cancontain"]
        }
        self._sinks = set(_SINKS if cleans_in_any_sink else _SINKS[1:])

    @property
    def location(self) -> str:
        """The id of the location where the agent is."""
        return next(iter(self._facts["atlocation"]))[1]

    @property
    def held(self) -> str | None:
        """The id of the object in the agent's hand; None if it is empty."""
        return next((held for _, held in self._facts["holds"]), None)

    @property
    def receptacles_here(self) -> list[str]:
        """The ids of the receptacles at the agent's location, sorted."""
        return self._receptacles_at.get(self.location, [])

    def won(self) -> bool:
        """Whether the goal holds now."""
        return satisfied(self._goal, lambda predicate: self._facts.get(predicate, ()))

    def holds(self, predicate: str, *arguments: str) -> bool:
        """Whether a fact holds now. ``not_x`` facts hold only where an action made ``x`` false."""
        return arguments in self._facts.get(predicate, ())

    def properties(self, entity: str) -> frozenset[str]:
        """The names of the one-place predicates that hold of an entity."""
        return frozenset(predicate for predicate, facts in self._facts.items() if (entity,) in facts)

    def contents(self, receptacle: str) -> list[str]:
        """The ids of the objects in or on a receptacle, sorted."""
        return sorted(item for item, place in self._facts["inreceptacle"] if place == receptacle)

    def inner_objects(self, holder: str) -> list[str]:
        """The ids of the objects inside an object such as a bowl, sorted."""
        return sorted(item for item, place in self._facts["inreceptacleobject"] if place == holder)

    def reachable(self, receptacle: str) -> bool:
        """Whether one can reach into a receptacle: it does not close, or it is open."""
        return not self.holds("openable", receptacle) or self.holds("opened", receptacle)

    def beside_receptacles(self, location: str) -> list[str]:
        """The ids of what ``look`` lists "next to" the receptacles of a location, once for each reason.

        The domain lists an object that is at the location and was taken out of a receptacle of the same
        location: one that was moved between two receptacles that share it.
        """
        return [
            item
            for item, place in sorted(self._facts["objectatlocation"])
            if place == location
            for receptacle in self._receptacles_at.get(location, [])
            if self.holds("not_inreceptacle", item, receptacle)
        ]

    def actions(self) -> Iterator[Action]:
        """All actions that are possible now, except ``help``."""
        yield Action("look")
        yield Action("inventory")
        here = self.location
        held = self.held
        for receptacle, location in self.places:
            if location != here:
                yield Action("goto", receptacle=receptacle, location=location)
        for receptacle in self.receptacles_here:
            yield from self._actions_at(receptacle, held)
        if held is not None:
            yield Action("examine_object", object=held)
            if not self._object_types.get(held, set()).isdisjoint(_KNIVES):
                for item, location in self._facts["objectatlocation"]:
                    if location == here and self.holds("sliceable", item):
                        yield Action("slice", object=item, receptacle=held)

    def _actions_at(self, receptacle: str, held: str | None) -> Iterator[Action]:
        yield Action("examine_receptacle", receptacle=receptacle)
        if self.holds("openable", receptacle):
            verb = "close" if self.holds("opened", receptacle) else "open"
            yield Action(verb, receptacle=receptacle)
        reachable = self.reachable(receptacle)
        for item in self.contents(receptacle):
            if reachable and held is None and self.holds("pickupable", item):
                yield Action("take", object=item, receptacle=receptacle)
            if self.holds("toggleable", item):
                yield Action("use", object=item, receptacle=receptacle)
        if held is None:
            return
        types = self._receptacle_types.get(receptacle, set())
        held_types = self._object_types.get(held, set())
        if reachable and any((outer, inner) in self._fits for outer in types for inner in held_types):
            yield Action("put", object=held, receptacle=receptacle)
        if self.holds("heatable", held) and "microwavetype" in types:
            yield Action("heat", object=held, receptacle=receptacle)
        if self.holds("cleanable", held) and not types.isdisjoint(self._sinks):
            yield Action("clean", object=held, receptacle=receptacle)
        if self.holds("coolable", held) and "fridgetype" in types:
            yield Action("cool", object=held, receptacle=receptacle)

    def apply(self, action: Action) -> None:
        """Do a possible action (one of ``actions()``)."""
        item, receptacle, here, agent = action.object, action.receptacle, self.location, self.agent
        match action.verb:
            case "goto":
                self._retract("atlocation", agent, here)
                self._assert("atlocation", agent, action.location)
            case "open":
                self._assert("opened", receptacle)
            case "close":
                self._retract("opened", receptacle)
            case "take":
                self._retract("inreceptacle", item, receptacle)
                self._retract("objectatlocation", item, here)
                self._assert("holds", agent, item)
            case "put":
                self._assert("inreceptacle", item, receptacle)
                self._assert("objectatlocation", item, here)
                self._retract("holds", agent, item)
            case "heat":
                self._assert("ishot", item)
                self._retract("iscool", item)
            case "cool":
                self._assert("iscool", item)
                self._retract("ishot", item)
            case "clean":
                self._assert("isclean", item)
            case "use":
                self._assert("istoggled", item)
            case "slice":
                self._assert("issliced", item)

    def _assert(self, predicate: str, *arguments: str) -> None:
        self._facts[predicate].add(arguments)
        self._facts["not_" + predicate].discard(arguments)

    def _retract(self, predicate: str, *arguments: str) -> None:
        self._facts[predicate].discard(arguments)
        self._facts["not_" + predicate].add(arguments)


def _group(pairs: Iterable[tuple[str, ...]]) -> dict[str, set[str]]:
    grouped: dict[str, set[str]] = collections.defaultdict(set)
    for key, value in pairs:
        grouped[key].add(value)
    return dict(grouped)
