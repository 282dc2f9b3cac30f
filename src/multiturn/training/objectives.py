"""What the trainer asks of an objective: SFT and every pairwise one behind one small interface."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from typing import TYPE_CHECKING, Final, Protocol, cast

import torch

from multiturn.errors import ConfigError
from multiturn.objective import (
    PAIR_OBJECTIVES,
    WEIGHTINGS,
    PairLogps,
    PairObjective,
    Weighting,
    checked_weights,
    sft,
    with_chosen_nll,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from multiturn.objective import ObjectiveOutput
    from multiturn.training.data import RenderedRow
    from multiturn.trajectory import Json

__all__ = ["PairTask", "SftTask", "Task", "find_objective", "find_weighting"]

WITHOUT_DISCOUNT: Final = ("uniform", "last")
"""Weightings that read no gamma."""


class Task(Protocol):
    """An objective as the trainer sees it: rows in, losses out.

    The sequences of a batch are ordered by side: all first sequences of its rows, then all second ones.
    """

    @property
    def name(self) -> str:
        """What people call it: ``SFT``, ``DMPO``."""

    @property
    def settings(self) -> dict[str, Json]:
        """The settings that it reads, by name, for people."""

    def count(self, row: RenderedRow) -> int:
        """What a row counts for in the mean over a batch; known before the forward pass."""

    def score(
        self, policy: Tensor, reference: Tensor | None, num_turns: Tensor, num_tokens: Tensor
    ) -> ObjectiveOutput:
        """Losses and metrics of a batch.

        Args:
            policy: ``[S, T]`` nats, per-turn sums of the batch's sequences under the policy.
            reference: ``[S, T]`` the same under the reference, or None where it is not needed.
            num_turns: ``[S]`` scored turns, on the CPU.
            num_tokens: ``[S]`` scored tokens, on the CPU.
        """


@dataclasses.dataclass(frozen=True, slots=True)
class SftTask:
    """Supervised fine-tuning; every scored token of a step counts alike (M9)."""

    name: str = "SFT"

    @property
    def settings(self) -> dict[str, Json]:
        """None but its name."""
        return {"objective": "sft"}

    def count(self, row: RenderedRow) -> int:
        """The row's scored tokens."""
        return sum(sequence.scored_tokens for sequence in row.sequences)

    def score(
        self,
        policy: Tensor,
        reference: Tensor | None,
        num_turns: Tensor,
        num_tokens: Tensor,
    ) -> ObjectiveOutput:
        """The negative log-likelihood per scored token."""
        del reference
        return sft(policy, num_tokens, num_turns=num_turns)


@dataclasses.dataclass(frozen=True, slots=True)
class PairTask:
    """A pairwise objective; every pair of a step counts alike (M19).

    What a resumed training must agree in is this object's `repr`, so every setting is a field that it shows.

    Attributes:
        objective: A name in `PAIR_OBJECTIVES`, or ``module:objective``.
        beta: The strength of the constraint to the reference.
        gamma: The discount of a turn.
        chosen_nll: The weight of the chosen side's negative log-likelihood (M15); 0 leaves it out.
        weighting: A name in `WEIGHTINGS`, or ``module:function``; None takes the objective's own.
        label_smoothing: The share of swapped pairs; None takes the objective's own.
        target_margin: The lead in reward that is aimed at; None takes the objective's own.

    Raises:
        ConfigError: There is no such objective or weighting, or a setting is not usable with it.
    """

    objective: str
    beta: float
    gamma: float
    chosen_nll: float = 0.0
    weighting: str | None = None
    label_smoothing: float | None = None
    target_margin: float | None = None
    _pairwise: PairObjective = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        found = find_objective(self.objective)
        if self.weighting is not None:
            found = dataclasses.replace(found, weighting=find_weighting(self.weighting, self.gamma))
        for name in ("label_smoothing", "target_margin"):
            if getattr(self, name) is not None and getattr(found, name) is None:
                raise ConfigError(_unread(name, self.objective))
        try:
            settings = found.link_settings(
                self.beta, label_smoothing=self.label_smoothing, target_margin=self.target_margin
            )
        except ValueError as error:
            raise ConfigError(str(error)) from None
        # What the objective has by itself, written out: then a later change of it is seen when resuming.
        for name in ("label_smoothing", "target_margin"):
            if getattr(found, name) is not None:
                object.__setattr__(self, name, getattr(settings, name))
        object.__setattr__(self, "_pairwise", found)

    @property
    def name(self) -> str:
        """The objective's name in capitals."""
        return self.objective.rpartition(":")[2].upper()

    @property
    def settings(self) -> dict[str, Json]:
        """The settings that this objective reads; gamma where the weighting has a discount."""
        rule = self._pairwise.weighting
        weighting = self.weighting or next(
            (name for name, known in WEIGHTINGS.items() if known is rule), "own"
        )
        read: dict[str, Json] = {"objective": self.objective, "weighting": weighting, "beta": self.beta}
        if weighting not in WITHOUT_DISCOUNT:
            read["gamma"] = self.gamma
        for name in ("label_smoothing", "target_margin"):
            if getattr(self, name) is not None:
                read[name] = getattr(self, name)
        if self.chosen_nll:
            read["chosen_nll"] = self.chosen_nll
        return read

    @property
    def reads_reference(self) -> bool:
        """Whether the reference's log-probabilities are needed."""
        return self._pairwise.reads_reference

    def count(self, row: RenderedRow) -> int:
        """One."""
        del row
        return 1

    def score(
        self, policy: Tensor, reference: Tensor | None, num_turns: Tensor, num_tokens: Tensor
    ) -> ObjectiveOutput:
        """Losses of the pairs whose chosen sequences come first and whose rejected ones follow."""
        if reference is None and self.reads_reference:
            raise ValueError(f"{self.name} needs the reference's log-probabilities")
        pairs = policy.shape[0] // 2
        logps = PairLogps(
            policy_chosen=policy[:pairs],
            policy_rejected=policy[pairs:],
            reference_chosen=None if reference is None else reference[:pairs],
            reference_rejected=None if reference is None else reference[pairs:],
            num_turns_chosen=num_turns[:pairs],
            num_turns_rejected=num_turns[pairs:],
            num_tokens_chosen=num_tokens[:pairs],
            num_tokens_rejected=num_tokens[pairs:],
        )
        output = self._pairwise(
            logps,
            beta=self.beta,
            gamma=self.gamma,
            label_smoothing=self.label_smoothing,
            target_margin=self.target_margin,
        )
        if not self.chosen_nll:
            return output
        return with_chosen_nll(
            output, policy[:pairs], num_tokens[:pairs], num_turns[:pairs], weight=self.chosen_nll
        )


@dataclasses.dataclass(frozen=True, slots=True)
class _ImportedWeighting:
    """A weighting from elsewhere; what it gives is checked every time, by a message that names it."""

    path: str
    rule: Weighting

    def __call__(self, num_turns: Tensor, gamma: float, /, *, max_turns: int | None = None) -> Tensor:
        try:
            return checked_weights(self.rule, num_turns, gamma, max_turns=max_turns)
        except Exception as error:
            # Whatever it raises is a fault of what the setting names.
            said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            raise ConfigError(f"weighting {self.path!r}: {said}") from error


def find_objective(name: str) -> PairObjective:
    """The pairwise objective of a name.

    Args:
        name: A name in `PAIR_OBJECTIVES`, or ``module:objective``, anywhere that Python imports from.

    Raises:
        ConfigError: There is none, or what is there is no `PairObjective`.
    """
    if name in PAIR_OBJECTIVES:
        return PAIR_OBJECTIVES[name]
    found = _imported("objective", name, PAIR_OBJECTIVES)
    if not isinstance(found, PairObjective):
        raise ConfigError(f"objective {name!r} is a {type(found).__name__}; make it a PairObjective")
    return found


def find_weighting(name: str, gamma: float) -> Weighting:
    """The turn weighting of a name; one of your own is tried out on a few trajectories.

    Args:
        name: A name in `WEIGHTINGS`, or ``module:function``, anywhere that Python imports from.
        gamma: The discount that it will be given.

    Raises:
        ConfigError: There is none, or it does not do what `Weighting` says.
    """
    if name in WEIGHTINGS:
        return WEIGHTINGS[name]
    found = _imported("weighting", name, WEIGHTINGS)
    if not callable(found):
        raise ConfigError(f"weighting {name!r} is a {type(found).__name__}; make it a function")
    weighting = _ImportedWeighting(name, cast("Weighting", found))
    for max_turns in (None, 6):
        weighting(torch.tensor([1, 2, 5]), gamma, max_turns=max_turns)
    return weighting


def _imported(what: str, name: str, known: Iterable[str]) -> object:
    """What ``module:name`` names."""
    module, colon, path = name.partition(":")
    if not colon:
        near = difflib.get_close_matches(name, list(known), n=1)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        raise ConfigError(
            f"{what} is {name!r}; use one of {', '.join(known)}{meant}, or 'module:name' for one of your own"
        )
    if not module or module.startswith(".") or not path:
        raise ConfigError(f"{what} {name!r} does not name a module and what is in it; write 'module:name'")
    try:
        found: object = importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A module that it imports itself, and not the one named: its own traceback says more.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ConfigError(
            f"{what} {name!r}: there is no module {error.name!r}; install it, or put its folder on PYTHONPATH"
        ) from None
    for part in path.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise ConfigError(f"{what} {name!r}: the module {module!r} has no {path!r}")
    return found


def _unread(setting: str, objective: str) -> str:
    """What to do about a setting that an objective does not read."""
    readers = [name for name, known in PAIR_OBJECTIVES.items() if getattr(known, setting) is not None]
    return (
        f"{setting} is set, but the objective {objective!r} does not read it; leave it out, or use "
        f"{' or '.join(readers)}, which does"
    )
