"""ScienceWorld's task types and their turn limits."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from multiturn.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["SPLITS", "TASK_TYPES", "TURN_LIMITS", "spread", "task_type_name", "turn_limit"]

TURN_LIMITS: Mapping[str, int] = {
    "boil": 100,
    "change-the-state-of-matter-of": 80,
    "freeze": 80,
    "melt": 80,
    "measure-melting-point-known-substance": 120,
    "use-thermometer": 30,
    "power-component": 20,
    "power-component-renewable-vs-nonrenewable-energy": 30,
    "test-conductivity": 30,
    "test-conductivity-of-unknown-substances": 30,
    "find-animal": 15,
    "find-living-thing": 15,
    "find-non-living-thing": 15,
    "find-plant": 15,
    "grow-fruit": 60,
    "grow-plant": 30,
    "chemistry-mix": 60,
    "chemistry-mix-paint-secondary-color": 15,
    "chemistry-mix-paint-tertiary-color": 30,
    "lifespan-longest-lived": 10,
    "lifespan-longest-lived-then-shortest-lived": 12,
    "lifespan-shortest-lived": 10,
    "identify-life-stages-1": 30,
    "identify-life-stages-2": 30,
}
"""The turn limits of the DMPO paper's protocol, by task type."""

_NO_PROTOCOL_LIMIT = 100
"""The simulator's own limit, for the task types that the paper leaves out."""

TASK_TYPES: tuple[str, ...] = (
    *TURN_LIMITS,
    "measure-melting-point-unknown-substance",
    "inclined-plane-determine-angle",
    "inclined-plane-friction-named-surfaces",
    "inclined-plane-friction-unnamed-surfaces",
    "mendelian-genetics-known-plant",
    "mendelian-genetics-unknown-plant",
)
"""All task types, those of the paper's protocol first."""

SPLITS = {"train": "getVariationsTrain", "dev": "getVariationsDev", "test": "getVariationsTest"}
"""The simulator's splits, and its methods that list a task type's variations in them."""


def task_type_name(name: str) -> str:
    """A task type by the simulator's name for it.

    Args:
        name: That name itself (``"find-animal"``), or the paper's code's (``"task-3-find-animal"``,
            ``"task-6-lifespan-(longest-lived)"``).

    Raises:
        ConfigError: There is no such task type; the message suggests the nearest.
    """
    plain = re.sub(r"^task-\d+[ab]?-|[()]", "", name).replace("mendellian", "mendelian")
    if plain in TASK_TYPES:
        return plain
    near = difflib.get_close_matches(plain, TASK_TYPES, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ConfigError(f"ScienceWorld has no task type {name!r}{hint}; it has {', '.join(sorted(TASK_TYPES))}")


def turn_limit(kind: str) -> int:
    """The turn limit of a task type."""
    return TURN_LIMITS.get(kind, _NO_PROTOCOL_LIMIT)


def spread(variations: Sequence[int], limit: int | None) -> list[int]:
    """At most `limit` of the variations, evenly spread: neighbours are often alike."""
    if limit is None or limit >= len(variations):
        return list(variations)
    return [variations[i * len(variations) // limit] for i in range(limit)]
