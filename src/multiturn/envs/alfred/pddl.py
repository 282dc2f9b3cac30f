"""Read planning problems: the facts at the start and the goal, nothing else of PDDL."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

from multiturn.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    Facts = Callable[[str], Collection[tuple[str, ...]]]

__all__ = [
    "And",
    "Atom",
    "Condition",
    "Exists",
    "Not",
    "Or",
    "Problem",
    "atoms",
    "parse_problem",
    "satisfied",
]

_Expression = str | list["_Expression"]

_TOKEN = re.compile(r"[()]|[^\s()]+")
_COMMENT = re.compile(r";[^\n]*")


@dataclasses.dataclass(frozen=True, slots=True)
class Atom:
    """``(predicate argument ...)``; an argument that begins with ``?`` is a variable."""

    predicate: str
    arguments: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold. Its variables must be bound by other parts of the same conjunction."""

    part: Condition


@dataclasses.dataclass(frozen=True, slots=True)
class And:
    """All parts hold."""

    parts: tuple[Condition, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Or:
    """At least one part holds."""

    parts: tuple[Condition, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Exists:
    """The part holds for some value of the variables. Types are implied by the predicates."""

    variables: tuple[str, ...]
    part: Condition


Condition = Atom | Not | And | Or | Exists


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """A planning problem. All names are in lower case: PDDL does not tell case apart.

    Attributes:
        name: The problem's own name.
        facts: What holds at the start: predicate -> its argument tuples, in the order of the file.
        goal: What has to hold for the game to be won.
    """

    name: str
    facts: Mapping[str, tuple[tuple[str, ...], ...]]
    goal: Condition


def parse_problem(text: str) -> Problem:
    """Parse a PDDL problem.

    Args:
        text: ``(define (problem NAME) ... (:init FACT ...) (:goal CONDITION))``. Negated facts and numeric
            assignments of ``:init`` are skipped: absent means false, and nothing here counts costs.

    Raises:
        DataError: The parentheses do not match, a section is missing, or the goal uses something that is
            not and, or, not, exists or a fact.
    """
    expression = _read(text.lower())
    sections = {str(part[0]): part for part in expression if isinstance(part, list) and part}
    missing = [name for name in ("problem", ":init", ":goal") if name not in sections]
    if missing:
        raise DataError(f"not a PDDL problem: it has no section {' and no '.join(missing)}")
    facts: dict[str, list[tuple[str, ...]]] = {}
    for fact in sections[":init"][1:]:
        if not isinstance(fact, list) or not fact:
            raise DataError(f"not a PDDL problem: {fact!r} in :init is not a fact")
        predicate, *arguments = fact
        if predicate in {"=", "not"}:
            continue
        facts.setdefault(_symbol(predicate), []).append(tuple(map(_symbol, arguments)))
    if len(sections[":goal"]) != 2:
        raise DataError("not a PDDL problem: :goal holds more or less than one condition")
    name = sections["problem"][1] if len(sections["problem"]) > 1 else ""
    frozen = {predicate: tuple(arguments) for predicate, arguments in facts.items()}
    return Problem(name=_symbol(name), facts=frozen, goal=_condition(sections[":goal"][1]))


def satisfied(condition: Condition, facts: Facts) -> bool:
    """Whether a condition without free variables holds.

    Args:
        condition: The condition.
        facts: Gives the argument tuples of a predicate that hold now; empty for unknown predicates.
            Membership should be cheap (a set).
    """
    return next(_solutions(condition, facts, {}), None) is not None


def atoms(condition: Condition) -> Iterator[Atom]:
    """The facts that a condition mentions, from left to right."""
    match condition:
        case Atom():
            yield condition
        case Not(part) | Exists(_, part):
            yield from atoms(part)
        case And(parts) | Or(parts):
            for part in parts:
                yield from atoms(part)


def _read(text: str) -> list[_Expression]:
    """Text to nested lists; exactly one outermost list."""
    stack: list[list[_Expression]] = [[]]
    if ";" in text:
        text = _COMMENT.sub("", text)
    for word in _TOKEN.findall(text):
        if word == "(":
            stack.append([])
        elif word == ")":
            closed = stack.pop()
            if not stack:
                raise DataError("not a PDDL problem: a closing parenthesis too many")
            stack[-1].append(closed)
        else:
            stack[-1].append(word)
    if len(stack) > 1:
        raise DataError("not a PDDL problem: a closing parenthesis is missing")
    if len(stack[0]) != 1 or not isinstance(stack[0][0], list):
        raise DataError("not a PDDL problem: it is not one (define ...) expression")
    return stack[0][0]


def _symbol(expression: _Expression) -> str:
    if not isinstance(expression, str):
        raise DataError(f"not a PDDL problem: a name was expected, not {expression!r}")
    return expression


def _condition(expression: _Expression) -> Condition:
    if isinstance(expression, str) or not expression:
        raise DataError(f"the goal of this PDDL problem is not understood: {expression!r} is not a condition")
    head, *rest = expression
    match head:
        case "and":
            return And(tuple(sorted(map(_condition, rest), key=_binding_order)))
        case "or":
            return Or(tuple(map(_condition, rest)))
        case "not" if len(rest) == 1:
            return Not(_condition(rest[0]))
        case "exists" if len(rest) == 2 and isinstance(rest[0], list):
            names = tuple(name for name in map(_symbol, rest[0]) if name.startswith("?"))
            return Exists(names, _condition(rest[1]))
        case "not" | "exists" | "forall" | "imply" | "when" | list():
            raise DataError(f"the goal of this PDDL problem is not understood: {head!r}")
        case _:
            return Atom(_symbol(head), tuple(map(_symbol, rest)))


def _binding_order(condition: Condition) -> int:
    """Parts that bind variables before parts that only test them; else the order of the file."""
    if isinstance(condition, Atom):
        return 3 if condition.predicate == "=" else 0
    return {And: 1, Or: 1, Exists: 1, Not: 3}[type(condition)]


def _solutions(condition: Condition, facts: Facts, bound: dict[str, str]) -> Iterator[dict[str, str]]:
    match condition:
        case Atom(predicate, arguments):
            yield from _matches(predicate, arguments, facts, bound)
        case Not(part):
            if next(_solutions(part, facts, bound), None) is None:
                yield bound
        case Or(parts):
            for part in parts:
                yield from _solutions(part, facts, bound)
        case And(parts):
            yield from _all(parts, facts, bound)
        case Exists(variables, part):
            outer = {name: value for name, value in bound.items() if name not in variables}
            if next(_solutions(part, facts, outer), None) is not None:
                yield bound


def _all(parts: tuple[Condition, ...], facts: Facts, bound: dict[str, str]) -> Iterator[dict[str, str]]:
    if not parts:
        yield bound
        return
    for extended in _solutions(parts[0], facts, bound):
        yield from _all(parts[1:], facts, extended)


def _matches(
    predicate: str, arguments: tuple[str, ...], facts: Facts, bound: dict[str, str]
) -> Iterator[dict[str, str]]:
    wanted = tuple(bound.get(argument, argument) for argument in arguments)
    if predicate == "=":
        if len(set(wanted)) == 1:
            yield bound
        return
    known = facts(predicate)
    if not any(argument.startswith("?") for argument in wanted):
        if wanted in known:
            yield bound
        return
    for fact in known:
        extended = dict(bound)
        for argument, value in zip(wanted, fact, strict=True):
            # A variable may occur twice in one atom: the second time it is bound already.
            needed = extended.setdefault(argument, value) if argument.startswith("?") else argument
            if needed != value:
                break
        else:
            yield extended
