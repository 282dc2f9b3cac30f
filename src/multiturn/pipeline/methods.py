"""The methods that a run compares: their kinds, the settings of each, and what their rounds are called."""

from __future__ import annotations

import dataclasses
import difflib
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field

from multiturn.pipeline.objectives import OBJECTIVES
from multiturn.pipeline.section import Count, Fraction, Positive, Section
from multiturn.pipeline.train_settings import SftSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "BEST_OF_N",
    "KIND",
    "KINDS",
    "PREFERENCE",
    "REFERENCE",
    "RFT",
    "SFT",
    "BestOfNSettings",
    "MethodRound",
    "RftSettings",
    "by_name",
    "kind_of",
]

SFT: Final = "sft"
"""What the policy that every method starts from is called in results."""
REFERENCE: Final = "reference"
"""What lies beside the methods' trainings and is none: the reference's log-probabilities."""

KIND: Final = "kind"
"""The key that says what a method is, beside the settings of its kind."""
PREFERENCE: Final = "preference"
"""Trained on the pairs; settings: those of ``preference``."""
RFT: Final = "rft"
"""Trained on the expert's demonstrations and on exploration's successes; settings: `RftSettings`."""
BEST_OF_N: Final = "best_of_n"
"""Not trained: the SFT policy plays each test task several times; settings: `BestOfNSettings`."""
KINDS: Final = (PREFERENCE, RFT, BEST_OF_N)


class RftSettings(SftSettings):
    """Rejection fine-tuning (M27): SFT on demonstrations and on exploration's successes together.

    What is not said is as in ``sft``.

    Attributes:
        tasks: How many of the expert's successful trajectories to use beside the successes; null takes all.
        start: The model it starts from: ``base`` (the run's own, as in the papers) or ``sft``, the policy.
        min_reward: The return from which on a rollout is a success; null takes ``expert.min_reward``.
        max_per_task: Successes of one task at most; null keeps all that differ.
    """

    start: Literal["base", "sft"] = "base"
    min_reward: Fraction | None = None
    max_per_task: Count | None = None


class BestOfNSettings(Section):
    """The best of several samples of the SFT policy, chosen by the test's own reward: an oracle.

    How the policy decodes is said by ``evaluate``.

    Attributes:
        samples: Samples of each task.
        temperature: The sampling temperature.
        top_p: Nucleus sampling.
    """

    samples: Count = 10
    temperature: Positive = 1.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class MethodRound:
    """A method after one of its rounds: one policy, and one row of the results.

    Attributes:
        method: The method's name.
        number: The round, from 1. Only methods that are trained on pairs have a second one.
    """

    method: str
    number: int = 1

    @property
    def name(self) -> str:
        """What it is called in results: ``dmpo``, then ``dmpo-round2``."""
        return self.method if self.number == 1 else f"{self.method}-round{self.number}"


def kind_of(name: str, settings: Mapping[str, Any]) -> str:
    """What a method is: what it says, else what its name says.

    Args:
        name: The method's name.
        settings: What the configuration says of it.
    """
    if KIND in settings:
        return str(settings[KIND])
    # With an objective of its own it is trained on pairs, whatever it is called.
    return name if name in KINDS and "objective" not in settings else PREFERENCE


def by_name(methods: object) -> object:
    """A list of known methods as the mapping that it stands for; all else as it is.

    Args:
        methods: What a configuration says: names like ``dmpo``, ``rft`` and ``best_of_n``, or a mapping.

    Raises:
        ValueError: A name in the list is not known, or stands there twice.
    """
    if isinstance(methods, dict):
        return {name: {} if settings is None else settings for name, settings in methods.items()}
    if not isinstance(methods, list | tuple):
        return methods
    known = [SFT, RFT, BEST_OF_N, *(name for name in OBJECTIVES if name != SFT)]
    for name in methods:
        if name not in known:
            raise ValueError(_unknown(name, known))
    if len(set(methods)) < len(methods):
        raise ValueError("a method stands in the list twice; give each once")
    # The SFT policy is always evaluated.
    return {
        name: {"objective": name} if name in OBJECTIVES else {KIND: name} for name in methods if name != SFT
    }


def _unknown(name: object, known: list[str]) -> str:
    if not isinstance(name, str):
        return "a list holds names alone; write a mapping to give settings, like {dmpo: {gamma: 0.9}}"
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known ones: {', '.join(known)}"
    return f"{name!r} is no known method; {hint}"
