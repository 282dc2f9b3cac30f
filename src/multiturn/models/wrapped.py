"""The Hugging Face model inside its wrappers."""

from __future__ import annotations

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

__all__ = ["bare_model"]


def bare_model(model: nn.Module) -> nn.Module:
    """The Hugging Face model inside wrappers such as DDP, `torch.compile` and PEFT."""
    while not isinstance(model, PreTrainedModel):
        if isinstance(model, PeftModel):
            inner: object = model.get_base_model()
        else:  # DDP and DeepSpeed call it `module`, torch.compile `_orig_mod`.
            inner = getattr(model, "module", None) or getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            break
        model = inner
    return model
