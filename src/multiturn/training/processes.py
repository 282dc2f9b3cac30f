"""What the processes of one training tell each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

from multiturn.errors import ConfigError
from multiturn.models import weights_fingerprint

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["gathered", "gradient_norm", "in_all", "shared_fingerprint"]


def gathered(value: Any) -> list[Any]:
    """The values of all processes, in their order; every process must ask."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def in_all(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all processes, on the device it is on; every process must ask."""
    if distributed.is_available() and distributed.is_initialized():
        tensor = tensor.clone()
        distributed.all_reduce(tensor)
    return tensor


def shared_fingerprint(model: nn.Module) -> str:
    """The fingerprint of a model's weights, which must be the same in all processes.

    Args:
        model: The model, not wrapped.

    Raises:
        ConfigError: Processes have loaded different weights, or not all of them all weights.
    """
    # FSDP may let one process load; DeepSpeed may spread weights while they are loaded.
    empty = any(parameter.is_meta or hasattr(parameter, "ds_id") for parameter in model.parameters())
    fingerprints = set(gathered("none" if empty else weights_fingerprint(model)))
    if len(fingerprints) > 1 or empty:
        raise ConfigError(
            "the processes of this training have not loaded the same weights; give the same model to all of "
            "them, on every machine, and leave fsdp_cpu_ram_efficient_loading and zero3_init_flag off"
        )
    return str(fingerprints.pop())


def gradient_norm(model: nn.Module) -> float:
    """The norm of a model's gradient over all parameters, also where these are spread over processes."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm: Any = torch.nn.utils.get_total_norm(gradients)
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
