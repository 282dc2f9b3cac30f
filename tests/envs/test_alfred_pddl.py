"""Reading problems and deciding goals."""

from __future__ import annotations

import re

import pytest

from multiturn.envs.alfred.pddl import And, Atom, Condition, Exists, Not, Or, parse_problem, satisfied
from multiturn.errors import DataError

FACTS: dict[str, set[tuple[str, ...]]] = {
    "in": {("mug1", "shelf1"), ("mug2", "shelf1"), ("pen1", "shelf2")},
    "kind": {("mug1", "mug"), ("mug2", "mug"), ("pen1", "pen")},
    "clean": {("mug2",)},
}
NO_FACTS: set[tuple[str, ...]] = set()


def holds(condition: Condition) -> bool:
    return satisfied(condition, lambda predicate: FACTS.get(predicate, NO_FACTS))


def kind(variable: str, name: str) -> Atom:
    return Atom("kind", (variable, name))


def test_a_problem_is_its_facts_and_its_goal() -> None:
    problem = parse_problem(
        """(define (problem P1) (:domain d) ; a comment with (parentheses
           (:init (At Agent1 Loc_1) (At Agent1 Loc_2) (not (open box)) (= (total-cost) 0) (done))
           (:goal (and (exists (?x - object ?y - object) (on ?x ?y)) (not (done)))))"""
    )
    assert problem.name == "p1"
    assert problem.facts == {"at": (("agent1", "loc_1"), ("agent1", "loc_2")), "done": ((),)}
    assert problem.goal == And((Exists(("?x", "?y"), Atom("on", ("?x", "?y"))), Not(Atom("done", ()))))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not one (define"),
        ("(define (problem p)", "closing parenthesis is missing"),
        ("(define (problem p)))", "closing parenthesis too many"),
        ("(define (problem p) (:init))", "no section :goal"),
        ("(define (problem p) (:init x) (:goal (a)))", "is not a fact"),
        ("(define (problem p) (:init (at (x))) (:goal (a)))", "a name was expected"),
        ("(define (problem p) (:init) (:goal))", "more or less than one condition"),
        ("(define (problem p) (:init) (:goal x))", "not a condition"),
        ("(define (problem p) (:init) (:goal (forall (?x) (a ?x))))", "'forall'"),
    ],
)
def test_what_is_not_a_problem_is_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        parse_problem(text)


def test_parts_that_bind_come_before_parts_that_test() -> None:
    problem = parse_problem(
        """(define (problem p) (:init)
           (:goal (exists (?a ?b) (and (not (= ?a ?b)) (exists (?c) (x ?c)) (y ?a)))))"""
    )
    assert isinstance(problem.goal, Exists)
    assert isinstance(problem.goal.part, And)
    assert [type(part) for part in problem.goal.part.parts] == [Atom, Exists, Not]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (Atom("in", ("mug1", "shelf1")), True),
        (Atom("in", ("mug1", "shelf2")), False),
        (Atom("unknown", ("mug1",)), False),
        (Exists(("?o",), And((kind("?o", "mug"), Atom("in", ("?o", "shelf2"))))), False),
        (Exists(("?o",), And((kind("?o", "mug"), Atom("clean", ("?o",))))), True),
        (Exists(("?o",), And((kind("?o", "mug"), Not(Atom("clean", ("?o",)))))), True),
        (Exists(("?o",), And((kind("?o", "pen"), Atom("clean", ("?o",))))), False),
        (Or((Atom("clean", ("mug1",)), Atom("clean", ("mug2",)))), True),
        (Or(()), False),
        (And(()), True),
        (Not(Atom("clean", ("mug1",))), True),
        (Atom("=", ("a", "a")), True),
        (Exists(("?x",), Atom("in", ("?x", "?x"))), False),
    ],
)
def test_conditions(*, condition: Condition, expected: bool) -> None:
    assert holds(condition) is expected


def two_in_one_place(name: str) -> Condition:
    second = And((kind("?b", name), Atom("in", ("?b", "?r")), Not(Atom("=", ("?a", "?b")))))
    return Exists(("?r", "?a"), And((kind("?a", name), Atom("in", ("?a", "?r")), Exists(("?b",), second))))


def test_two_different_objects_are_told_from_the_same_twice() -> None:
    assert holds(two_in_one_place("mug"))
    assert not holds(two_in_one_place("pen"))


def test_an_inner_variable_hides_an_outer_one() -> None:
    inner = Exists(("?o",), And((kind("?o", "pen"), Atom("in", ("?o", "shelf2")))))
    assert holds(Exists(("?o",), And((kind("?o", "mug"), inner))))
