"""Numbers and names as reports write them."""

from __future__ import annotations

import pytest

from multiturn.reports.words import label, number, percent, signed, signed_interval


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.5, 3, "0.500"),
        (-0.5, 1, "\N{MINUS SIGN}0.5"),
        (-0.0001, 2, "0.00"),
        (0.0, 2, "0.00"),
        (12.345, 1, "12.3"),
    ],
)
def test_numbers(value: float, digits: int, text: str) -> None:
    assert number(value, digits) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.14, "+0.14"), (-0.14, "\N{MINUS SIGN}0.14"), (0.001, "0.00"), (0.0, "0.00")]
)
def test_differences_show_their_sign(value: float, text: str) -> None:
    assert signed(value, 2) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0%"),
        (1.0, "100%"),
        (0.431, "43%"),
        (0.003, "0.3%"),
        (0.997, "99.7%"),
        (0.996, "99.6%"),
        (0.0004, "<0.1%"),
        (0.9999, ">99.9%"),
    ],
)
def test_shares(value: float, text: str) -> None:
    assert percent(value) == text


def test_an_interval_is_as_short_as_it_can_be_and_never_hides_on_which_side_of_zero_it_lies() -> None:
    assert signed_interval({"mean": 0.14, "low": 0.07, "high": 0.21}) == "+0.14 [0.07, 0.21]"
    assert signed_interval({"mean": 0.02, "low": -0.05, "high": 0.09}) == "+0.02 [\N{MINUS SIGN}0.05, 0.09]"
    assert signed_interval({"mean": 0.03, "low": 0.0012, "high": 0.06}) == "+0.030 [0.001, 0.060]"
    assert signed_interval({"mean": 0.0, "low": 0.0, "high": 0.0}) == "0.00 [0.00, 0.00]"


def test_known_methods_are_written_in_capitals() -> None:
    assert [label(name) for name in ("sft", "dmpo", "my-method")] == ["SFT", "DMPO", "my-method"]
