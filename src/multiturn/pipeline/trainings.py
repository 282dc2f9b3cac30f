"""Trainings as a run's settings describe them."""

from __future__ import annotations

import math
import os
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from multiturn.errors import ConfigError
from multiturn.launch import process_count
from multiturn.models.load import ModelSpec, Policy, load_policy
from multiturn.models.quantized import require_quantization
from multiturn.pipeline.operations import load_model
from multiturn.reports.summary import mean_of_last_tenth
from multiturn.training.config import DMPOConfig, SFTConfig
from multiturn.training.preference import DMPOTrainer, train_preference
from multiturn.training.rows import chosen_row
from multiturn.training.sft import SFTTrainer, train_sft
from multiturn.training.trackers import require_trackers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from multiturn.pipeline.config import PromptSettings
    from multiturn.pipeline.train_settings import (
        LoraSettings,
        PreferenceSettings,
        SftSettings,
        TrainSettings,
    )
    from multiturn.trajectory import PreferencePair, Trajectory

__all__ = [
    "describe_training",
    "pair_trainer",
    "require_what_it_takes",
    "sft_trainer",
    "train_on_demonstrations",
    "train_on_pairs",
]


_KEEPS_NOTHING: Final[Mapping[str, Any]] = MappingProxyType(
    {"save_strategy": "no", "report_to": "none", "disable_tqdm": True}
)
"""What a training is told of which nothing but the time and the memory is wanted."""


def require_what_it_takes(trainings: Iterable[TrainSettings]) -> None:
    """Refuse trainings that this machine lacks something for, before any work.

    Args:
        trainings: The settings of each.

    Raises:
        ConfigError: A quantization needs a GPU, or a tracker a package, that is not here.
        MissingExtraError: An extra of multiturn's is not installed.
    """
    for settings in trainings:
        require_trackers(settings.report_to or ())
        if settings.lora is not None and settings.lora.quantization is not None:
            require_quantization(settings.lora.quantization)


def describe_training(history: Mapping[str, Any]) -> str:
    """A training in a line: its loss and accuracy over the last tenth of its steps, and its warnings.

    Args:
        history: As `multiturn.training.sft.train_sft` gives it.
    """
    words = []
    for name, word, digits in (("loss", "loss", 3), ("rewards/accuracies", "accuracy", 2)):
        values = [record[name] for record in history["log"] if name in record]
        words += [f"{word} {mean_of_last_tenth(values):.{digits}f}"] if values else []
    return ", ".join([*words, *history.get("warnings", [])]) or "done"


def train_on_demonstrations(
    model: str | Mapping[str, Any],
    trajectories: Sequence[Trajectory],
    *,
    settings: SftSettings,
    prompt: PromptSettings,
    precision: str,
    seed: int,
    output: Path,
) -> dict[str, Any]:
    """SFT; goes on from the last checkpoint in ``output`` if there is one.

    Args:
        model: What to start from.
        trajectories: The demonstrations.
        settings: How to train.
        prompt: How conversations are put to the model.
        precision: ``bf16`` or ``fp32``.
        seed: Seeds data order and dropout.
        output: The training's folder; the model ends up in its ``model``.

    Returns:
        The training's history as `multiturn.training.sft.train_sft` gives it.
    """
    require_what_it_takes([settings])
    arguments = SFTConfig(**_arguments(settings, prompt, precision, seed, output, rows=len(trajectories)))
    policy = _policy(model, settings.lora)
    return train_sft(policy, trajectories, arguments, peft_config=_peft_config(settings.lora))


def train_on_pairs(
    model: str | Mapping[str, Any],
    pairs: Sequence[PreferencePair],
    *,
    settings: PreferenceSettings,
    prompt: PromptSettings,
    precision: str,
    seed: int,
    output: Path,
    reference_cache: Path | None = None,
) -> dict[str, Any]:
    """Preference training from a model that is also the frozen reference, or SFT on the chosen sides.

    Args:
        model: The policy to start from.
        pairs: The preference pairs.
        settings: How to train.
        prompt: How conversations are put to the model.
        precision: ``bf16`` or ``fp32``.
        seed: Seeds data order and dropout.
        output: The training's folder; the model ends up in its ``model``.
        reference_cache: The reference's log-probabilities, shared by trainings from the same model.

    Returns:
        The training's history as `multiturn.training.preference.train_preference` gives it, or as
        `multiturn.training.sft.train_sft` does for the objective ``sft``.
    """
    require_what_it_takes([settings])
    common = _arguments(settings, prompt, precision, seed, output, rows=len(pairs))
    adapter = _peft_config(settings.lora)
    if settings.objective == "sft":
        control = SFTConfig(**common)
        return train_sft(
            _policy(model, settings.lora), [chosen_row(pair) for pair in pairs], control, peft_config=adapter
        )
    arguments = _preference_config(settings, common, reference_cache)
    return train_preference(_policy(model, settings.lora), pairs, arguments, peft_config=adapter)


def sft_trainer(
    model: str | Mapping[str, Any],
    trajectories: Sequence[Trajectory],
    *,
    settings: SftSettings,
    prompt: PromptSettings,
    precision: str,
    output: Path,
    steps: int,
) -> SFTTrainer:
    """The trainer of `train_on_demonstrations`, for a few steps from which nothing is kept.

    Args:
        model: What to start from.
        trajectories: The demonstrations.
        settings: How to train.
        prompt: How conversations are put to the model.
        precision: ``bf16`` or ``fp32``.
        output: A folder that nobody needs afterwards.
        steps: Optimizer steps.
    """
    arguments = _arguments(settings, prompt, precision, 0, output, rows=len(trajectories))
    arguments |= {**_KEEPS_NOTHING, "max_steps": steps}
    policy = _policy(model, settings.lora)
    return SFTTrainer(
        policy.model,
        SFTConfig(**arguments),
        train_dataset=trajectories,
        processing_class=policy.tokenizer,
        peft_config=_peft_config(settings.lora),
    )


def pair_trainer(
    model: str | Mapping[str, Any],
    pairs: Sequence[PreferencePair],
    *,
    settings: PreferenceSettings,
    prompt: PromptSettings,
    precision: str,
    output: Path,
    steps: int,
) -> DMPOTrainer:
    """The trainer of `train_on_pairs`, for a few steps from which nothing is kept.

    Args:
        model: What to start from.
        pairs: The preference pairs.
        settings: How to train; the objective is not ``sft``.
        prompt: How conversations are put to the model.
        precision: ``bf16`` or ``fp32``.
        output: A folder that nobody needs afterwards.
        steps: Optimizer steps.
    """
    arguments = _arguments(settings, prompt, precision, 0, output, rows=len(pairs))
    arguments |= {**_KEEPS_NOTHING, "max_steps": steps}
    policy = _policy(model, settings.lora)
    return DMPOTrainer(
        policy.model,
        _preference_config(settings, arguments, None),
        train_dataset=pairs,
        processing_class=policy.tokenizer,
        peft_config=_peft_config(settings.lora),
    )


def _preference_config(
    settings: PreferenceSettings, common: Mapping[str, Any], reference_cache: Path | None
) -> DMPOConfig:
    return DMPOConfig(
        **common,
        objective=settings.objective,
        beta=settings.beta,
        gamma=settings.gamma,
        weighting=settings.weighting,
        label_smoothing=settings.label_smoothing,
        target_margin=settings.target_margin,
        chosen_nll=settings.chosen_nll,
        reference=settings.reference,
        reference_cache=None if reference_cache is None else str(reference_cache),
    )


def _policy(model: str | Mapping[str, Any], lora: LoraSettings | None) -> Policy:
    """The model to start from, its weights in 4 bits if that is wanted."""
    if lora is None or lora.quantization is None:
        return load_model(model)
    if not isinstance(model, str):
        raise ConfigError("lora.quantization: a scratch model is not quantized; leave it out")
    return load_policy(ModelSpec(name=model, quantization=lora.quantization), dtype="bfloat16")


def _arguments(
    settings: TrainSettings, prompt: PromptSettings, precision: str, seed: int, output: Path, *, rows: int
) -> dict[str, Any]:
    steps = math.ceil(rows / settings.batch_size) * settings.epochs
    at_once, passes = _split(settings)
    launcher = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision == "fp32" and launcher != "no":
        raise ConfigError(f"precision is fp32, the launcher's mixed_precision {launcher}; change either")
    return {
        "output_dir": str(output),
        "seed": seed,
        "bf16": precision == "bf16",
        "learning_rate": settings.learning_rate,
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": passes,
        "lr_scheduler_type": settings.schedule,
        "warmup_steps": settings.warmup,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "max_length": settings.max_length,
        "overlong": settings.overlong,
        "chat_template": prompt.chat_template,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "layout": settings.layout,
        "head": settings.head,
        "max_tokens_per_batch": settings.max_tokens_per_batch,
        "keep_tasks_together": settings.keep_tasks_together,
        "logging_steps": 1,
        "save_strategy": "steps" if settings.checkpoints else "no",
        "save_steps": max(1, math.ceil(steps / (settings.checkpoints + 1))),
        "save_total_limit": 1,
        "report_to": list(settings.report_to or ()) or "none",
        # Our own progress bar; transformers would switch it off together with its messages.
        "disable_tqdm": False,
    }


def _split(settings: TrainSettings) -> tuple[int, int]:
    """Rows of a forward pass and passes of an optimizer step, in each process that shares a batch."""
    processes = process_count()
    share, left = divmod(settings.batch_size, processes)
    at_once = min(settings.rows_at_once, share)
    if left or share % at_once:
        raise ConfigError(
            f"batch_size {settings.batch_size} cannot be shared by {processes} processes; make it a multiple "
            f"of {processes} times micro_batch_size ({settings.micro_batch_size or 1})"
        )
    return at_once, share // at_once


def _peft_config(settings: LoraSettings | None) -> Any:
    if settings is None:
        return None
    from peft import LoraConfig

    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha or 2 * settings.rank,
        lora_dropout=settings.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
