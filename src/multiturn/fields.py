"""Reading the fields of JSON records; every complaint says which field is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from multiturn.errors import DataError

__all__ = ["is_finite", "json_object", "objects", "optional", "required_text"]


def is_finite(value: object) -> TypeGuard[int | float]:
    """Whether a value of a record is a number that a float can hold; true and false are 1 and 0."""
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # JSON's integers may have any number of digits
        return False


def objects(fields: Mapping[str, Any], key: str) -> tuple[Mapping[str, Any], ...]:
    """A record's list of JSON objects, such as its ``tools``; empty where it has none.

    Raises:
        DataError: The field holds something else.
    """
    value = fields.get(key) or ()
    if not isinstance(value, list | tuple) or not all(isinstance(item, Mapping) for item in value):
        raise DataError(f"{key!r} must be a list of JSON objects, as the chat template expects them")
    return tuple(value)


def json_object(record: object, what: str) -> Mapping[str, Any]:
    """A value that must be a JSON object.

    Args:
        record: The value.
        what: What it is, for the error.

    Raises:
        DataError: It is something else.
    """
    if not isinstance(record, Mapping):
        raise DataError(f"{what} must be a JSON object, not {type(record).__name__}")
    return record


def required_text(fields: Mapping[str, Any], key: str) -> str:
    """A record's text, which must be there and hold something.

    Raises:
        DataError: It is not, or does not.
    """
    value = fields.get(key)
    if not isinstance(value, str) or not value:
        raise DataError(f"{key!r} is missing or not a string")
    return value


def optional(fields: Mapping[str, Any], key: str, kind: type) -> Any:
    """A record's value of a kind, ``str`` or ``bool``; None where it has none.

    Raises:
        DataError: It is of another kind.
    """
    value = fields.get(key)
    if value is None or isinstance(value, kind):
        return value
    raise DataError(f"{key!r} is {value!r}; use {'true, false' if kind is bool else 'a string'} or null")
