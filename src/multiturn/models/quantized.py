"""Weights in 4 bits (QLoRA): what they need, how they are loaded, and the way back to plain weights."""

from __future__ import annotations

import copy
import importlib.util
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import BitsAndBytesConfig

from multiturn.errors import ConfigError, MissingExtraError
from multiturn.launch import local_index
from multiturn.models.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn
    from transformers import PreTrainedModel

__all__ = [
    "QUANTIZATIONS",
    "Quantization",
    "is_quantized",
    "merged",
    "quantization_of",
    "quantized_options",
    "require_quantization",
]

Quantization = Literal["nf4"]
QUANTIZATIONS: Final = get_args(Quantization)


def require_quantization(quantization: str) -> None:
    """Refuse a quantization that this machine cannot train with, before anything is loaded.

    Args:
        quantization: Its name; ``nf4`` needs bitsandbytes and a CUDA device.

    Raises:
        ConfigError: There is no such quantization, or no CUDA device.
        MissingExtraError: bitsandbytes is not installed.
    """
    if quantization not in QUANTIZATIONS:
        raise ConfigError(f"quantization is {quantization!r}; use {' or '.join(QUANTIZATIONS)}, or none")
    if _device() is None:
        raise ConfigError(
            f"quantization {quantization} trains on a CUDA GPU, and torch sees none on this machine; run it "
            "where there is one (with a PyTorch build for it), or leave quantization out: LoRA works anywhere"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError(f"quantization {quantization}", extra="qlora", missing="bitsandbytes")


def quantized_options(quantization: str) -> Mapping[str, Any]:
    """What transformers' ``from_pretrained`` needs to load a model quantized, onto this process's GPU.

    NormalFloat in 4 bits with quantized scales for the linear layers, which compute in bfloat16. Embeddings,
    norms and the output head keep the dtype that they are loaded with.

    Args:
        quantization: See `require_quantization`.

    Raises:
        ConfigError: As `require_quantization`.
        MissingExtraError: As `require_quantization`.
    """
    require_quantization(quantization)
    settings: Any = BitsAndBytesConfig
    return {
        "quantization_config": settings(
            load_in_4bit=True,
            bnb_4bit_quant_type=quantization,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
        "device_map": {"": _device()},
    }


def _device() -> str | None:
    """Where quantized models go: the GPU of this process."""
    if not torch.cuda.is_available():
        return None
    # As accelerate has it: of a process that sees one GPU alone, that one.
    return f"cuda:{local_index() % torch.cuda.device_count()}"


def is_quantized(model: nn.Module) -> bool:
    """Whether a model's weights, possibly under an adapter, are in 4 bits."""
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    return bool(getattr(inner, "is_loaded_in_4bit", False))


def quantization_of(model: nn.Module) -> str | None:
    """What the 4 bits of a model's weights, possibly under an adapter, are: ``"nf4"`` or ``"fp4"``.

    None where they are not in 4 bits.
    """
    if not is_quantized(model):
        return None
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    settings: Any = inner.config.quantization_config
    kind: str = (
        settings["bnb_4bit_quant_type"] if isinstance(settings, dict) else settings.bnb_4bit_quant_type
    )
    return kind


def merged(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """A model with its adapter, if it has one, merged into its weights; the adapter is gone then.

    Weights in 4 bits cannot take an adapter up without being rounded once more. They become float32 weights
    in main memory first, of the very values that they stand for, so that the result is the policy that was
    trained.

    Args:
        model: The model. It is changed.
    """
    if not isinstance(model, PeftModel):
        return model
    if is_quantized(model):
        model = _on_plain_weights(model)
    plain: PreTrainedModel = model.merge_and_unload()
    plain.requires_grad_()  # under the adapter it was frozen
    return plain


def _on_plain_weights(model: PeftModel) -> PeftModel:
    """The adapter of a quantized model on the float32 weights that its 4 bits stand for, on the CPU."""
    config = copy.deepcopy(model.peft_config[model.active_adapter])
    weights = {name: tensor.cpu() for name, tensor in get_peft_model_state_dict(model).items()}
    base: Any = model.unload()
    with quiet():
        base = base.to("cpu").dequantize(dtype=torch.float32)
        base.is_loaded_in_4bit = False
        torch.nn.Module.to(base, torch.float32)
        adapted = get_peft_model(base, config)
        set_peft_model_state_dict(adapted, weights)
    return adapted
