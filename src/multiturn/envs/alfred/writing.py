"""Write a problem as PDDL: what the official engine reads of games that no file has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from multiturn.envs.alfred.pddl import And, Atom, Exists, Not, Or, atoms

if TYPE_CHECKING:
    from collections.abc import Iterator

    from multiturn.envs.alfred.pddl import Condition, Problem

__all__ = ["problem_text"]

_OBJECT = ("object",)
_SIGNATURES = {
    "atlocation": ("agent", "location"),
    "cancontain": ("rtype", "otype"),
    "holds": ("agent", "object"),
    "holdsany": ("agent",),
    "holdsanyreceptacleobject": ("agent",),
    "checked": ("receptacle",),
    "examined": ("location",),
    "full": ("receptacle",),
    "inreceptacle": ("object", "receptacle"),
    "inreceptacleobject": ("object", "object"),
    "objectatlocation": ("object", "location"),
    "objecttype": ("object", "otype"),
    "openable": ("receptacle",),
    "opened": ("receptacle",),
    "receptacleatlocation": ("receptacle", "location"),
    "receptacletype": ("receptacle", "rtype"),
    "wasinreceptacle": ("object", "receptacle"),
}
"""Predicate -> the types of its arguments; all others say something of one object."""

_TELLING = ("objecttype", "receptacletype", "receptacleatlocation")
"""What says best what a thing is: ALFRED also has objects that are openable."""

_NAMED_BY_THE_DOMAIN = {
    "sinktype": "rtype",
    "sinkbasintype": "rtype",
    "microwavetype": "rtype",
    "fridgetype": "rtype",
    "knifetype": "otype",
    "butterknifetype": "otype",
}
"""The domain mentions these without declaring them, so every problem has to."""


def problem_text(problem: Problem) -> str:
    """A problem as PDDL.

    ``parse_problem`` reads it back as the same problem.
    """
    types = dict(_NAMED_BY_THE_DOMAIN)
    facts: list[str] = []
    for predicate, tuples in problem.facts.items():
        facts += [f"({' '.join((predicate, *arguments))})" for arguments in tuples]
    for predicate in sorted(problem.facts, key=_is_telling):
        for arguments in problem.facts[predicate]:
            types.update(_typed(predicate, arguments))
    objects = [f"{name} - {kind}" for name, kind in types.items()]
    variables: dict[str, str] = {}
    for atom in atoms(problem.goal):
        for name, kind in _typed(atom.predicate, atom.arguments):
            if name.startswith("?"):
                variables.setdefault(name, kind)
    return "\n".join(
        (
            f"(define (problem {problem.name})",
            "(:domain alfred)",
            "(:objects",
            *objects,
            ")",
            "(:init",
            *facts,
            ")",
            f"(:goal {_written(problem.goal, variables)})",
            ")",
            "",
        )
    )


def _is_telling(predicate: str) -> int:
    return _TELLING.index(predicate) if predicate in _TELLING else -1


def _typed(predicate: str, arguments: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if predicate != "=":
        yield from zip(arguments, _SIGNATURES.get(predicate, _OBJECT), strict=True)


def _written(condition: Condition, variables: dict[str, str]) -> str:
    match condition:
        case Atom(predicate, arguments):
            return f"({' '.join((predicate, *arguments))})"
        case Not(part):
            return f"(not {_written(part, variables)})"
        case And(parts) | Or(parts):
            word = "and" if isinstance(condition, And) else "or"
            return f"({' '.join((word, *(_written(part, variables) for part in parts)))})"
        case Exists(names, part):
            typed = " ".join(f"{name} - {variables.get(name, 'object')}" for name in names)
            return f"(exists ({typed}) {_written(part, variables)})"
