"""ScienceWorld's options, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from multiturn.envs.scienceworld.paper import ALL_SPLITS
from multiturn.envs.scienceworld.tasks import TASK_TYPES, task_type_name
from multiturn.errors import ConfigError

__all__ = ["ScienceWorldOptions", "named_types"]

_SIMPLIFICATIONS = (
    "easy",
    "teleportAction",
    "selfWateringFlowerPots",
    "openContainers",
    "openDoors",
    "noElectricalAction",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScienceWorldOptions:
    """The options of `multiturn.envs.scienceworld.scienceworld`, which documents them.

    Raises:
        ConfigError: One of them is not usable.
    """

    task_types: tuple[str, ...]
    simplification: str
    limit: Mapping[str, int] | int | None
    max_turns: int | None
    fixed_order: bool
    admissible: bool
    java: str
    heap_mb: int
    recycle_after: int | None
    exclude_overlap: bool

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        _check_simplification(self.simplification, self.task_types)
        _check_counts(
            self.limit, max_turns=self.max_turns, heap_mb=self.heap_mb, recycle_after=self.recycle_after
        )


def named_types(names: Sequence[str] | str | None) -> tuple[str, ...]:
    """Task types by the simulator's names, each once.

    Args:
        names: Names as `task_type_name` takes them, or one string with commas between them; None for all.

    Raises:
        ConfigError: A name is unknown, or there are none.
    """
    if isinstance(names, str):
        names = names.split(",")
    kinds = (
        TASK_TYPES if names is None else tuple(dict.fromkeys(task_type_name(name.strip()) for name in names))
    )
    if not kinds:
        raise ConfigError("task_types is empty; name at least one task type, or leave it out for all")
    return kinds


def _check_simplification(simplification: str, kinds: tuple[str, ...]) -> None:
    chosen = [name for name in simplification.split(",") if name]
    for name in chosen:
        if name not in _SIMPLIFICATIONS:
            raise ConfigError(
                f"simplification names {name!r}; there are {', '.join(_SIMPLIFICATIONS)}, with commas and no "
                "blanks between them"
            )
    electrical = [kind for kind in kinds if "power-component" in kind or "conductivity" in kind]
    if electrical and "noElectricalAction" in chosen:
        raise ConfigError(f"{electrical[0]} cannot be done without electrical actions; see simplification")


def _check_counts(limit: object, **counts: object) -> None:
    unknown = set(limit) - set(ALL_SPLITS) if isinstance(limit, Mapping) else set()
    if unknown:
        raise ConfigError(f"limit names {sorted(unknown)}; the splits are {', '.join(ALL_SPLITS)}")
    limits = list(limit.values()) if isinstance(limit, Mapping) else [limit]
    for name, count in [*counts.items(), *(("limit", n) for n in limits)]:
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise ConfigError(f"{name} is {count!r}; it must be a whole number of at least 1")
