"""A trainer that knows how engines (DDP, FSDP, DeepSpeed) spread a model over processes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import torch
from accelerate.utils import fsdp2_apply_ac, fsdp2_prepare_model
from peft import PeftModel
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule
from typing_extensions import override

from multiturn.errors import ConfigError
from multiturn.models.quantized import is_quantized
from multiturn.training.resumable import ResumableTrainer
from multiturn.training.whole import filled, skeleton

if TYPE_CHECKING:
    from torch import nn

__all__ = ["EngineTrainer"]

SHARDED: Final = ("FSDP", "DEEPSPEED")
"""Engines under which every process must make the same passes at the same time."""


class EngineTrainer(ResumableTrainer):
    """Leaves no difference between engines but memory and time.

    Raises:
        ConfigError: The engine is set in a way that would go wrong.
    """

    _skeleton: nn.Module | None = None

    @property
    def sharded(self) -> bool:
        """Whether the engine splits the model over processes, so that it can only run wrapped."""
        return any(name in str(self.accelerator.distributed_type) for name in SHARDED)

    @property
    def reduces_every_pass(self) -> bool:
        """Whether gradients go to their process after every pass, not after the last one of a step."""
        every_pass = self.accelerator.gradient_state.plugin_kwargs.get("sync_each_batch", False)
        return bool(every_pass or self.is_deepspeed_enabled)

    @override
    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        parallelism = getattr(self.accelerator, "parallelism_config", None)
        if parallelism is not None and parallelism.non_data_parallel_size > 1:
            raise ConfigError("only data are trained on in parallel; set tp_size, cp_size and sp_size to 1")
        model: Any = self.model
        if self.sharded and is_quantized(model):
            raise ConfigError(
                "weights of 4 bits are not spread over processes; train them under DDP (every GPU holds "
                "them), or leave quantization out"
            )
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        if plugin is None:
            return
        _refuse_fsdp(plugin, adapter=isinstance(self.model, PeftModel))
        if plugin.mixed_precision_policy is not None:
            # accelerate would round what the model returns, log-probabilities, and gradients on the way.
            plugin.mixed_precision_policy = dataclasses.replace(
                plugin.mixed_precision_policy, output_dtype=None, reduce_dtype=torch.float32
            )
        asked: Any = self.args.accelerator_config
        if "sync_each_batch" not in (asked.gradient_accumulation_kwargs or {}):
            # Otherwise every process collects the gradients of the whole model over the passes of a step, in
            # the very memory that sharding is to save.
            self.accelerator.gradient_state.plugin_kwargs["sync_each_batch"] = True

    def before_wrapping(self) -> None:
        """Keep what the engine will have changed for good once it has wrapped the model."""
        model: Any = self.model
        if self.sharded:
            self._skeleton = self._skeleton or skeleton(model)
        elif self.accelerator.num_processes > 1 and self.model_wrapped is model:
            # An evaluation before the training has marked the model as prepared, though it wrapped nothing.
            # accelerate would take its word, and every process would train on its own rows alone.
            self.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
            vars(model).pop("_is_accelerate_prepared", None)

    def wrap_for_evaluation(self) -> None:
        """Wrap a model that is evaluated before it is trained: transformers cannot for FSDP 2."""
        if not self.is_fsdp_enabled or isinstance(self.model, FSDPModule):
            return
        self.before_wrapping()
        plugin: Any = self.accelerator.state.fsdp_plugin
        plugin.set_auto_wrap_policy(self.model)
        if plugin.activation_checkpointing:
            self.model = fsdp2_apply_ac(self.accelerator, self.model)
            plugin.activation_checkpointing = False  # it is there; the training must not put it on again
        self.model = self.model_wrapped = fsdp2_prepare_model(self.accelerator, self.model)
        self.accelerator._models.append(self.model)

    def reshard(self) -> None:
        """Spread all weights again: behind a forward pass without a backward pass FSDP keeps some whole.

        Those are in the precision of the computation, and no state dictionary or optimizer knows them.
        """
        model: Any = self.model
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def whole_model(self) -> Any:
        """The trained model with all its weights; every process must ask.

        Where the engine spreads weights over processes only process 0 gets it, on the CPU; others get None.
        """
        if not self.sharded or self._skeleton is None:
            return self.model
        weights = self.accelerator.get_state_dict(self.model_wrapped)
        return filled(skeleton(self._skeleton), weights) if self.is_world_process_zero() else None

    @override
    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model so that plain transformers can load it, whatever checkpoints look like."""
        if not self.is_fsdp_enabled or _internal_call:
            super().save_model(output_dir, _internal_call)
            return
        wrapped, model = self.model, self.whole_model()
        if self.args.should_save:
            try:
                self.model = model
                self._save(output_dir)
            finally:
                self.model = wrapped
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)


def _refuse_fsdp(plugin: Any, *, adapter: bool) -> None:
    """Refuse settings of FSDP that are known to fail, some of them in silence."""
    if plugin.fsdp_version != 2:
        raise ConfigError("FSDP version 1 is not supported; set fsdp_version to 2")
    if isinstance(plugin.cpu_offload, CPUOffloadPolicy):
        raise ConfigError(
            "FSDP with weights in main memory is not supported; set fsdp_offload_params to false"
        )
    if adapter and plugin.activation_checkpointing and "FULL_STATE_DICT" not in str(plugin.state_dict_type):
        # accelerate 1.15 writes checkpoints without the adapter then, and resumes from them all the same.
        raise ConfigError(
            "an adapter under FSDP's activation checkpointing needs fsdp_state_dict_type FULL_STATE_DICT; "
            "its checkpoints would lack the adapter otherwise"
        )
