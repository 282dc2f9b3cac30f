"""The task lists of the DMPO paper's protocol, and what they have in common.

The lists are facts taken from the paper's published code; they stand in ``paper_tasks.json``.
"""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from multiturn.envs.scienceworld.tasks import SPLITS
from multiturn.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["ALL_SPLITS", "PAPER_SPLITS", "paper_overlap", "paper_tasks", "paper_variations"]

_TRAIN: Final = "paper-train"
PAPER_SPLITS: tuple[str, ...] = (_TRAIN, "paper-seen", "paper-unseen")
"""The paper's lists: 1,483 tasks to train on, and 194 and 211 to evaluate on."""

ALL_SPLITS: tuple[str, ...] = (*SPLITS, *PAPER_SPLITS)
"""The splits of the environment: the simulator's own and the paper's."""


def paper_tasks(split: str) -> tuple[tuple[str, int], ...]:
    """The tasks of one of the paper's lists, in the published order.

    Args:
        split: One of `PAPER_SPLITS`.

    Returns:
        Task types and variations.

    Raises:
        ConfigError: There is no such list.
    """
    if split not in PAPER_SPLITS:
        raise ConfigError(f"the paper has no task list {split!r}; it has {', '.join(PAPER_SPLITS)}")
    return _lists()[split]


def paper_overlap() -> Mapping[str, tuple[str, ...]]:
    """The tasks that the paper evaluates on although it trains on them: 54 of the seen ones, no unseen one.

    Returns:
        For each list to evaluate on, the ids of its tasks that are in ``paper-train`` as well, in the
        published order.
    """
    trained = set(paper_tasks(_TRAIN))
    return {
        split: tuple(f"{kind}/{n}" for kind, n in paper_tasks(split) if (kind, n) in trained)
        for split in PAPER_SPLITS
        if split != _TRAIN
    }


def paper_variations(kind: str, split: str, *, exclude_overlap: bool) -> list[int]:
    """The variations of a task type in one of the paper's lists, in the published order.

    Args:
        kind: The task type.
        split: One of `PAPER_SPLITS`.
        exclude_overlap: Whether a list to evaluate on goes without the tasks of `paper_overlap`.
    """
    left_out: Sequence[str] = paper_overlap().get(split, ()) if exclude_overlap else ()
    return [
        variation
        for name, variation in paper_tasks(split)
        if name == kind and f"{name}/{variation}" not in left_out
    ]


@functools.cache
def _lists() -> dict[str, tuple[tuple[str, int], ...]]:
    text = resources.files(__package__).joinpath("paper_tasks.json").read_text(encoding="utf-8")
    packed: dict[str, Any] = json.loads(text)
    kinds = packed["types"]
    return {
        split: tuple(
            (kinds[kind], n) for kind, n in zip(packed[split][::2], packed[split][1::2], strict=True)
        )
        for split in PAPER_SPLITS
    }
