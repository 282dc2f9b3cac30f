"""Smaller rooms: keep what a goal needs, drop most of the rest."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING

from multiturn.envs.alfred.pddl import Atom, Problem, atoms

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["LEAST_RECEPTACLES", "prune"]

LEAST_RECEPTACLES = 4
"""Two sources, a target and a tool: no goal needs more receptacles."""

_TOOLS = {
    "isclean": ("sinkbasintype", "sinktype"),
    "ishot": ("microwavetype",),
    "iscool": ("fridgetype",),
}


def prune(problem: Problem, *, receptacles: int, objects: int) -> Problem:
    """A smaller problem with the same goal, solvable if the given one is.

    What the goal needs stays: objects of the wanted kinds (as many as wanted), a receptacle of the target
    kind, one that cleans, heats or cools, and the receptacles in which the objects lie. What else stays is
    drawn by the hash of its id, so that it is always the same.

    Args:
        problem: The problem.
        receptacles: How many receptacles stay at most; at least `LEAST_RECEPTACLES`.
        objects: How many objects stay in a receptacle at most, not counting what the goal needs; at least 1.
    """
    room = _Room(problem)
    kept_objects, kept_receptacles = room.needed()
    for receptacle in room.drawn(room.receptacle_type):
        if len(kept_receptacles) >= receptacles:
            break
        kept_receptacles.setdefault(receptacle)
    for receptacle in kept_receptacles:
        inside = room.inside(receptacle)
        count = sum(item in kept_objects for item in inside)
        for item in room.drawn(inside):
            if item not in kept_objects and count < objects:
                kept_objects.setdefault(item)
                count += 1
    everything = {item for item, _ in problem.facts.get("objecttype", ())}
    everything |= {item for item, _ in problem.facts.get("objectatlocation", ())}
    everything |= {item for item, _ in problem.facts.get("inreceptacle", ())} | set(room.receptacle_type)
    dropped = everything - set(kept_objects) - set(kept_receptacles)
    facts = {
        predicate: tuple(fact for fact in facts if dropped.isdisjoint(fact))
        for predicate, facts in problem.facts.items()
    }
    return dataclasses.replace(problem, facts=facts)


class _Room:
    """Look-ups in the facts of a problem."""

    def __init__(self, problem: Problem) -> None:
        facts = problem.facts
        self._name = problem.name
        self._placed = facts.get("inreceptacle", ())
        self._object_type = dict(fact for fact in facts.get("objecttype", ()) if len(fact) == 2)
        self.receptacle_type = dict(fact for fact in facts.get("receptacletype", ()) if len(fact) == 2)
        self._portable = {item for (item,) in facts.get("pickupable", ())}
        self._toggleable = {item for (item,) in facts.get("toggleable", ())}
        self._atoms = list(atoms(problem.goal))

    def inside(self, receptacle: str) -> list[str]:
        return [item for item, place in self._placed if place == receptacle]

    def drawn(self, names: Iterable[str]) -> list[str]:
        """Names in an order that looks random but is always the same."""
        return sorted(names, key=lambda name: hashlib.sha256(f"{self._name} {name}".encode()).digest())

    def _of_type(self, kind: str) -> list[str]:
        return self.drawn(name for name, type_ in self.receptacle_type.items() if type_ == kind)

    def _places(self, item: str) -> list[str]:
        return [place for name, place in self._placed if name == item]

    def _is_in(self, item: str, kinds: list[str]) -> bool:
        return any(self.receptacle_type.get(place) in kinds for place in self._places(item))

    def needed(self) -> tuple[dict[str, None], dict[str, None]]:
        """The objects and the receptacles that the goal cannot do without, as ordered sets.

        Objects that are in a target already are the last choice: there has to be something to do.
        """
        targets = [atom.arguments[1] for atom in self._atoms if atom.predicate == "receptacletype"]
        wanted: list[tuple[str, ...]] = [(target,) for target in targets]
        wanted += [_TOOLS[atom.predicate] for atom in self._atoms if atom.predicate in _TOOLS]
        receptacles: dict[str, None] = {}
        for kinds in wanted:
            instances = [name for kind in kinds for name in self._of_type(kind)]
            if receptacles.keys().isdisjoint(instances):
                receptacles.update(dict.fromkeys(instances[:1]))
        objects: dict[str, None] = {}
        for variable, kind in dict.fromkeys(
            atom.arguments for atom in self._atoms if atom.predicate == "objecttype"
        ):
            lamp = Atom("toggleable", (variable,)) in self._atoms
            usable = self._toggleable if lamp else self._portable
            candidates = self.drawn(item for item in usable if self._object_type.get(item) == kind)
            for item in sorted(candidates, key=lambda item: self._is_in(item, targets)):
                if item not in objects and (places := self._places(item)):
                    objects.setdefault(item)
                    receptacles.update(dict.fromkeys(places))
                    break
        return objects, receptacles
