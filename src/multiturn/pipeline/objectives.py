"""What may be trained on pairs, as a configuration names it.

`multiturn.objective` knows the same names, but loads torch; a configuration is read, and the command line's
help shown, without it. A test holds the two together.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

from pydantic import AfterValidator

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["OBJECTIVES", "READ_BY", "WEIGHTINGS", "Objective", "Weighting", "check_read"]

OBJECTIVES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "dmpo": "logistic loss, turn weights phi: the DMPO paper's",
        "dpo": "logistic loss, every turn counts alike: trajectory DPO",
        "ipo": "squared distance of the log-ratios' margin to 1 / (2 beta)",
        "hinge": "no loss beyond a margin of 1",
        "cdpo": "dpo that expects label_smoothing of the pairs to be swapped",
        "robust": "dpo made unbiased under that share of swapped pairs (rDPO)",
        "simpo": "log-probability per token, no reference, a target margin",
        "sft": "the control: the likelihood of the chosen sides alone",
    }
)
"""Everything that may be trained on pairs, a line on each."""
WEIGHTINGS: Final = ("phi", "uniform", "exponential", "last")
"""How much each turn counts, by name."""
READ_BY: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "label_smoothing": ("cdpo", "robust"),
        "target_margin": ("simpo",),
        "weighting": tuple(name for name in OBJECTIVES if name != "sft"),
    }
)
"""The objectives that read a setting, for the settings that are None unless somebody asks for them."""


def check_read(objective: str, settings: Mapping[str, object]) -> None:
    """Refuse a setting that is not None and that the objective does not read.

    Args:
        objective: Its name. What one of somebody's own reads is only known once the training imports it.
        settings: The settings by name.

    Raises:
        ValueError: There is one; the message names the objectives that read it.
    """
    if objective not in OBJECTIVES:
        return
    for setting, readers in READ_BY.items():
        if settings[setting] is not None and objective not in readers:
            raise ValueError(
                f"{setting} is set, but the objective {objective!r} does not read it; leave it out or "
                f"null, or use {' or '.join(readers)}"
            )


def _known_objective(value: str) -> str:
    return _known(value, (*OBJECTIVES, "module:objective"))


def _known_weighting(value: str) -> str:
    return _known(value, (*WEIGHTINGS, "module:function"))


def _known(value: str, known: tuple[str, ...]) -> str:
    if value in known or all(value.partition(":")):
        return value
    raise ValueError(f"use one of {', '.join(known[:-1])}, or {known[-1]} for one of your own")


Objective: TypeAlias = Annotated[str, AfterValidator(_known_objective)]
"""A key of `OBJECTIVES`, or ``module:objective``: a `multiturn.objective.PairObjective` of somebody's own."""
Weighting: TypeAlias = Annotated[str, AfterValidator(_known_weighting)]
"""One of `WEIGHTINGS`, or ``module:function``: a `multiturn.objective.Weighting` of somebody's own."""
