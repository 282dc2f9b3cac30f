"""Putting a model into another mode for a while."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from peft import PeftModel
from transformers.modeling_layers import GradientCheckpointingLayer

from multiturn.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

__all__ = ["adapter_off", "evaluating", "recomputing"]


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout) for a while; each module is then as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextlib.contextmanager
def recomputing(model: nn.Module) -> Iterator[None]:
    """Gradient checkpointing in evaluation mode too, for a while, where the model is set to checkpoint.

    Transformers checkpoints a layer in training mode only. What is inside such a layer stays in evaluation
    mode; one that drops activations out by itself is left alone.
    """
    layers = [
        module
        for module in model.modules()
        if isinstance(module, GradientCheckpointingLayer)
        and module.gradient_checkpointing
        and not module.training
        and not _drops_out(module)
    ]
    try:
        for layer in layers:
            layer.training = True
        yield
    finally:
        for layer in layers:
            layer.training = False


@contextlib.contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """Switch a PEFT adapter off for a while, so that the model is its own reference.

    Args:
        model: A PEFT model, possibly wrapped.

    Raises:
        ConfigError: The model has no adapter.
    """
    peft_model = next((module for module in model.modules() if isinstance(module, PeftModel)), None)
    if peft_model is None:
        raise ConfigError(
            "the model has no adapter that could be switched off to act as its reference; "
            "set `reference: cached` or `reference: live`"
        )
    # Switching it on again makes an adapter trainable, which a frozen one must not become.
    trainable = {name: parameter.requires_grad for name, parameter in peft_model.named_parameters()}
    try:
        with peft_model.disable_adapter():
            yield
    finally:
        for name, parameter in peft_model.named_parameters():
            parameter.requires_grad_(trainable[name])


def _drops_out(layer: nn.Module) -> bool:
    """Whether a layer has a rate of dropout of its own, not that of a module in it."""
    return any(
        "drop" in name and isinstance(rate, float) and rate > 0.0 for name, rate in vars(layer).items()
    )
