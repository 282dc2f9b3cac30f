"""The Hugging Face model inside its wrappers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["bare_model", "wrappers"]


def bare_model(model: nn.Module) -> nn.Module:
    """The Hugging Face model inside wrappers such as DDP, `torch.compile` and PEFT."""
    for wrapper in wrappers(model):
        model = wrapper
    return model


def wrappers(model: nn.Module) -> Iterator[nn.Module]:
    """A model's wrappers from the outside in, and at last what they wrap."""
    yield model
    while not isinstance(model, PreTrainedModel):
        if isinstance(model, PeftModel):
            inner: object = model.get_base_model()
        else:  # DDP and DeepSpeed call it `module`, torch.compile `_orig_mod`.
            inner = getattr(model, "module", None) or getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            break
        model = inner
        yield model
