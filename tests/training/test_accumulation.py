"""1 x 8 and 8 x 1 are the same step: loss and every gradient, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from training_samples import lora, pairs, policy, trajectories
from transformers import TrainerCallback

from multiturn.training import DMPOConfig, DMPOTrainer, SFTConfig, SFTTrainer


class _Gradients(TrainerCallback):
    """Keeps the gradients of every step and the loss of every micro-batch."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, *_: Any, model: Any = None, **__: Any) -> None:
        self.steps.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})


def _run(
    kind: str, rows: int, micro: int, accumulate: int, folder: Any, *, adapter: bool
) -> tuple[list[float], list[dict[str, torch.Tensor]]]:
    tiny = policy(dtype=torch.float64)
    gradients = _Gradients()
    options: dict[str, Any] = {
        "output_dir": str(folder / f"{micro}x{accumulate}"),
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": accumulate,
        "num_train_epochs": 1,
        "learning_rate": 1e-3,
        "max_grad_norm": 0.0,
        "save_strategy": "no",
        "optim": "sgd",
    }
    common: dict[str, Any] = {
        "processing_class": tiny.tokenizer,
        "callbacks": [gradients],
        "peft_config": lora() if adapter else None,
    }
    losses: list[float] = []
    trainer: Any
    if kind == "sft":
        trainer = SFTTrainer(tiny.model, SFTConfig(**options), train_dataset=trajectories(rows), **common)
    else:
        reference: Any = policy(seed=3, dtype=torch.float64).model
        config = DMPOConfig(**options, objective=kind)
        trainer = DMPOTrainer(tiny.model, config, train_dataset=pairs(rows), ref_model=reference, **common)
    compute = trainer.compute_loss

    def recording(*args: Any, **kwargs: Any) -> Any:
        loss = compute(*args, **kwargs)
        losses.append(float(loss.detach()))
        return loss

    trainer.compute_loss = recording
    trainer.train()
    sums = [sum(losses[i : i + accumulate]) for i in range(0, len(losses), accumulate)]
    return sums, gradients.steps


@pytest.mark.usefixtures("double_throughout")
@pytest.mark.parametrize(
    ("kind", "adapter"), [("dmpo", False), ("dmpo", True), ("dpo", False), ("sft", False)]
)
def test_accumulation_changes_nothing(kind: str, tmp_path: Any, *, adapter: bool) -> None:
    """Eleven rows: a full step of 8 and a last one of 3, whose micro-batches have 2 and 1 rows."""
    losses, gradients = _run(kind, 11, 8, 1, tmp_path, adapter=adapter)
    assert len(losses) == len(gradients) == 2
    for micro, accumulate in ((1, 8), (2, 4)):
        others, other_gradients = _run(kind, 11, micro, accumulate, tmp_path, adapter=adapter)
        assert others == pytest.approx(losses, abs=1e-12)
        for step, other in zip(gradients, other_gradients, strict=True):
            assert step.keys() == other.keys()
            for name, gradient in step.items():
                torch.testing.assert_close(other[name], gradient, atol=1e-12, rtol=1e-9)
