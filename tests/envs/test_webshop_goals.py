"""Goals, prices and price limits: which random numbers are drawn, and what is made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webshop_samples import goal, product, seeded

from multiturn.envs.webshop.goals import (
    NO_LIMIT,
    draw_goal,
    draw_prices,
    human_goals,
    shuffled,
    synthetic_goals,
)
from multiturn.envs.webshop.products import HumanInstruction

if TYPE_CHECKING:
    from collections.abc import Sequence

WISH: dict[str, Any] = {
    "instruction": "Find me easy clean table lamps",
    "instruction_attributes": ("easy clean",),
}


class Scripted:
    """Random numbers as the test wants them, and what was asked for."""

    def __init__(self, *, places: tuple[int, int] = (0, 1), number: float = 0.0) -> None:
        self.asked: list[Any] = []
        self._places = places
        self._number = number

    def sample(self, population: Sequence[float], count: int) -> list[float]:
        self.asked.append((list(population), count))
        return [population[place] for place in self._places]

    def uniform(self, low: float, high: float) -> float:
        self.asked.append((low, high))
        return self._number


def scripted(**options: Any) -> Any:
    return cast("Any", Scripted(**options))


def test_only_products_with_two_prices_draw_one() -> None:
    rng = scripted(number=12.5)
    prices = draw_prices([("A", (10.0,)), ("B", (11.0, 15.0)), ("C", (9.0, 3.0)), ("D", (100.0,))], rng)
    assert prices == {"A": 10.0, "B": 12.5, "C": 12.5, "D": 100.0}
    assert rng.asked == [(11.0, 15.0), (9.0, 3.0)]


def test_prices_follow_from_the_seed_alone() -> None:
    """Python's generator: uniform(10, 20) is 10 + 10 random()."""
    drawn = draw_prices([("A", (10.0, 20.0)), ("B", (10.0, 20.0))], seeded(7))
    first = seeded(7)
    assert drawn == {"A": 10 + 10 * first.random(), "B": 10 + 10 * first.random()}


@pytest.mark.parametrize(
    ("price", "above"),
    [
        (0.5, [10, 20, 30, 40]),
        (19.99, [20, 30, 40, 50]),
        (20.0, [30, 40, 50, 60]),  # a limit is above the price, never equal
        (955.0, [960, 970, 980, 990]),
        (965.0, [970, 980, 990]),
        (975.0, [980, 990]),
    ],
)
def test_limits_are_drawn_from_the_next_tens(price: float, above: list[float]) -> None:
    rng = scripted(places=(1, 0))
    (made,) = synthetic_goals([product(**WISH)], {"B000000001": price}, rng)
    assert rng.asked == [(above, 2)]
    assert made.price_upper == above[1], "the larger of the two"
    text = f"Find me easy clean table lamps, and price lower than {above[1]:.2f} dollars"
    assert made.instruction == text


@pytest.mark.parametrize("price", [980.0, 985.0, 990.0, 4000.0])
def test_dear_products_have_no_limit_and_draw_nothing(price: float) -> None:
    rng = scripted()
    (made,) = synthetic_goals([product(**WISH)], {"B000000001": price}, rng)
    assert (rng.asked, made.price_upper, NO_LIMIT) == ([], 1_000_000.0, 1_000_000.0)
    assert made.instruction == "Find me easy clean table lamps"


def test_every_combination_of_options_is_a_goal() -> None:
    """Kinds in the order of their names, values in the page's; one draw for all of them."""
    options = {"size": ("s", "m"), "color": ("red", "navy blue")}
    rng = scripted(places=(0, 2))
    made = synthetic_goals(
        [product("P1", **WISH, options=options), product("P2"), product("P3", **WISH)],
        {"P1": 19.99, "P2": 19.99, "P3": 41.0},
        rng,
    )
    assert rng.asked == [([20.0, 30.0, 40.0, 50.0], 2), ([50.0, 60.0, 70.0, 80.0], 2)]
    assert [each.asin for each in made] == ["P1"] * 4 + ["P3"]
    assert [each.options for each in made[:4]] == [
        (("color", "red"), ("size", "s")),
        (("color", "red"), ("size", "m")),
        (("color", "navy blue"), ("size", "s")),
        (("color", "navy blue"), ("size", "m")),
    ]
    assert made[3].instruction == (
        "Find me easy clean table lamps with color: navy blue, and size: m, "
        "and price lower than 40.00 dollars"
    )
    assert made[4].options == ()
    assert made[4].instruction == "Find me easy clean table lamps, and price lower than 70.00 dollars"


def test_a_kind_without_values_leaves_no_goal() -> None:
    rng = scripted()
    assert synthetic_goals([product(**WISH, options={"size": ()})], {"B000000001": 5.0}, rng) == []
    assert len(rng.asked) == 1, "the limit is drawn all the same"


def test_weights_worked_by_hand() -> None:
    """P1 asks for a and b in each of two goals, P2 for b: a is asked for twice, b three times.

    Each goal of P1 weighs (1/2 + 1/3) / 2 = 5/12, that of P2 1/3.
    """
    first = product("P1", instruction="x", instruction_attributes=("a", "b"), options={"size": ("s", "m")})
    second = product("P2", instruction="y", instruction_attributes=("b",))
    made = synthetic_goals([first, second], {"P1": 5.0, "P2": 5.0}, seeded(0))
    assert [each.weight for each in made] == pytest.approx([5 / 12, 5 / 12, 1 / 3], abs=1e-15)


def test_goals_that_people_wrote() -> None:
    said = (
        HumanInstruction(text="..a red lamp...", attributes=("solid wood",), options=("red",)),
        HumanInstruction(text="a lamp", attributes=(), options=("blue",)),
        HumanInstruction(text="a. lamp", attributes=("a", "b"), options=()),
    )
    rng = scripted(places=(3, 1))
    products = [product("P1", human_instructions=said), product("P2", **WISH)]
    made = human_goals(products, {"P1": 33.0, "P2": 5.0}, rng)
    assert rng.asked == [([40.0, 50.0, 60.0, 70.0], 2)] * 2, "what asks for no property draws nothing"
    assert [each.instruction for each in made] == [
        "a red lamp, and price lower than 70.00 dollars",
        "a. lamp, and price lower than 70.00 dollars",
    ]
    assert [(each.attributes, each.options, each.weight) for each in made] == [
        (("solid wood",), ("red",), 1.0),
        (("a", "b"), (), 1.0),
    ]
    assert (made[0].asin, made[0].name, made[0].query) == ("P1", "Oak Lamp", "table lamps")


def test_the_order_of_goals_is_the_same_for_every_seed() -> None:
    goals = [goal(instruction=str(number)) for number in range(6)]
    wanted = list(range(6))
    seeded(233).shuffle(wanted)
    for seed in (0, 1):
        rng = seeded(seed)
        assert [int(each.instruction) for each in shuffled(goals, rng)] == wanted
        after = rng.random()
    other = seeded(99)
    shuffled(goals, other)
    assert other.random() == after, "later draws do not depend on earlier ones"
    assert [each.instruction for each in goals] == list("012345")


@pytest.mark.parametrize(
    ("number", "drawn"), [(0.0, 1), (0.9, 1), (1.0, 2), (2.9, 2), (3.0, 2), (5.9, 2), (6.0, 2)]
)
def test_the_first_goal_is_never_drawn(number: float, drawn: int) -> None:
    """Weights 1, 2, 3 end at 0, 1, 3, 6 there: a number belongs to the end after it; 6 is the most."""
    rng = scripted(number=number)
    assert draw_goal([goal(weight=1.0), goal(weight=2.0), goal(weight=3.0)], rng) == drawn
    assert rng.asked == [(0, 6.0)]


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=20), st.integers(0, 1000))
def test_a_drawn_goal_exists(weights: list[float], seed: int) -> None:
    goals = [goal(weight=weight) for weight in weights]
    number = draw_goal(goals, seeded(seed))
    assert min(1, len(goals) - 1) <= number < len(goals)
