"""The whole trained model out of engines that spread it over processes."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from multiturn.errors import TrainingError
from multiturn.models.wrapped import bare_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = ["filled", "skeleton"]


def skeleton(model: nn.Module) -> nn.Module:
    """A copy of a model whose parameters have shapes and names, but no memory.

    Args:
        model: The model as it is before an engine wraps it, which changes it for good.
    """
    empty: dict[int, Any] = {
        id(parameter): nn.Parameter(
            torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad
        )
        for parameter in model.parameters()
    }
    # What deepcopy finds there it takes for copied already; tied parameters stay tied.
    return copy.deepcopy(model, empty)


def filled(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """A skeleton with weights.

    Args:
        model: What `skeleton` made; it is changed.
        weights: By the names of its state dictionary; tied ones need to be there once.

    Raises:
        TrainingError: Weights are missing.
    """
    model.load_state_dict(weights, strict=False, assign=True)
    bare: Any = bare_model(model)
    if hasattr(bare, "tie_weights"):
        bare.tie_weights()
    missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if missing:
        raise TrainingError(f"the engine did not give back the weights of {', '.join(missing[:8])}")
    return model
