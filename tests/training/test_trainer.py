"""The trainer's own bookkeeping: what it refuses, what it forgets between trainings, what it evaluates."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from training_samples import lora, pair, pairs, policy, trajectories
from transformers import TrainerCallback, TrainerState

from multiturn.errors import ConfigError, TrainingError
from multiturn.memory import peak_host_memory
from multiturn.training import DMPOConfig, DMPOTrainer, SFTConfig, SFTTrainer
from multiturn.training.callbacks import CollapseWatch
from multiturn.training.metrics import sum_dtype
from multiturn.training.setup import attach_adapter

if TYPE_CHECKING:
    from multiturn.models import Policy


def _trainer(tiny: Policy, options: dict[str, Any], **more: Any) -> DMPOTrainer:
    more.setdefault("train_dataset", pairs(4))
    return DMPOTrainer(tiny.model, DMPOConfig(**options), processing_class=tiny.tokenizer, **more)


def test_an_evaluation_set_by_its_name_before_training(tiny: Policy, run_options: dict[str, Any]) -> None:
    held_out = {"long": [pair(9, chosen=6)], "short": [pair(8)]}
    trainer = _trainer(tiny, run_options, eval_dataset=held_out)
    assert trainer.evaluate("short")["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own
def test_the_policy_is_no_reference_of_its_own(tiny: Policy, run_options: dict[str, Any]) -> None:
    """Freezing it as the reference would leave nothing to train."""
    with pytest.raises(ConfigError, match="leave ref_model out"):
        _trainer(tiny, run_options, ref_model=tiny.model)
    base: Any = tiny.model
    adapted: Any = get_peft_model(base, LoraConfig(r=2, target_modules="all-linear"))
    with pytest.raises(ConfigError, match="shares its weights with the model that is trained"):
        DMPOTrainer(
            adapted,
            DMPOConfig(**run_options),
            train_dataset=pairs(2),
            processing_class=tiny.tokenizer,
            ref_model=base,
        )


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own
def test_an_adapter_that_is_frozen(tmp_path: Any, run_options: dict[str, Any]) -> None:
    args = SFTConfig(**run_options, max_steps=1)
    attach_adapter(policy().model, lora(), args).save_pretrained(str(tmp_path / "adapter"))

    def trainer(**options: Any) -> SFTTrainer:
        tiny = policy()
        model: Any = PeftModel.from_pretrained(tiny.model, str(tmp_path / "adapter"), **options)
        return SFTTrainer(model, args, train_dataset=trajectories(2), processing_class=tiny.tokenizer)

    with pytest.raises(ConfigError, match="is_trainable=True"):
        trainer().train()
    trainer(is_trainable=True).train()


def test_a_reference_that_is_not_finite_is_blamed(tiny: Policy, run_options: dict[str, Any]) -> None:
    broken = policy(seed=1).model
    torch.nn.init.constant_(next(iter(broken.parameters())), math.nan)
    trainer = _trainer(tiny, run_options, ref_model=broken)
    with pytest.raises(TrainingError, match=r"not finite in step 1 for .*The reference's own log-prob"):
        trainer.train()


def test_a_training_that_was_broken_off_leaves_no_trace_in_the_next(
    tiny: Policy, run_options: dict[str, Any]
) -> None:
    """The first record of the next training is the mean over its own rows alone."""

    class Stop(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

    trainer = _trainer(tiny, {**run_options, "max_steps": 1, "learning_rate": 0.1})
    stop = Stop()
    trainer.add_callback(stop)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.remove_callback(stop)
    expected = trainer.evaluate(pairs(4))
    assert abs(expected["eval_rewards/margins"]) > 1e-3  # the step was taken; at the reference it would be 0
    trainer.train()
    first = trainer.state.log_history[0]
    assert first["rewards/margins"] == pytest.approx(expected["eval_rewards/margins"], rel=1e-4)


@pytest.mark.parametrize(
    ("history", "warnings"),
    [
        ([], 1),
        ([{"step": 2, "warning": "collapse: by step 2 ..."}], 0),
        ([{"step": 0, "warning": "the layout 'forest' does not compute ..."}], 1),
    ],
)
def test_a_resumed_training_is_warned_once_in_all(history: list[Any], warnings: int) -> None:
    seen: list[int] = []
    watch = CollapseWatch(1.0, lambda step, message: seen.append(step))
    unused: Any = SimpleNamespace()
    state = TrainerState(log_history=history, is_world_process_zero=False)
    watch.on_train_begin(unused, state, unused)
    for step in range(3, 9):
        state.global_step = step
        watch.add(torch.tensor([-5.0]), 1)
        watch.on_step_end(unused, state, unused)
    assert len(seen) == warnings


def test_sums_on_apples_gpus() -> None:
    """These have no float64."""
    assert sum_dtype(torch.device("mps")) == torch.float32
    assert sum_dtype(torch.device("cpu")) == torch.float64


def test_memory() -> None:
    assert 2**20 < peak_host_memory() <= peak_host_memory(children=True)
