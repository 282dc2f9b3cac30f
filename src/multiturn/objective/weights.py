"""How much each turn of a trajectory counts: DMPO's decaying weights, uniform weights, and others.

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

__all__ = [
    "WEIGHTINGS",
    "Weighting",
    "checked_weights",
    "exponential_weights",
    "last_weights",
    "turn_weights",
    "uniform_weights",
]


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
    _check_discount(gamma)
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


def exponential_weights(num_turns: Tensor, gamma: float, *, max_turns: int | None = None) -> Tensor:
    """The bare discount, ``g^t`` (M20): not normalized, so that it does not depend on the length.

    Args:
        num_turns: ``[B]`` integers, each at least 1: the scored assistant turns of each trajectory.
        gamma: The discount for one turn, in ``[0, 1]``; 1 is uniform, 0 scores the first turn only.
        max_turns: The number of columns; the largest of `num_turns` by default.

    Returns:
        ``[B, max_turns]`` float64 on the device of `num_turns`; zero in the columns ``t >= T``.

    Raises:
        ValueError: `gamma` lies outside ``[0, 1]`` or is NaN, or `num_turns` is refused as by `turn_weights`.
    """
    _check_discount(gamma)
    turn, _, real = _grid(num_turns, max_turns)
    return torch.where(real, torch.pow(gamma, turn), 0.0)  # 0 ** 0 is 1


def last_weights(num_turns: Tensor, *, max_turns: int | None = None) -> Tensor:
    """Weight 1 for the last turn of each trajectory, 0 for all others (M20).

    Args:
        num_turns: ``[B]`` integers, each at least 1: the scored assistant turns of each trajectory.
        max_turns: The number of columns; the largest of `num_turns` by default.

    Returns:
        ``[B, max_turns]`` float64 on the device of `num_turns`.

    Raises:
        ValueError: `num_turns` is refused as by `turn_weights`.
    """
    turn, total, _ = _grid(num_turns, max_turns)
    return (turn == total - 1).to(torch.float64)


def checked_weights(
    rule: Weighting, num_turns: Tensor, gamma: float, *, max_turns: int | None = None
) -> Tensor:
    """What a rule gives, once it is certain that it keeps the contract of `Weighting`.

    Args:
        rule: The rule, from wherever.
        num_turns: ``[B]`` integers, each at least 1.
        gamma: The discount for one turn.
        max_turns: The number of columns; the largest of `num_turns` by default.

    Returns:
        The weights ``[B, max_turns]`` in float64.

    Raises:
        ValueError: The weights are no floating-point tensor of that shape, not finite, or not zero beyond a
            row's turns.
    """
    weights: object = rule(num_turns, gamma, max_turns=max_turns)
    _, _, real = _grid(num_turns, max_turns)
    wanted = f"it must be {list(real.shape)} in floating point, a weight for each turn of each row"
    if not isinstance(weights, torch.Tensor) or not weights.is_floating_point():
        kind = weights.dtype if isinstance(weights, torch.Tensor) else type(weights).__name__
        raise ValueError(f"it gives {kind}; {wanted}")
    if weights.shape != real.shape:
        raise ValueError(f"it gives shape {list(weights.shape)}; {wanted}")
    if not bool(torch.isfinite(weights).all()):
        row, turn = torch.nonzero(~torch.isfinite(weights))[0].tolist()
        raise ValueError(
            f"the weight of turn {turn} of {int(num_turns[row])} is {float(weights[row, turn])}; weights "
            "must be finite, beyond a row's turns as well"
        )
    if bool(weights[~real.to(weights.device)].any()):
        row, turn = torch.nonzero(weights.cpu() * ~real.cpu())[0].tolist()
        raise ValueError(
            f"it gives weight {float(weights[row, turn])} to turn {turn} of a trajectory of "
            f"{int(num_turns[row])} turns; it must be 0 from turn {int(num_turns[row])} on"
        )
    return weights.detach().to(torch.float64)


def _uniform(num_turns: Tensor, _gamma: float, /, *, max_turns: int | None = None) -> Tensor:
    """`uniform_weights` in the signature of `Weighting`."""
    return uniform_weights(num_turns, max_turns=max_turns)


def _last(num_turns: Tensor, _gamma: float, /, *, max_turns: int | None = None) -> Tensor:
    """`last_weights` in the signature of `Weighting`."""
    return last_weights(num_turns, max_turns=max_turns)


WEIGHTINGS: Mapping[str, Weighting] = MappingProxyType(
    {"phi": turn_weights, "uniform": _uniform, "exponential": exponential_weights, "last": _last}
)
"""Every weighting by name."""


def _check_discount(gamma: float) -> None:
    if not 0.0 <= gamma <= 1.0:  # also false for NaN
        raise ValueError(f"gamma is {gamma}; it is a discount and must lie in [0, 1]")


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
