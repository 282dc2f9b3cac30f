"""How much each turn of a trajectory counts: DMPO's decaying weights, uniform weights, room for others.

Every rule gives one row per trajectory: weights of shape ``[B, T*]`` in float64, exactly zero beyond a row's
own number of turns. To add a rule, write a function with the signature of `Weighting` and enter it in
`WEIGHTINGS`.
"""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = ["WEIGHTINGS", "Weighting", "turn_weights", "uniform_weights"]


class Weighting(Protocol):
    """A rule that gives the weight of every turn from the number of turns and gamma."""

    def __call__(self, num_turns: Tensor, gamma: float, /, *, max_turns: int | None = None) -> Tensor:
        """Weights ``[B, max_turns]``, float64, zero beyond each row's `num_turns`."""


def turn_weights(num_turns: Tensor, gamma: float, *, max_turns: int | None = None) -> Tensor:
    """DMPO's weight of every turn, ``phi(t, T) = (g^t - g^T) / (1 - g^T)`` (M5).

    ``phi(0, T)`` is exactly 1, the weights fall with `t`, and they vanish at ``t = T``. At ``gamma = 1`` they
    are the limit ``(T - t) / T``; at ``gamma = 0`` only the first turn counts. Relative error is a few units
    in the last place of float64 for every gamma, however near to 0 or 1.

    Args:
        num_turns: ``[B]`` integers, each at least 1: the scored assistant turns ``T`` of each trajectory.
        gamma: The discount for one turn, in ``[0, 1]``.
        max_turns: The number of columns; the largest of `num_turns` by default.

    Returns:
        ``[B, max_turns]`` float64 on the device of `num_turns`; zero in the columns ``t >= T``.

    Raises:
        ValueError: `gamma` lies outside ``[0, 1]`` or is NaN, `num_turns` is not a vector of integers, a row
            has less than one turn or more than `max_turns`.
    """
    if not 0.0 <= gamma <= 1.0:  # also false for NaN
        raise ValueError(f"gamma is {gamma}; it is a discount and must lie in [0, 1]")
    turn, total, real = _grid(num_turns, max_turns)
    if gamma == 1.0:
        weights = (total - turn) / total
    else:
        # (g^t - g^T) / (1 - g^T) cancels digit by digit as g -> 1. Written as g^t (1 - g^(T-t)) / (1 - g^T),
        # each factor comes without cancellation from expm1, and log g itself is accurate next to 1.
        log_gamma = math.log(gamma) if gamma > 0.0 else -math.inf
        remaining = (total - turn).clamp(min=1.0)  # at least 1, or padding would compute 0 * -inf
        decay = torch.pow(gamma, turn)  # 0 ** 0 is 1, as the formula wants
        weights = decay * torch.expm1(remaining * log_gamma) / torch.expm1(total * log_gamma)
    return torch.where(real, weights, 0.0)


def uniform_weights(num_turns: Tensor, *, max_turns: int | None = None) -> Tensor:
    """Weight 1 for every turn: trajectory DPO (M8). Not a limit of `turn_weights` for any gamma.

    Args:
        num_turns: ``[B]`` integers, each at least 1: the scored assistant turns of each trajectory.
        max_turns: The number of columns; the largest of `num_turns` by default.

    Returns:
        ``[B, max_turns]`` float64 on the device of `num_turns`; zero in the columns ``t >= T``.

    Raises:
        ValueError: `num_turns` is not a vector of integers, a row has less than one turn or more than
            `max_turns`.
    """
    _, _, real = _grid(num_turns, max_turns)
    return real.to(torch.float64)


def _uniform(num_turns: Tensor, _gamma: float, /, *, max_turns: int | None = None) -> Tensor:
    """`uniform_weights` in the signature of `Weighting`."""
    return uniform_weights(num_turns, max_turns=max_turns)


WEIGHTINGS: Mapping[str, Weighting] = MappingProxyType({"dmpo": turn_weights, "uniform": _uniform})
"""Every weighting by name."""


def _grid(num_turns: Tensor, max_turns: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Turn index ``[1, T*]`` and row length ``[B, 1]`` in float64, and where a turn is real ``[B, T*]``."""
    if num_turns.ndim != 1:
        raise ValueError(f"num_turns has shape {list(num_turns.shape)}; it must be [B], one per trajectory")
    if num_turns.is_floating_point() or num_turns.is_complex() or num_turns.dtype is torch.bool:
        raise ValueError(f"num_turns has dtype {num_turns.dtype}; it must hold integers")
    least, most = (int(num_turns.min()), int(num_turns.max())) if num_turns.numel() else (1, 0)
    if least < 1:
        row = int(num_turns.argmin())
        raise ValueError(f"row {row} of num_turns is {least}; a trajectory needs at least one scored turn")
    columns = most if max_turns is None else max_turns
    if columns < most:
        row = int(num_turns.argmax())
        raise ValueError(f"row {row} of num_turns is {most}, but there are only {columns} columns of turns")
    turn = torch.arange(columns, dtype=torch.float64, device=num_turns.device)[None, :]
    total = num_turns.to(torch.float64)[:, None]
    return turn, total, turn < total
