"""Links: how the margin of a pair becomes its loss.

A link is a function of the reward margins (M19) and of the settings below. To add one, write it here, or
anywhere else: `docs/method.md` has a worked example.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

__all__ = [
    "Link",
    "LinkSettings",
    "conservative",
    "hinge",
    "logistic",
    "logistic_beyond",
    "robust",
    "squared",
]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """What a link may read beside the margins.

    Attributes:
        beta: The strength of the constraint to the reference, which the margins contain; above 0.
        label_smoothing: The share of pairs whose sides are believed to be swapped, in ``[0, 0.5)``.
        target_margin: By how much the chosen side's reward should lead; 0 or more.
    """

    beta: float
    label_smoothing: float = 0.0
    target_margin: float = 0.0


Link: TypeAlias = "Callable[[Tensor, LinkSettings], Tensor]"
"""From reward margins ``[B]`` (beta already in them) to losses ``[B]``, each of its own margin."""


def logistic(margins: Tensor, _settings: LinkSettings) -> Tensor:
    """The Bradley-Terry negative log-likelihood, ``-log sigmoid(m)`` (M6, M8)."""
    return -functional.logsigmoid(margins)


def squared(margins: Tensor, settings: LinkSettings) -> Tensor:
    """IPO: the squared distance of ``m / beta``, free of beta, to ``1 / (2 beta)`` (M21)."""
    return ((margins - 0.5) / settings.beta).square()


def hinge(margins: Tensor, _settings: LinkSettings) -> Tensor:
    """``max(0, 1 - m)``: nothing is left to learn from a pair whose margin is 1 (M22)."""
    return torch.relu(1.0 - margins)


def conservative(margins: Tensor, settings: LinkSettings) -> Tensor:
    """cDPO: the logistic loss expected under labels that are swapped with probability epsilon (M23)."""
    # -log sigmoid(-m) = m - log sigmoid(m), so the expectation differs from the logistic loss by epsilon m.
    return -functional.logsigmoid(margins) + settings.label_smoothing * margins


def robust(margins: Tensor, settings: LinkSettings) -> Tensor:
    """Robust DPO: its expectation under swapped labels is the logistic loss under the true ones (M24)."""
    epsilon = settings.label_smoothing
    return -functional.logsigmoid(margins) - epsilon / (1.0 - 2.0 * epsilon) * margins


def logistic_beyond(margins: Tensor, settings: LinkSettings) -> Tensor:
    """``-log sigmoid(m - target_margin)`` (M25)."""
    return -functional.logsigmoid(margins - settings.target_margin)
