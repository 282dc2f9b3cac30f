"""The settings of the trainers: `transformers.TrainingArguments` with a few more fields, checked early."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Final, get_args

import torch
from transformers import TrainingArguments

from multiturn.errors import ConfigError
from multiturn.models import Head
from multiturn.tokens import Layout, Overlong
from multiturn.training.objectives import PairTask
from multiturn.training.trackers import PROJECT, require_trackers, tracker_names

__all__ = ["DMPOConfig", "SFTConfig", "TurnTrainingArguments"]

OVERLONG: Final[tuple[str, ...]] = get_args(Overlong)
LAYOUTS: Final = ("auto", *get_args(Layout))
HEADS: Final = get_args(Head)
REFERENCES: Final = ("auto", "cached", "live", "adapter-off")


@dataclasses.dataclass(kw_only=True)
class TurnTrainingArguments(TrainingArguments):
    """What SFT and preference training have in common.

    Every field of `transformers.TrainingArguments` is there; these are new or have another default. Where no
    accelerator is found, `use_cpu` turns itself on, so ``bf16=True`` works on any machine: the forward pass
    runs under bfloat16 autocast while weights and optimizer stay in float32.

    Attributes:
        max_length: Tokens in a conversation at most; None takes the model's own limit.
        overlong: What happens to a longer conversation: ``"error"``, ``"drop"`` (its row is left out, counted
            and named) or ``"cut"`` (after the last turn that fits; the number of turns is what is left).
        chat_template: ``"model"`` (the tokenizer's own), ``"compact"`` (few markup tokens), a variant such as
            ``"qwen3-training"`` (``docs/templates.md``) or the path of a Jinja file.
        layout: How the conversations of a forward pass are laid out. ``"forest"``: as one sequence without
            padding in which shared prefixes stand once (both sides of a pair, pairs of a task, a common
            system prompt); ``"packed"``: one after another without sharing; ``"padded"``: as rows padded to
            the longest; ``"auto"``: a forest where the model takes one. On the first batch a packed layout is
            checked against padded rows, and given up with a warning if the two differ.
        head: How tokens are scored. ``"fused"``: without ever holding all logits; ``"logits"``: by the
            model's own; ``"auto"``: fused where the model allows it.
        max_tokens_per_batch: Tokens of a forward pass at most, shared ones counted once. The rows of an
            optimizer step (``per_device_train_batch_size`` x ``gradient_accumulation_steps``) are split into
            as few passes as that allows. None runs ``per_device_train_batch_size`` rows at a time.
        keep_tasks_together: Whether rows with the same prompt come in the same optimizer step, where they
            share what they have in common. Tasks, and the rows of each, still come in random order.
        report_to: Trackers by transformers' names for them (``"tensorboard"``, ``"wandb"``, ...), or several
            in a list. ``"none"`` by default. They keep their files in ``<output_dir>/trackers`` and stay
            offline, unless environment variables of theirs say otherwise: ``docs/training.md``.
        project: What trackio files the run under.

    Raises:
        ConfigError: A value is not usable; the message names the field and what it may be.
        MissingExtraError: `report_to` names a tracker of an extra that is not installed.
    """

    max_length: int | None = None
    overlong: str = "error"
    chat_template: str = "model"
    layout: str = "auto"
    head: str = "auto"
    max_tokens_per_batch: int | None = None
    keep_tasks_together: bool = True

    project: str = PROJECT
    logging_steps: float = 10
    logging_first_step: bool = True
    # A non-finite loss ends the training; there is nothing to filter, and the filter waits for the device.
    logging_nan_inf_filter: bool = False
    include_num_input_tokens_seen: str | bool = "non_padding"
    save_steps: float = 100
    save_total_limit: int | None = 2
    remove_unused_columns: bool = False
    average_tokens_across_devices: bool = True

    def __post_init__(self) -> None:
        """Check every field of our own, then let transformers check its own."""
        self._check()
        if not torch.accelerator.is_available():
            self.use_cpu = True
        # Newer versions of transformers call it activation checkpointing and complain about the old name.
        if self.gradient_checkpointing is not None and getattr(self, "activation_checkpointing", 0) is None:
            self.activation_checkpointing, self.gradient_checkpointing = self.gradient_checkpointing, None
        try:
            check_theirs: Any = super().__post_init__
            check_theirs()
        except (ValueError, TypeError, NotImplementedError) as error:
            raise ConfigError(f"{type(self).__name__}: {error}") from error

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """What is computed in where that is not the weights' own dtype; a launcher may say so, too."""
        own = "bf16" if self.bf16 else "fp16" if self.fp16 else "no"
        mixed = {"bf16": torch.bfloat16, "fp16": torch.float16}
        return mixed.get(getattr(self, "mixed_precision", own))

    def _check(self) -> None:
        if self.max_length is not None and not (_is_int(self.max_length) and self.max_length >= 1):
            raise ConfigError(f"max_length is {self.max_length!r}; use a number of tokens above 0, or None")
        if self.overlong not in OVERLONG:
            raise ConfigError(f"overlong is {self.overlong!r}; use one of {', '.join(OVERLONG)}")
        if not isinstance(self.chat_template, str) or not self.chat_template:
            raise ConfigError(
                f"chat_template is {self.chat_template!r}; use 'model', 'compact', a variant such as "
                "'qwen3-training', or the path of a Jinja file"
            )
        if self.layout not in LAYOUTS:
            raise ConfigError(f"layout is {self.layout!r}; use one of {', '.join(LAYOUTS)}")
        if self.head not in HEADS:
            raise ConfigError(f"head is {self.head!r}; use one of {', '.join(HEADS)}")
        budget = self.max_tokens_per_batch
        if budget is not None and not (_is_int(budget) and budget >= 1):
            raise ConfigError(f"max_tokens_per_batch is {budget!r}; use a number of tokens above 0, or None")
        if self.save_only_model:
            raise ConfigError("save_only_model=True makes checkpoints that cannot be resumed; leave it False")
        if self.train_sampling_strategy == "batch_rebalance":
            raise ConfigError(
                "train_sampling_strategy 'batch_rebalance' is not supported; use 'random' (it groups "
                "the rows of one step by length), 'group_by_length' or 'sequential'"
            )
        names = tracker_names(self.report_to)
        require_trackers(names)
        self.report_to = names or "none"
        if self.label_smoothing_factor:
            raise ConfigError("label_smoothing_factor has no meaning for these objectives; leave it 0")


@dataclasses.dataclass(kw_only=True)
class SFTConfig(TurnTrainingArguments):
    """Settings of `SFTTrainer`; the defaults are those of the DMPO paper's SFT stage.

    64 trajectories a step, 3 epochs, cosine schedule with 3% warm-up. The attributes are those of
    `TurnTrainingArguments`.
    """

    learning_rate: float = 1e-5
    per_device_train_batch_size: int = 8
    gradient_accumulation_steps: int = 8
    lr_scheduler_type: Any = "cosine"
    warmup_steps: float = 0.03


@dataclasses.dataclass(kw_only=True)
class DMPOConfig(TurnTrainingArguments):
    """Settings of `DMPOTrainer`; the defaults are those of the DMPO paper.

    32 pairs a step, 3 epochs, learning rate 1e-6 constant after 10% warm-up. With LoRA or a small model use
    a larger learning rate, and watch ``logratios/chosen``.

    Attributes:
        objective: ``"dmpo"`` (turn weights phi), ``"dpo"`` (every turn counts alike: trajectory DPO),
            ``"ipo"``, ``"hinge"``, ``"cdpo"``, ``"robust"``, ``"simpo"`` (without a reference: none is
            computed, and `reference` says nothing), or ``"module:objective"``, a `PairObjective` of your own.
            ``docs/method.md`` has a table.
        beta: The strength of the constraint to the reference, above 0. Its scale differs between objectives:
            the papers use 0.1 and around for most, 2 to 10 for ``simpo``.
        gamma: The discount of a turn, in [0, 1]; only the weightings ``phi`` and ``exponential`` read it.
        weighting: How much each turn counts, with any objective: ``"phi"`` (DMPO's), ``"uniform"``,
            ``"exponential"`` (gamma to the power of the turn), ``"last"`` (the last turn only), or
            ``"module:function"``, a `Weighting` of your own. None takes the objective's own: ``phi`` for
            ``dmpo``, ``uniform`` for the others.
        label_smoothing: The share of pairs that are believed to be swapped, in [0, 0.5); for ``cdpo`` and
            ``robust``, which take 0.1 where it is None.
        target_margin: By how much the chosen side's reward should lead, 0 or more; for ``simpo``, which takes
            0.5 where it is None.
        chosen_nll: The weight of the chosen side's negative log-likelihood per token beside the pairwise loss
            (M15), 0 or more. It keeps the chosen side likely where a small model would let both sides fall;
            the paper has no such term, so it is off by default.
        reference: Where the reference's log-probabilities come from. ``"cached"``: computed once before the
            first step and kept on disk, so no second model stays in memory and a resumed run does not compute
            them again. ``"live"``: a frozen second model (or `ref_model`) runs at every step; where an
            adapter is trained and no `ref_model` given, that is the policy with its adapter off.
            ``"adapter-off"``: the policy itself with its adapter off, at every step. ``"auto"``: ``"live"``
            when a `ref_model` is given, else ``"cached"`` (computed with the adapter off where there is one).
        reference_cache: The cache's folder; None takes ``<output_dir>/reference``. Runs that share model and
            data (a sweep over beta, gamma, objective or learning rate) may share one.
        collapse_warning_nats: Warn once when the chosen actions have become less likely than under the
            reference by this many nats for each turn, on average and smoothed over steps. 1.0 means 2.7 times
            less likely. `math.inf` turns the warning off; without a reference there is none.

    Raises:
        ConfigError: A value is not usable; the message names the field and what it may be.
    """

    objective: str = "dmpo"
    beta: float = 0.1
    gamma: float = 0.7
    weighting: str | None = None
    label_smoothing: float | None = None
    target_margin: float | None = None
    chosen_nll: float = 0.0
    reference: str = "auto"
    reference_cache: str | None = None
    collapse_warning_nats: float = 1.0

    learning_rate: float = 1e-6
    per_device_train_batch_size: int = 4
    gradient_accumulation_steps: int = 8
    lr_scheduler_type: Any = "constant_with_warmup"
    warmup_steps: float = 0.1

    def _check(self) -> None:
        super()._check()
        if not (_is_number(self.beta) and 0.0 < self.beta < math.inf):
            raise ConfigError(f"beta is {self.beta!r}; use a finite number above 0, such as 0.1")
        if not (_is_number(self.gamma) and 0.0 <= self.gamma <= 1.0):
            raise ConfigError(f"gamma is {self.gamma!r}; it is a discount, use a number in [0, 1]")
        if not (_is_number(self.chosen_nll) and 0.0 <= self.chosen_nll < math.inf):
            raise ConfigError(f"chosen_nll is {self.chosen_nll!r}; use a finite number, 0 or more")
        if not isinstance(self.objective, str) or not isinstance(self.weighting, str | None):
            raise ConfigError(
                f"objective is {self.objective!r} and weighting {self.weighting!r}; use names, or None for "
                "the objective's own weighting"
            )
        for name, value, example in (
            ("label_smoothing", self.label_smoothing, "a share in [0, 0.5)"),
            ("target_margin", self.target_margin, "a finite number, 0 or more"),
        ):
            if value is not None and not _is_number(value):
                raise ConfigError(f"{name} is {value!r}; use {example}, or None for the objective's own")
        self.pair_task()
        if self.reference not in REFERENCES:
            raise ConfigError(f"reference is {self.reference!r}; use one of {', '.join(REFERENCES)}")
        if not (_is_number(self.collapse_warning_nats) and self.collapse_warning_nats > 0.0):
            raise ConfigError(
                f"collapse_warning_nats is {self.collapse_warning_nats!r}; use a number above 0 (nats for "
                "each turn), or inf to turn the warning off"
            )

    def pair_task(self) -> PairTask:
        """The objective with its settings, as the trainer uses it.

        Raises:
            ConfigError: There is no such objective or weighting, or a setting is not usable with it.
        """
        return PairTask(
            self.objective,
            float(self.beta),
            float(self.gamma),
            float(self.chosen_nll),
            weighting=self.weighting,
            label_smoothing=_float(self.label_smoothing),
            target_margin=_float(self.target_margin),
        )


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
