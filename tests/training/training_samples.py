"""Toy pairs and trajectories, and the tiny policy that is trained on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig

from multiturn.models import Policy, scratch_policy

if TYPE_CHECKING:
    from collections.abc import Sequence

Row = dict[str, Any]


def policy(seed: int = 0, dtype: torch.dtype = torch.float32) -> Policy:
    return scratch_policy(vocab_size=300, hidden_size=32, layers=2, seed=seed, dtype=dtype, max_positions=512)


def lora(**options: Any) -> LoraConfig:
    return LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", **options)


def conversation(actions: Sequence[str]) -> list[Row]:
    messages = []
    for step, action in enumerate(actions):
        messages.append({"role": "assistant", "content": action})
        messages.append({"role": "user", "content": f"saw {step}"})
    return messages


def pair(index: int, *, chosen: int = 2, rejected: int = 3) -> Row:
    """A pair whose chosen side takes and whose rejected side drops, with the given numbers of turns."""
    return {
        "id": f"pair-{index}",
        "prompt": [{"role": "user", "content": f"task {index}"}],
        "chosen": conversation([f"take {step}" for step in range(chosen)]),
        "rejected": conversation([f"drop {step}" for step in range(rejected)]),
    }


def pairs(count: int) -> list[Row]:
    """Pairs of different lengths: 1 to 3 turns chosen, 1 to 4 rejected."""
    return [pair(i, chosen=1 + i % 3, rejected=1 + (i * 3) % 4) for i in range(count)]


def trajectories(count: int) -> list[Row]:
    return [
        {
            "id": f"trajectory-{i}",
            "messages": [
                {"role": "user", "content": f"task {i}"},
                *conversation([f"take {step} of {i}" for step in range(1 + i % 4)]),
            ],
        }
        for i in range(count)
    ]


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
