"""Whatever a record holds, reading it ends in an item or in words."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from multiturn.errors import DataError
from multiturn.formats.base import Context
from multiturn.formats.detect import FORMATS
from multiturn.formats.held import lost_fields

ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "x", "user", "gpt", "{}", "[1]"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "role",
                    "content",
                    "from",
                    "value",
                    "loss",
                    "weight",
                    "tool_calls",
                    "function",
                    "name",
                    "type",
                    "text",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool_call", 3]), "content": ODD},
    optional={
        "tool_calls": ODD,
        "loss": ODD,
        "weight": ODD,
        "function_call": ODD,
        "token_ids": ODD,
        "name": ODD,
    },
)
SAID = st.fixed_dictionaries(
    {"from": st.sampled_from(["human", "gpt", "function_call", None]), "value": ODD}, optional={"loss": ODD}
)
COLUMN = st.lists(MESSAGE | SAID | ODD, max_size=4) | ODD


@settings(deadline=None, max_examples=150)
@given(
    st.dictionaries(
        st.sampled_from(
            [
                *("messages", "prompt", "chosen", "rejected", "conversations", "rejected_messages", "schema"),
                *("rejected_response", "tools", "functions", "id", "task_id", "reward", "info", "outcome"),
            ]
        ),
        COLUMN,
        max_size=6,
    )
)
def test_whatever_a_record_holds_is_an_item_or_a_data_error(record: dict[str, Any]) -> None:
    """And an item can be written in every format, or is refused in words."""
    for known in FORMATS:
        known.detects(record)
        try:
            item = known.read(record, Context(default_id="x"))
        except DataError:
            continue
        for target in FORMATS:
            with contextlib.suppress(DataError):
                written = json.loads(json.dumps(target.write(item)))
                lost_fields(item, target.read(written, Context(default_id="x")))
