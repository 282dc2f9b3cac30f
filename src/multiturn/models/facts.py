"""What a model's configuration says of it, without its weights being read."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from multiturn.errors import ConfigError
from multiturn.models.load import DEFAULT_MODEL, ModelSpec, load_policy, load_tokenizer
from multiturn.models.quiet import quiet

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ModelFacts", "model_facts"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """How large a model is.

    Attributes:
        context: Tokens of a conversation at most; None where the model does not say.
        weights: How many weights it has; tied ones count once.
        linear_sides: The sum of inputs and outputs of all its linear layers but the output head: an adapter
            on all of them has as many weights for each rank.
    """

    context: int | None
    weights: int
    linear_sides: int


def model_facts(spec: str | ModelSpec = DEFAULT_MODEL) -> ModelFacts:
    """The facts of the model that `load_policy` would load; of an adapter's, those of its base.

    Args:
        spec: A name as in `ModelSpec.name`, or a whole `ModelSpec`.

    Raises:
        ConfigError: The model cannot be found, or its configuration cannot be read.
    """
    spec = ModelSpec(name=spec) if isinstance(spec, str) else spec
    if spec.scratch is not None:
        return _facts(load_policy(spec).model)
    folder = load_tokenizer(spec).name_or_path
    try:
        with quiet(), torch.device("meta"):
            config = AutoConfig.from_pretrained(folder, trust_remote_code=spec.trust_remote_code)
            make: Any = AutoModelForCausalLM.from_config
            model = make(config, trust_remote_code=spec.trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"the configuration of the model {spec.name!r} cannot be read: {reason}; give the path of a "
            f"model's folder, a hub id that is reachable or downloaded, or {DEFAULT_MODEL!r}"
        ) from error
    return _facts(model)


def _facts(model: Any) -> ModelFacts:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    head: nn.Module | None = model.get_output_embeddings()
    layers = [part for part in model.modules() if isinstance(part, torch.nn.Linear) and part is not head]
    return ModelFacts(
        context=limit if isinstance(limit, int) and limit > 0 else None,
        weights=sum(parameter.numel() for parameter in model.parameters()),
        linear_sides=sum(layer.in_features + layer.out_features for layer in layers),
    )
