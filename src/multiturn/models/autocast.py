"""The dtype that torch's own products would compute in."""

from __future__ import annotations

import torch

__all__ = ["computed_in"]


def computed_in(tensor: torch.Tensor) -> torch.dtype:
    """The dtype of products of a tensor: autocast's where that is on, which leaves float64 alone."""
    device = tensor.device.type
    if torch.is_autocast_enabled(device) and tensor.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return tensor.dtype
