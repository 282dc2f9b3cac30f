"""Putting a model into another mode for a while."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from peft import PeftModel

from multiturn.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

__all__ = ["adapter_off", "evaluating"]


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
