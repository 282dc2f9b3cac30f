"""A copy of a model that does nothing but decode: adapters merged, in the dtype that is fastest here."""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING, Any, Final

import torch
from peft import PeftModel
from torch import nn

from multiturn.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["PackedLinear", "count_weights", "decoding_copy", "decoding_dtype"]

_TYPICAL_ROWS: Final = 16
"""Packed weights are laid out for so many tokens at a time; any other number works as well."""


def decoding_dtype(model: PreTrainedModel | PeftModel, wanted: str | None) -> torch.dtype:
    """The dtype to decode in.

    Args:
        model: The model.
        wanted: ``"float32"``, ``"bfloat16"`` and so on; None takes bfloat16 for a float32 model on a CPU that
            computes in it (1.2 to 4 times as fast), and the model's own dtype otherwise.

    Raises:
        ConfigError: There is no such dtype.
    """
    if wanted is not None:
        dtype = getattr(torch, wanted, None)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ConfigError(f"dtype is {wanted!r}; use float32, bfloat16, float16 or float64")
        return dtype
    parameter = next(model.parameters())
    if parameter.device.type == "cpu" and parameter.dtype == torch.float32 and _cpu_has_bfloat16():
        return torch.bfloat16
    return parameter.dtype


def decoding_copy(model: PreTrainedModel | PeftModel, dtype: torch.dtype) -> PreTrainedModel:
    """A copy of a model for decoding, on the same device, in evaluation mode, without gradients.

    Weights that need no conversion are shared with the original, not copied, unless adapters have to be
    merged; in either case the original is left as it is.

    Args:
        model: A transformers model, or a PEFT model around one.
        dtype: What the weights are converted to. Buffers stay as they are: rotary frequencies need their
            precision.
    """
    if isinstance(model, PeftModel):
        merged: Any = copy.deepcopy(model)
        duplicate: PreTrainedModel = merged.merge_and_unload()
        for parameter in duplicate.parameters():
            parameter.data = parameter.data.to(dtype)
    else:
        # What the memo holds is not copied: every parameter is replaced by its converted self.
        memo: dict[int, Any] = {id(p): _converted(p, dtype) for p in model.parameters()}
        memo |= {id(b): b for b in model.buffers()}
        duplicate = copy.deepcopy(model, memo)
    _settle(duplicate)
    if dtype == torch.bfloat16 and next(duplicate.parameters()).device.type == "cpu":
        _pack_linears(duplicate)
    return duplicate


def _converted(parameter: nn.Parameter, dtype: torch.dtype) -> nn.Parameter:
    if type(parameter) is not nn.Parameter or not parameter.is_floating_point():
        return parameter  # quantized; it has a dtype of its own
    return nn.Parameter(parameter.detach().to(dtype), requires_grad=False)


def count_weights(model: nn.Module) -> int:
    """The number of a copy's weights, tied ones once, packed ones as well."""
    packed = [module for module in model.modules() if isinstance(module, PackedLinear)]
    return sum(p.numel() for p in model.parameters()) + sum(m.in_features * m.out_features for m in packed)


def _settle(model: nn.Module) -> None:
    for module in model.modules():
        # Trainers wrap an instance's forward in autocast; the copy decides on its own.
        vars(module).pop("forward", None)
    model.eval().requires_grad_(requires_grad=False)


class PackedLinear(nn.Module):
    """A linear layer whose weight is stored in oneDNN's own layout: the same result, a third faster.

    The operators are those that torch.compile uses.

    Args:
        linear: The layer to replace; bfloat16, on the CPU.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.bias = linear.bias
        weight: Any = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _TYPICAL_ROWS)
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Like `torch.nn.Linear`."""
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            inputs, self.weight, self.bias, "none", [], ""
        )
        return result


def _pack_linears(model: nn.Module) -> None:
    """Replace the plain linear layers, where this build of torch can do it."""
    if not _packing_works():
        return
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, PackedLinear(child))


def _packing_works() -> bool:
    """Whether packed layers give what plain ones give, for few and for many rows, with and without bias."""
    generator = torch.Generator().manual_seed(0)
    for rows, bias in itertools.product((1, 3, 40), (False, True)):
        linear = nn.Linear(64, 48, bias=bias, dtype=torch.bfloat16)
        inputs = torch.randn(1, rows, 64, generator=generator).bfloat16()
        try:
            with torch.no_grad():
                torch.testing.assert_close(PackedLinear(linear)(inputs), linear(inputs))
        except (RuntimeError, AttributeError, NotImplementedError, AssertionError):
            return False
    return True


def _cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices natively."""
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
