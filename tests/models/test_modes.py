"""Modes that last for a while, and what they leave behind."""

from __future__ import annotations

from typing import Any

import torch
from model_samples import checkpoint, llama
from transformers.modeling_layers import GradientCheckpointingLayer

from multiturn.models import evaluating, recomputing

IDS = torch.arange(1, 9).unsqueeze(0)


def _layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def _kept_bytes(model: Any) -> int:
    """What autograd keeps of a forward pass between it and the backward pass."""
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=IDS, use_cache=False)
    return sum(kept)


def test_layers_recompute_in_evaluation_mode_while_it_lasts() -> None:
    model = llama()
    checkpoint(model)
    model.train()
    with evaluating(model):
        everything = _kept_bytes(model)
        with recomputing(model):
            assert all(layer.training for layer in _layers(model))
            assert not any(part.training for layer in _layers(model) for part in layer.children())
            assert _kept_bytes(model) < everything / 2
        assert not any(module.training for module in model.modules())
    assert all(module.training for module in model.modules())


def test_models_that_keep_activations_and_layers_that_drop_them_are_left_alone() -> None:
    model = llama()
    torch.nn.Module.eval(model)
    with recomputing(model):
        assert not any(layer.training for layer in _layers(model))
    checkpoint(model)
    first, *others = _layers(model)
    first.residual_dropout = 0.1
    with recomputing(model):
        assert not first.training
        assert all(layer.training for layer in others)
