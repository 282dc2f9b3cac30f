"""The engine on a room made by hand; every expected sentence is written by hand from the domain's grammar."""

from __future__ import annotations

import pytest

from multiturn.envs.alfred import MOVE, PUT, Engine, Grammar, parse_problem
from multiturn.errors import DataError

KITCHEN = """
; Two cabinets share a location. Ids are numbered downward: cabinet_bar_1 is "cabinet 2".
(define (problem by_hand)
(:domain alfred)
(:objects agent1 - agent)
(:init
    (atLocation agent1 loc_bar_0)
    (= (total-cost) 0)
    (receptacleType Cabinet_bar_1 CabinetType) (receptacleAtLocation Cabinet_bar_1 loc_bar_1)
    (receptacleType Cabinet_bar_2 CabinetType) (receptacleAtLocation Cabinet_bar_2 loc_bar_1)
    (receptacleType Sink_bar_1_bar_SinkBasin SinkBasinType)
    (receptacleAtLocation Sink_bar_1_bar_SinkBasin loc_bar_2)
    (receptacleType Fridge_bar_1 FridgeType) (receptacleAtLocation Fridge_bar_1 loc_bar_3)
    (receptacleType Microwave_bar_1 MicrowaveType) (receptacleAtLocation Microwave_bar_1 loc_bar_4)
    (receptacleType CounterTop_bar_1 CounterTopType) (receptacleAtLocation CounterTop_bar_1 loc_bar_5)
    (openable Cabinet_bar_1) (openable Cabinet_bar_2) (openable Fridge_bar_1) (openable Microwave_bar_1)

    (objectType Apple_bar_1 AppleType) (objectAtLocation Apple_bar_1 loc_bar_1)
    (inReceptacle Apple_bar_1 Cabinet_bar_1)
    (objectType Apple_bar_2 AppleType) (objectAtLocation Apple_bar_2 loc_bar_5)
    (inReceptacle Apple_bar_2 CounterTop_bar_1)
    (objectType Knife_bar_1 KnifeType) (objectAtLocation Knife_bar_1 loc_bar_5)
    (inReceptacle Knife_bar_1 CounterTop_bar_1)
    (objectType Bowl_bar_1 BowlType) (objectAtLocation Bowl_bar_1 loc_bar_5)
    (inReceptacle Bowl_bar_1 CounterTop_bar_1)
    (objectType Egg_bar_1 EggType) (objectAtLocation Egg_bar_1 loc_bar_5)
    (inReceptacle Egg_bar_1 CounterTop_bar_1) (inReceptacleObject Egg_bar_1 Bowl_bar_1)
    (objectType DeskLamp_bar_1 DeskLampType) (objectAtLocation DeskLamp_bar_1 loc_bar_5)
    (inReceptacle DeskLamp_bar_1 CounterTop_bar_1)
    (pickupable Apple_bar_1) (pickupable Apple_bar_2) (pickupable Knife_bar_1) (pickupable Bowl_bar_1)
    (pickupable Egg_bar_1) (isReceptacleObject Bowl_bar_1) (toggleable DeskLamp_bar_1)
    (cleanable Apple_bar_1) (heatable Apple_bar_1) (coolable Apple_bar_1) (sliceable Apple_bar_1)
    (cleanable Apple_bar_2) (heatable Apple_bar_2) (coolable Apple_bar_2) (sliceable Apple_bar_2)
    (cleanable Knife_bar_1)
    (canContain CabinetType AppleType) (canContain CabinetType BowlType)
    (canContain CounterTopType AppleType) (canContain CounterTopType KnifeType)
    (canContain CounterTopType BowlType) (canContain CounterTopType EggType)
    (canContain FridgeType AppleType)
)
(:goal (and (exists (?r - receptacle) (exists (?o - object)
    (and (heatable ?o) (objectType ?o AppleType) (receptacleType ?r FridgeType) (isHot ?o)
         (inReceptacle ?o ?r))))))
)
"""

INTRO = (
    "-= Welcome to TextWorld, ALFRED! =-\n\n"
    "You are in the middle of a room. Looking quickly around you, you see a cabinet 2, a cabinet 1, "
    "a countertop 1, a fridge 1, a microwave 1, and a sinkbasin 1.\n\n"
    "Your task is to: heat some apple and put it in fridge."
)
COUNTER = "On the countertop 1, you see a apple 1, a bowl 1, a desklamp 1, a egg 1, and a knife 1."


def kitchen(grammar: Grammar = PUT) -> Engine:
    return Engine(parse_problem(KITCHEN), "heat some apple and put it in fridge.", grammar)


def play(engine: Engine, *transcript: tuple[str, str]) -> None:
    for command, expected in transcript:
        assert (command, engine.step(command).observation) == (command, expected)


def test_first_sentences_and_commands() -> None:
    engine = kitchen()
    assert engine.last.observation == INTRO
    assert (engine.last.won, engine.last.done, engine.last.score) == (False, False, 0)
    assert engine.admissible_commands() == [
        "go to cabinet 1",
        "go to cabinet 2",
        "go to countertop 1",
        "go to fridge 1",
        "go to microwave 1",
        "go to sinkbasin 1",
        "inventory",
        "look",
    ]


def test_a_look_from_the_start_sees_nothing() -> None:
    play(
        kitchen(),
        ("look", "You are in the middle of a room. Looking quickly around you, you see nothing."),
        ("inventory", "You are not carrying anything."),
    )


def test_going_opening_closing_and_examining_places() -> None:
    engine = kitchen()
    play(
        engine,
        ("go to fridge 1", "You arrive at loc 3. The fridge 1 is closed."),
        ("examine fridge 1", "The fridge 1 is closed."),
        ("close fridge 1", "Nothing happens."),
        ("open fridge 1", "You open the fridge 1. The fridge 1 is open. In it, you see nothing."),
        ("open fridge 1", "Nothing happens."),
        ("examine fridge 1", "The fridge 1 is open. In it, you see nothing."),
        ("close fridge 1", "You close the fridge 1."),
        ("look", "You are facing the fridge 1. Next to it, you see nothing."),
        ("go to fridge 1", "Nothing happens."),
        ("examine countertop 1", "Nothing happens."),
        ("go to countertop 1", f"You arrive at loc 1. {COUNTER}"),
        ("examine countertop 1", COUNTER),
    )


def test_commands_at_a_location_that_two_cabinets_share() -> None:
    engine = kitchen()
    engine.step("go to cabinet 2")
    assert engine.admissible_commands() == [
        "examine cabinet 1",
        "examine cabinet 2",
        "go to countertop 1",
        "go to fridge 1",
        "go to microwave 1",
        "go to sinkbasin 1",
        "inventory",
        "look",
        "open cabinet 1",
        "open cabinet 2",
    ]


def test_what_was_moved_between_places_of_one_location_lies_next_to_them() -> None:
    play(
        kitchen(),
        ("go to cabinet 2", "You arrive at loc 5. The cabinet 2 is closed."),
        ("take apple 2 from cabinet 2", "Nothing happens."),
        ("look", "You are facing the cabinet 2, and cabinet 1. Next to it, you see nothing."),
        ("open cabinet 2", "You open the cabinet 2. The cabinet 2 is open. In it, you see a apple 2."),
        ("take apple 2 from cabinet 2", "You pick up the apple 2 from the cabinet 2."),
        ("put apple 2 in/on cabinet 1", "Nothing happens."),
        ("open cabinet 1", "You open the cabinet 1. The cabinet 1 is open. In it, you see nothing."),
        ("put apple 2 in/on cabinet 1", "You put the apple 2 in/on the cabinet 1."),
        ("look", "You are facing the cabinet 2, and cabinet 1. Next to it, you see a apple 2."),
        ("take apple 2 from cabinet 1", "You pick up the apple 2 from the cabinet 1."),
        ("put apple 2 in/on cabinet 2", "You put the apple 2 in/on the cabinet 2."),
        ("look", "You are facing the cabinet 2, and cabinet 1. Next to it, you see a apple 2."),
    )


def test_what_objects_look_like() -> None:
    engine = kitchen()
    engine.step("go to countertop 1")
    assert "examine bowl 1" not in engine.admissible_commands()
    play(
        engine,
        ("examine apple 1", "Nothing happens."),
        ("take bowl 1 from countertop 1", "You pick up the bowl 1 from the countertop 1."),
        ("inventory", "You are carrying: a bowl 1."),
        ("examine bowl 1", "This is a normal bowl 1. In it, you see a egg 1."),
        ("take apple 1 from countertop 1", "Nothing happens."),
        ("put bowl 1 in/on countertop 1", "You put the bowl 1 in/on the countertop 1."),
        ("take knife 1 from countertop 1", "You pick up the knife 1 from the countertop 1."),
        ("examine knife 1", "There's nothing special about knife 1."),
        ("slice apple 1 with knife 1", "You sliced the apple 1 with the knife 1."),
        ("slice apple 1 with knife 1", "You sliced the apple 1 with the knife 1."),
        ("slice bowl 1 with knife 1", "Nothing happens."),
        ("put knife 1 in/on countertop 1", "You put the knife 1 in/on the countertop 1."),
        ("take apple 1 from countertop 1", "You pick up the apple 1 from the countertop 1."),
        ("examine apple 1", "This is a sliced apple 1."),
        ("go to sinkbasin 1", "You arrive at loc 4. On the sinkbasin 1, you see nothing."),
        ("clean apple 1 with sinkbasin 1", "You clean the apple 1 using the sinkbasin 1."),
        ("examine apple 1", "This is a clean sliced apple 1."),
        ("put apple 1 in/on sinkbasin 1", "Nothing happens."),
        ("go to fridge 1", "You arrive at loc 3. The fridge 1 is closed."),
        ("cool apple 1 with fridge 1", "You cool the apple 1 using the fridge 1."),
        ("examine apple 1", "This is a cool and clean sliced apple 1."),
        ("go to microwave 1", "You arrive at loc 2. The microwave 1 is closed."),
        ("heat apple 1 with microwave 1", "You heat the apple 1 using the microwave 1."),
        ("examine apple 1", "This is a hot and clean sliced apple 1."),
    )


@pytest.mark.parametrize(
    ("treatments", "expected"),
    [
        (["heat"], "This is a hot apple 1."),
        (["cool"], "This is a cold apple 1."),
        (["clean"], "This is a clean apple 1."),
        (["heat", "cool"], "This is a cold apple 1."),
        (["cool", "heat"], "This is a hot apple 1."),
        (["clean", "cool"], "This is a cool and clean apple 1."),
        (["heat", "clean"], "This is a hot and clean apple 1."),
    ],
)
def test_treatments_show_and_exclude_each_other(treatments: list[str], expected: str) -> None:
    engine = kitchen()
    engine.step("go to countertop 1")
    engine.step("take apple 1 from countertop 1")
    tools = {"heat": "microwave 1", "cool": "fridge 1", "clean": "sinkbasin 1"}
    for treatment in treatments:
        engine.step(f"go to {tools[treatment]}")
        assert engine.step(f"{treatment} apple 1 with {tools[treatment]}").valid
    assert engine.step("examine apple 1").observation == expected


def test_a_lamp_only_ever_turns_on() -> None:
    play(
        kitchen(),
        ("use desklamp 1", "Nothing happens."),
        ("go to countertop 1", f"You arrive at loc 1. {COUNTER}"),
        ("take desklamp 1 from countertop 1", "Nothing happens."),
        ("use desklamp 1", "You turn on the desklamp 1."),
        ("use desklamp 1", "You turn on the desklamp 1."),
        ("use apple 1", "Nothing happens."),
    )


@pytest.mark.parametrize(
    "command",
    [
        "",
        "LOOK",
        "Go to fridge 1",
        "go  to fridge 1",
        "go to fridge 2",
        "go to fridge",
        "go to fridge 1 now",
        "help",
        "move apple 1 to fridge 1",
        "look\nlook",
        "Action: look",
        "{object}",
    ],
)
def test_anything_else_does_nothing(command: str) -> None:
    engine = kitchen()
    before = engine.admissible_commands()
    outcome = engine.step(command)
    assert (outcome.observation, outcome.valid, outcome.won) == ("Nothing happens.", False, False)
    assert engine.admissible_commands() == before


def test_blanks_around_a_command_do_not_matter() -> None:
    play(kitchen(), ("  go to fridge 1\t\n", "You arrive at loc 3. The fridge 1 is closed."))


def win(engine: Engine) -> None:
    for command in (
        "go to countertop 1",
        "take apple 1 from countertop 1",
        "go to microwave 1",
        "heat apple 1 with microwave 1",
        "go to fridge 1",
        "open fridge 1",
    ):
        outcome = engine.step(command)
        assert (outcome.valid, outcome.won, outcome.done) == (True, False, False)


def test_winning_ends_the_game_for_good() -> None:
    engine = kitchen()
    win(engine)
    outcome = engine.step("put apple 1 in/on fridge 1")
    assert outcome.observation == "You put the apple 1 in/on the fridge 1."
    assert (outcome.won, outcome.done, outcome.score) == (True, True, 1)
    commands = engine.admissible_commands()
    for command in ("take apple 1 from fridge 1", "look", "no such thing"):
        assert engine.step(command) == outcome
        assert engine.admissible_commands() == commands
    assert engine.reset().observation == INTRO
    assert not engine.last.done


def test_the_newer_wording() -> None:
    engine = kitchen(MOVE)
    assert "help" in engine.admissible_commands()
    answer = engine.step("help").observation
    assert answer.startswith("Available commands:\n  look:                             look around")
    play(
        engine,
        ("go to countertop 1", f"You arrive at countertop 1. {COUNTER}"),
        ("go to cabinet 1", "You arrive at cabinet 1. The cabinet 1 is closed."),
    )
    win(engine)
    play(
        engine,
        ("put apple 1 in/on fridge 1", "Nothing happens."),
        ("move apple 1 to fridge 1", "You move the apple 1 to the fridge 1."),
    )
    assert engine.last.won


def test_a_start_next_to_a_place_faces_it_at_once() -> None:
    text = KITCHEN.replace("agent1 loc_bar_0", "agent1 loc_bar_3")
    engine = Engine(parse_problem(text), "heat some apple and put it in fridge.")
    assert (
        "\n\nYou are facing the fridge 1. Next to it, you see nothing.\n\nYour task"
        in engine.last.observation
    )
    assert "open fridge 1" in engine.admissible_commands()


def test_a_problem_without_an_agent_is_refused() -> None:
    text = KITCHEN.replace("(atLocation agent1 loc_bar_0)", "")
    with pytest.raises(DataError, match="atLocation"):
        Engine(parse_problem(text), "wait.")
