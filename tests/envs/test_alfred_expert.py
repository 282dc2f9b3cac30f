"""The expert: what it reads, what it decides, and that it wins from wherever it takes over."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiturn.envs.alfred import MOVE, PUT, household
from multiturn.envs.alfred.expert import Expert
from multiturn.envs.alfred.games import SENTENCES, Goal, parse_goal
from multiturn.envs.alfred.memory import Memory

INTRO = (
    "You are in the middle of a room. Looking quickly around you, you see a cabinet 2, a cabinet 1, "
    "a countertop 1, a fridge 1, and a sinkbasin 1.\n\nYour task is to: {task}"
)


def expert(task: str, *seen: tuple[str, str]) -> Expert:
    made = Expert(INTRO.format(task=task), PUT)
    for action, observation in seen:
        made.observe(action, observation)
    return made


def decision(task: str, *seen: tuple[str, str]) -> str | None:
    decided = expert(task, *seen).act()
    return None if decided is None else decided.action


COUNTER = ("go to countertop 1", "You arrive at loc 7. On the countertop 1, you see a apple 1, and a mug 1.")
TAKE = ("take apple 1 from countertop 1", "You pick up the apple 1 from the countertop 1.")
SINK = ("go to sinkbasin 1", "You arrive at loc 3. On the sinkbasin 1, you see nothing.")
CLEAN = ("clean apple 1 with sinkbasin 1", "You clean the apple 1 using the sinkbasin 1.")
FRIDGE = ("go to fridge 1", "You arrive at loc 4. The fridge 1 is closed.")
OPEN = ("open fridge 1", "You open the fridge 1. The fridge 1 is open. In it, you see nothing.")


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("put a mug in cabinet.", Goal(object="mug", target="cabinet")),
        ("put some mug on cabinet.", Goal(object="mug", target="cabinet")),
        ("put a clean mug in cabinet.", Goal(object="mug", target="cabinet", treatment="clean")),
        ("clean some mug and put it in cabinet.", Goal(object="mug", target="cabinet", treatment="clean")),
        ("put a hot mug in cabinet.", Goal(object="mug", target="cabinet", treatment="heat")),
        ("heat some mug and put it in cabinet.", Goal(object="mug", target="cabinet", treatment="heat")),
        ("put a cool mug in cabinet.", Goal(object="mug", target="cabinet", treatment="cool")),
        ("cool some mug and put it in cabinet.", Goal(object="mug", target="cabinet", treatment="cool")),
        ("put two mug in cabinet.", Goal(object="mug", target="cabinet", count=2)),
        ("find two mug and put them in cabinet.", Goal(object="mug", target="cabinet", count=2)),
        ("look at mug under the desklamp.", Goal(object="mug", target="desklamp", light=True)),
        ("examine the mug with the desklamp.", Goal(object="mug", target="desklamp", light=True)),
        ("Please tidy up.", None),
    ],
)
def test_goal_sentences(task: str, expected: Goal | None) -> None:
    assert parse_goal(task) == expected


def test_every_sentence_that_is_made_up_is_understood() -> None:
    for sentences in SENTENCES.values():
        for sentence in sentences:
            assert parse_goal(sentence.format(object="cd", target="desk")) is not None


def test_it_searches_where_such_things_usually_are() -> None:
    assert decision("put a clean apple in fridge.") == "go to countertop 1"


@given(st.integers(0, 999))
@settings(deadline=None, max_examples=30)
def test_it_can_search_in_the_order_of_the_list(index: int) -> None:
    env = household(size="small", search="listed")
    step = env.reset(f"train/{index}")
    listed, visited = Memory(step.observation).receptacles, list[str]()
    held = False
    while not step.terminated:
        decided = env.expert_action()
        assert decided is not None
        if not held and decided.action.startswith("go to "):
            visited.append(decided.action.removeprefix("go to "))
        held = held or decided.action.startswith("take ")
        step = env.step(decided.action)
    assert step.success
    assert visited == listed[: len(visited)]


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([COUNTER], "take apple 1 from countertop 1"),
        ([COUNTER, TAKE], "go to sinkbasin 1"),
        ([COUNTER, TAKE, SINK], "clean apple 1 with sinkbasin 1"),
        ([COUNTER, TAKE, SINK, CLEAN], "go to fridge 1"),
        ([COUNTER, TAKE, SINK, CLEAN, FRIDGE], "open fridge 1"),
        ([COUNTER, TAKE, SINK, CLEAN, FRIDGE, OPEN], "put apple 1 in/on fridge 1"),
    ],
)
def test_it_does_one_thing_after_the_other(seen: list[tuple[str, str]], expected: str) -> None:
    assert decision("put a clean apple in fridge.", *seen) == expected


def test_thoughts_are_one_short_sentence() -> None:
    seen = [COUNTER, TAKE, SINK, CLEAN, FRIDGE, OPEN]
    for length in range(len(seen) + 1):
        decided = expert("put a clean apple in fridge.", *seen[:length]).act()
        assert decided is not None
        assert 10 < len(decided.thought) < 90
        assert decided.thought.count(".") == 1


def test_it_puts_down_what_it_does_not_need() -> None:
    mug = ("take mug 1 from countertop 1", "You pick up the mug 1 from the countertop 1.")
    assert decision("put a clean apple in fridge.", COUNTER, mug) == "put mug 1 in/on countertop 1"


def test_it_does_not_try_twice_what_was_refused_when_it_should_have_worked() -> None:
    mug = ("take mug 1 from countertop 1", "You pick up the mug 1 from the countertop 1.")
    made = expert("put a clean apple in fridge.", COUNTER, mug)
    first = made.act()
    assert first is not None
    made.observe(first.action, "Nothing happens.")
    second = made.act()
    assert second is not None
    assert second.action != first.action


def test_it_learns_nothing_from_what_an_agent_tried_at_the_wrong_time() -> None:
    wrong = ("take apple 1 from countertop 1", "Nothing happens.")
    assert decision("put a clean apple in fridge.", wrong, COUNTER) == "take apple 1 from countertop 1"


def test_the_second_object_goes_where_the_first_went() -> None:
    first = ("put apple 2 in/on cabinet 2", "You put the apple 2 in/on the cabinet 2.")
    made = expert("put two apple in cabinet.", COUNTER, TAKE, first)
    assert made.memory.held is None
    made.observe(*TAKE)
    decided = made.act()
    assert decided is not None
    assert decided.action == "go to cabinet 2"


def test_it_gives_up_on_words_it_does_not_know() -> None:
    assert decision("Please tidy up.") is None
    assert Expert("Hello.", PUT).act() is None


def test_it_gives_up_when_there_is_nowhere_left_to_look() -> None:
    made = Expert(
        "You are in the middle of a room. Looking quickly around you, you see a countertop 1.\n\n"
        "Your task is to: put a spoon in countertop.",
        PUT,
    )
    made.observe(*COUNTER)
    assert made.act() is None


def test_memory_keeps_what_was_said() -> None:
    memory = Memory(INTRO.format(task="put a mug in cabinet."))
    assert memory.receptacles == ["cabinet 2", "cabinet 1", "countertop 1", "fridge 1", "sinkbasin 1"]
    assert memory.task == "put a mug in cabinet."
    for action, observation in (
        COUNTER,
        TAKE,
        ("look", "You are facing the countertop 1, and sinkbasin 1. Next to it, you see nothing."),
        ("cool apple 1 with fridge 1", "You cool the apple 1 using the fridge 1."),
        ("heat apple 1 with microwave 1", "You heat the apple 1 using the microwave 1."),
        ("use desklamp 1", "You turn on the desklamp 1."),
        ("close fridge 1", "You close the fridge 1."),
        ("go to countertop 1", "Nothing happens."),
    ):
        memory.observe(action, observation)
    assert memory.contents == {"countertop 1": ["mug 1"]}
    assert memory.held == "apple 1"
    assert memory.treatments == {"apple 1": {"heat"}}
    assert memory.here == {"countertop 1", "sinkbasin 1"}
    assert memory.closed == {"fridge 1"}
    assert memory.lit == {"desklamp 1"}


def test_it_reads_the_newer_wording() -> None:
    memory = Memory(INTRO.format(task="put a mug in cabinet."))
    memory.observe("go to cabinet 1", "You arrive at cabinet 1. The cabinet 1 is closed.")
    memory.observe("open cabinet 1", "You open the cabinet 1. The cabinet 1 is open. In it, you see nothing.")
    memory.observe("move mug 1 to cabinet 1", "You move the mug 1 to the cabinet 1.")
    assert memory.contents == {"cabinet 1": ["mug 1"]}
    made = Expert(INTRO.format(task="put a mug in countertop."), MOVE)
    made.observe(*COUNTER)
    made.observe("take mug 1 from countertop 1", "You pick up the mug 1 from the countertop 1.")
    decided = made.act()
    assert decided is not None
    assert decided.action == "move mug 1 to countertop 1"


def test_it_finds_out_that_a_place_is_here_already() -> None:
    """Two cabinets at one location: one cannot go from one to the other, and then has to look."""
    made = expert(
        "put a plate in fridge.",
        COUNTER,
        ("go to cabinet 1", "You arrive at loc 5. The cabinet 1 is closed."),
        ("open cabinet 1", "You open the cabinet 1. The cabinet 1 is open. In it, you see nothing."),
        ("go to cabinet 2", "Nothing happens."),
    )
    assert made.memory.here == {"cabinet 1", "cabinet 2"}
    decided = made.act()
    assert decided is not None
    assert decided.action == "examine cabinet 2"


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 999), st.integers(0, 40), st.integers(0, 10**6), st.sampled_from(["put", "move"]))
def test_it_wins_from_any_state_that_an_agent_has_got_into(
    index: int, wandering: int, seed: int, grammar: str
) -> None:
    env = household(size="small", grammar=grammar, admissible=True)
    rng = random.Random(seed)  # noqa: S311 - a wandering agent, no secret
    step = env.reset(f"train/{index}")
    for _ in range(wandering):
        if step.terminated:
            return
        commands = step.info["admissible_commands"]
        assert isinstance(commands, list)
        step = env.step(str(rng.choice([*commands, "go to fridge 1", "open cabinet 1", "take it", ""])))
    for _ in range(40):
        if step.terminated:
            break
        decided = env.expert_action()
        assert decided is not None
        step = env.step(decided.action)
    assert step.success
