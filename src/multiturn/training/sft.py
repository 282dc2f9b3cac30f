"""Supervised fine-tuning on trajectories."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peft import PeftModel

from multiturn.errors import ConfigError
from multiturn.training.config import SFTConfig
from multiturn.training.data import render_trajectories
from multiturn.training.model_card import Origin
from multiturn.training.objectives import SftTask
from multiturn.training.processes import shared_fingerprint
from multiturn.training.run import train_to_end
from multiturn.training.setup import (
    Rendering,
    attach_adapter,
    merge_adapter,
    name_of,
    open_model,
    render_sets,
)
from multiturn.training.trainer import Optimizers, TurnTrainer

if TYPE_CHECKING:
    from pathlib import Path

    from peft import PeftConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

    from multiturn.models import Policy
    from multiturn.training.rows import Rows
    from multiturn.trajectory import Json

__all__ = ["SFTTrainer", "train_sft"]


class SFTTrainer(TurnTrainer):
    """Fine-tunes a model on the assistant turns of trajectories (M9).

    Args:
        model: A name or path, or a model. A model with an adapter goes on training that adapter, unless
            `peft_config` is given: then the old one is merged first.
        args: The settings.
        train_dataset: Rows with ``messages`` (or ``prompt`` and ``completion``), or `Trajectory` objects.
        eval_dataset: The same, or several sets by name.
        processing_class: The tokenizer; None takes the model's own.
        peft_config: Trains an adapter instead of all weights.
        callbacks: Further callbacks.
        optimizers: An optimizer and a schedule of your own.

    Raises:
        ConfigError: An argument is not usable.
        DataError: A row is not usable; the message names it.
        TrainingError: No row is left to train on.
    """

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        args: SFTConfig | None = None,
        *,
        train_dataset: Rows | None = None,
        eval_dataset: Rows | dict[str, Rows] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: Optimizers = (None, None),
    ) -> None:
        args = SFTConfig() if args is None else args
        if not isinstance(args, SFTConfig):
            raise ConfigError(f"args is a {type(args).__name__}; SFTTrainer takes an SFTConfig")
        policy, tokenizer = open_model(model, processing_class)
        render = Rendering(render_trajectories, policy, tokenizer, args)
        train_rows, eval_rows = render_sets(train_dataset, render), render_sets(eval_dataset, render)
        adapted = isinstance(policy, PeftModel)
        if peft_config is not None:
            policy = merge_adapter(policy)
        origin = Origin(
            name=name_of(policy),
            fingerprint=shared_fingerprint(policy),  # now: an adapter changes the model that it is put on
            merged=adapted and peft_config is not None,
        )
        super().__init__(
            attach_adapter(policy, peft_config, args),
            args,
            task=SftTask(),
            train_dataset=train_rows,
            eval_dataset=eval_rows,
            processing_class=tokenizer,
            render=render,
            chat_template=render.chat_template,
            stop_ids=render.stop_ids,
            origin=origin,
            callbacks=callbacks,
            optimizers=optimizers,
        )


def train_sft(
    policy: Policy,
    trajectories: Rows,
    args: SFTConfig,
    *,
    save_to: Path | str | None = None,
    eval_trajectories: Rows | None = None,
    peft_config: PeftConfig | None = None,
) -> dict[str, Json]:
    """Fine-tune a policy on trajectories; going on where an interrupted call stopped.

    Args:
        policy: The policy with its initial weights, also on the call that goes on. It is trained in place.
        trajectories: See `SFTTrainer`.
        args: The settings; `output_dir` holds the checkpoints while it trains.
        save_to: Where the trained model goes; None takes ``<output_dir>/model``. An adapter is merged into
            it, so that it loads in plain transformers, and is kept beside it in ``<save_to>-adapter``.
        eval_trajectories: Evaluated as `args` says.
        peft_config: Trains an adapter instead of all weights.

    Returns:
        The history as JSON: ``log`` (records of the trainer), ``data`` (what became of the rows),
        ``warnings``, ``steps``, ``seconds``, ``tokens``, ``timing`` (seconds of each phase and tokens of this
        process), ``peak_memory_bytes`` and ``resumed_from`` (a step
        or null).
    """
    trainer = SFTTrainer(
        policy.model,
        args,
        train_dataset=trajectories,
        eval_dataset=eval_trajectories,
        processing_class=policy.tokenizer,
        peft_config=peft_config,
    )
    return train_to_end(trainer, policy, save_to)
