"""Preference training on pairs of multi-turn trajectories: DMPO, trajectory DPO and their relatives."""

from __future__ import annotations

import copy
import dataclasses
import logging
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from peft import PeftModel

from multiturn.errors import ConfigError
from multiturn.training.config import DMPOConfig
from multiturn.training.data import render_pairs
from multiturn.training.model_card import Origin
from multiturn.training.processes import shared_fingerprint
from multiturn.training.reference import AdapterOff, Cached, Live, Reference
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
    from collections.abc import Mapping

    from peft import PeftConfig
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

    from multiturn.models import Policy
    from multiturn.training.rows import Rows
    from multiturn.trajectory import Json

__all__ = ["DMPOTrainer", "train_preference"]

logger = logging.getLogger(__name__)

REFERENCE_WAYS: Final[Mapping[type, str]] = MappingProxyType(
    {Cached: "cached", Live: "live", AdapterOff: "adapter-off"}
)


class DMPOTrainer(TurnTrainer):
    """Direct Multi-turn Preference Optimization (M6), or another pairwise objective, on conversational pairs.

    The policy that is handed in is also the reference. When it carries an adapter (from SFT, say) that is
    merged first, so that the reference is the SFT policy; a fresh adapter of the same settings is then
    trained, unless `peft_config` gives others.

    Args:
        model: A name or path, or a model; when a checkpoint will be resumed, still the initial one.
        args: The settings.
        train_dataset: Rows with ``chosen`` and ``rejected`` (lists of messages), optionally ``prompt``,
            ``tools`` and ``id``; or `PreferencePair` objects.
        eval_dataset: The same, or several sets by name.
        processing_class: The tokenizer; None takes the model's own.
        peft_config: Trains an adapter instead of all weights.
        ref_model: A reference other than the initial policy; not for objectives that read none.
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
        args: DMPOConfig | None = None,
        *,
        train_dataset: Rows | None = None,
        eval_dataset: Rows | dict[str, Rows] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        ref_model: str | PreTrainedModel | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: Optimizers = (None, None),
    ) -> None:
        args = DMPOConfig() if args is None else args
        if not isinstance(args, DMPOConfig):
            raise ConfigError(f"args is a {type(args).__name__}; DMPOTrainer takes a DMPOConfig")
        task = args.pair_task()
        if ref_model is not None and not task.reads_reference:
            raise ConfigError(f"the objective {args.objective!r} reads no reference; leave ref_model out")
        policy, tokenizer = open_model(model, processing_class)
        other = None if ref_model is None else open_model(ref_model, processing_class or tokenizer)[0]
        _refuse_shared_weights(policy, other)
        render = Rendering(render_pairs, policy, tokenizer, args)
        train_rows, eval_rows = render_sets(train_dataset, render), render_sets(eval_dataset, render)
        merged = isinstance(policy, PeftModel)
        if merged:
            peft_config = peft_config or copy.deepcopy(policy.peft_config[policy.active_adapter])
            policy = merge_adapter(policy)
            logger.info("the model's adapter was merged: with it, the model is the reference")
        fingerprint = shared_fingerprint(policy)
        origin = Origin(name=name_of(policy), fingerprint=fingerprint, merged=merged)
        reference: Reference | None = None
        if task.reads_reference:
            scored = fingerprint if other is None else shared_fingerprint(other)
            reference = _reference(args, other, scored, adapted=peft_config is not None)
            origin = dataclasses.replace(
                origin,
                reference=REFERENCE_WAYS[type(reference)],
                reference_name=None if other is None else name_of(other),
                reference_fingerprint=scored,
            )
        super().__init__(
            attach_adapter(policy, peft_config, args),
            args,
            task=task,
            train_dataset=train_rows,
            eval_dataset=eval_rows,
            processing_class=tokenizer,
            reference=reference,
            render=render,
            chat_template=render.chat_template,
            stop_ids=render.stop_ids,
            origin=origin,
            collapse_warning_nats=args.collapse_warning_nats if task.reads_reference else None,
            callbacks=callbacks,
            optimizers=optimizers,
        )


def _refuse_shared_weights(policy: nn.Module, other: nn.Module | None) -> None:
    """Refuse a reference that would change with the policy: what PEFT has put its adapter into, for example.

    Raises:
        ConfigError: They share weights.
    """
    if other is not None and {id(p) for p in policy.parameters()} & {id(p) for p in other.parameters()}:
        raise ConfigError(
            "ref_model shares its weights with the model that is trained, and would change with it; leave "
            "ref_model out: the reference is then the policy before its first step"
        )


def train_preference(
    policy: Policy,
    pairs: Rows,
    args: DMPOConfig,
    *,
    save_to: Path | str | None = None,
    eval_pairs: Rows | None = None,
    peft_config: PeftConfig | None = None,
) -> dict[str, Json]:
    """Train a policy on preference pairs; going on where an interrupted call stopped.

    Args:
        policy: The policy with its initial weights, which are the reference. It is trained in place.
        pairs: See `DMPOTrainer`.
        args: The settings; `output_dir` holds the checkpoints while it trains.
        save_to: Where the trained model goes; see `train_sft`.
        eval_pairs: Evaluated as `args` says.
        peft_config: Trains an adapter instead of all weights.

    Returns:
        The history as JSON; see `train_sft`.
    """
    trainer = DMPOTrainer(
        policy.model,
        args,
        train_dataset=pairs,
        eval_dataset=eval_pairs,
        processing_class=policy.tokenizer,
        peft_config=peft_config,
    )
    return train_to_end(trainer, policy, save_to)


def _reference(
    args: DMPOConfig, other: PreTrainedModel | None, fingerprint: str, *, adapted: bool
) -> Reference:
    """The source of the reference's log-probabilities that the settings ask for.

    Args:
        args: The settings.
        other: A reference other than the initial policy.
        fingerprint: Of the reference's weights.
        adapted: Whether an adapter is trained.
    """
    if args.reference == "adapter-off":
        if not adapted:
            raise ConfigError(
                "reference='adapter-off' needs an adapter; give a peft_config, or use reference='cached'"
            )
        if other is not None:
            raise ConfigError("ref_model and reference='adapter-off' contradict each other; leave one out")
        return AdapterOff()
    if args.reference == "live" or (args.reference == "auto" and other is not None):
        # An adapter that is off is the same model without a second copy of it.
        return AdapterOff() if other is None and adapted else Live(other)
    return Cached(
        Path(args.reference_cache or Path(args.output_dir or ".") / "reference"),
        autocast=args.autocast_dtype,
        fingerprint=fingerprint,
        model=other,
    )
