"""multiturn's own JSONL: trajectories as rollouts leave them, and pairs with ids and rewards."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from multiturn.formats.base import REWARD_FIELDS, Context, Format, Item, reward_of
from multiturn.trajectory import PreferencePair, Trajectory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multiturn.trajectory import Json

__all__ = ["FORMAT"]


def _detects(record: Mapping[str, Any]) -> bool:
    return isinstance(record.get("schema"), int) and ("messages" in record or "chosen" in record)


def _read(record: Mapping[str, Any], context: Context) -> Item:
    if "chosen" in record or "rejected" in record:
        return PreferencePair.from_json(record, default_id=context.default_id)
    trajectory = Trajectory.from_json(record)
    if context.reward_fields == REWARD_FIELDS:
        return trajectory
    return dataclasses.replace(trajectory, reward=reward_of(record, context.reward_fields)[0])


def _write(item: Item) -> dict[str, Json]:
    return item.to_json()


FORMAT = Format(
    name="multiturn",
    about="multiturn's trajectories (schema, id, task_id, messages, ...) and pairs (schema, prompt, chosen, "
    "rejected, ...)",
    holds=frozenset({"trajectories", "pairs"}),
    detects=_detects,
    read=_read,
    write=_write,
)
