"""Products as they come out of the original's files."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webshop_samples import record

from multiturn.envs.webshop.products import HumanInstruction, Product, read_products
from multiturn.errors import DataError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def one(**changes: Any) -> Product:
    """The only product of a file with one record."""
    (product,) = read_products([record(**changes)], {}, {})
    return product


def test_a_record_becomes_a_product() -> None:
    about = {
        "attributes": ["easy clean", "solid wood"],
        "instruction": "Find me easy clean lamps",
        "instruction_attributes": ["easy clean"],
    }
    said = [
        {"instruction": "a lamp.", "instruction_attributes": ["solid wood"], "instruction_options": ["red"]},
        {"instruction": "any", "instruction_attributes": [], "instruction_options": []},
    ]
    raw = record(query="  Table LAMPS ", customization_options={"Color": [{"value": "Red"}]})
    (product,) = read_products([raw], {"B000000001": about}, {"B000000001": said})
    assert product == Product(
        asin="B000000001",
        category="garden",
        query="table lamps",
        product_category="Home \u203a Lighting \u203a Lamps",
        title="Oak Lamp",
        description="A lamp of oak.",
        bullets=("Warm light.", "Easy to clean."),
        pricing=(19.99,),
        price_tag="$19.99",
        options={"color": ("red",)},
        attributes=("easy clean", "solid wood"),
        instruction="Find me easy clean lamps",
        instruction_attributes=("easy clean",),
        human_instructions=(
            HumanInstruction(text="a lamp.", attributes=("solid wood",), options=("red",)),
            HumanInstruction(text="any", attributes=(), options=()),
        ),
    )


def test_who_has_no_properties_gets_the_originals_placeholder() -> None:
    assert one().attributes == ("DUMMY_ATTR",)
    (product,) = read_products([record()], {"B000000001": {"instruction": None}}, {})
    assert (product.attributes, product.instruction) == (("DUMMY_ATTR",), None)


def test_unusable_and_repeated_keys_are_left_out() -> None:
    keys = ["B000000001", "nan", "B0000000022", "B000000001", "B000000003"]
    records = [record(key, name=f"Lamp {number}") for number, key in enumerate(keys)]
    found = [(product.asin, product.title) for product in read_products(records, {}, {})]
    assert found == [("B000000001", "Lamp 0"), ("B000000003", "Lamp 4")]


@pytest.mark.parametrize(
    ("pricing", "prices", "tag"),
    [
        ("$19.99", (19.99,), "$19.99"),
        ("$20", (20.0,), "$20.0"),
        ("$1,234.50", (1234.5,), "$1234.5"),
        ("$19.99$27.50", (19.99, 27.5), "$19.99 to $27.5"),
        ("$5.00 - $7.25", (5.0, 7.25), "$5.0 to $7.25"),
        ("$9$3", (9.0, 3.0), "$9.0 to $3.0"),
        ("$1$2$3", (1.0, 2.0), "$1.0 to $2.0"),
        ("from US$8 each", (8.0,), "$8.0"),
        ("", (100.0,), "$100.0"),
        (None, (100.0,), "$100.0"),
        ([], (100.0,), "$100.0"),
    ],
)
def test_prices(pricing: Any, prices: tuple[float, ...], tag: str) -> None:
    product = one(pricing=pricing)
    assert (product.pricing, product.price_tag) == (prices, tag)


def test_a_record_may_lack_the_price() -> None:
    raw = record()
    del raw["pricing"]
    (product,) = read_products([raw], {}, {})
    assert (product.pricing, product.price_tag) == ((100.0,), "$100.0")


@pytest.mark.parametrize("none", [None, "", {}])
def test_no_options(none: Any) -> None:
    assert one(customization_options=none).options == {}


def test_options_are_cleaned() -> None:
    raw = {
        "Size": [{"value": " 1/2 Inch "}, {"value": "XL", "price": 3}, {"value": "xl"}],
        "Gone": None,
        "COLOR": [{"value": "Black/White"}],
        "Empty": [],
        "size": [{"value": "One"}],
    }
    options = one(customization_options=raw).options
    # Of kinds that differ in capitals only, the last one's values count, at the first one's place.
    assert list(options.items()) == [("size", ("one",)), ("color", ("black | white",)), ("empty", ())]
    del raw["size"]
    assert one(customization_options=raw).options["size"] == ("1 | 2 inch", "xl", "xl")


@pytest.mark.parametrize(
    ("features", "bullets"),
    [(["a", "b"], ("a", "b")), ("just one", ("just one",)), ("", ("",)), ([""], ("",)), ([], ("",))],
)
def test_there_is_always_a_first_feature(features: Any, bullets: tuple[str, ...]) -> None:
    product = one(small_description=features)
    assert product.bullets == bullets
    assert product.indexed_text == f"oak lamp a lamp of oak. {bullets[0]} "


def test_the_indexed_text() -> None:
    options = {"Color": [{"value": "Red"}, {"value": "Blue"}], "Size": [{"value": "XL"}]}
    assert one(customization_options=options).indexed_text == (
        "oak lamp a lamp of oak. warm light. color: red, blue, and size: xl"
    )


def test_only_what_has_an_instruction_is_asked_for() -> None:
    (product,) = read_products(
        [record()], {"B000000001": {"attributes": ["a"], "instruction_attributes": None}}, {}
    )
    assert (product.instruction, product.instruction_attributes) == (None, ())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"asin": 12}, "TypeError"),
        ({"name": None}, "TypeError: None is no text"),
        ({"category": ["garden"]}, "TypeError: .*is no text"),
        ({"full_description": None}, "TypeError: None is no text"),
        ({"query": 3}, "TypeError: 3 is no text"),
        ({"small_description": ["fine", 7]}, "TypeError: 7 is no text"),
        ({"small_description": None}, "TypeError: None is no text"),
        ({"pricing": "free"}, "IndexError"),
        ({"pricing": "$"}, "InvalidOperation"),
        ({"pricing": "$1.2.3"}, "InvalidOperation"),
        ({"pricing": 19.99}, "AttributeError"),
        ({"customization_options": {"size": [{"price": 3}]}}, "KeyError: 'value'"),
        ({"customization_options": {"size": ["xl"]}}, "TypeError"),
        ({"customization_options": {"size": [{"value": None}]}}, "AttributeError"),
    ],
)
def test_malformed_records_say_where(changes: dict[str, Any], said: str) -> None:
    records = [record("B000000009"), record(**changes)]
    with pytest.raises(DataError, match=f"product 2 is not as WebShop's files have it \\({said}"):
        list(read_products(records, {}, {}))


@pytest.mark.parametrize("rows", [[None], ["text"], [[]], [{"asin": "B000000001"}], [7]])
def test_what_is_no_record(rows: list[Any]) -> None:
    with pytest.raises(DataError, match=r"product 1 .* get the files again"):
        list(read_products(rows, {}, {}))


@pytest.mark.parametrize(
    ("about", "human"),
    [
        ([], []),
        ({"attributes": None}, []),
        ({"attributes": [3]}, []),
        ({"instruction": 3, "instruction_attributes": ["a"]}, []),
        ({"instruction": "Find me a lamp"}, []),
        ({"instruction": "Find me a lamp", "instruction_attributes": []}, []),
        ({}, [{"instruction": "a lamp"}]),
        ({}, [{"instruction": None, "instruction_attributes": [], "instruction_options": []}]),
        ({}, ["a lamp"]),
        ({}, 5),
    ],
)
def test_malformed_instructions(about: Any, human: Any) -> None:
    with pytest.raises(DataError, match="product 1 "):
        list(read_products([record()], {"B000000001": about}, {"B000000001": human}))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(record())), JSON, JSON)
def test_anything_in_a_record_is_a_product_or_said_to_be_none(field: str, value: Any, about: Any) -> None:
    raw = record(**{field: value}) if field != "asin" else record(value)
    try:
        products = list(read_products([raw], {"B000000001": about}, {}))
    except DataError as error:
        assert "product 1 " in str(error)  # noqa: PT017 - either is fine
        return
    for product in products:
        assert product.indexed_text == product.indexed_text.lower()
        assert product.pricing[0] >= 0
        assert len(product.pricing) <= 2
