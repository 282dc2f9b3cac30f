"""What is said of a model without its weights is what its weights say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from peft import LoraConfig, get_peft_model

from multiturn.errors import ConfigError
from multiturn.models import ModelFacts, ModelSpec, model_facts, save_policy, scratch_policy

if TYPE_CHECKING:
    from pathlib import Path

SIZES: dict[str, Any] = {"vocab_size": 300, "hidden_size": 16, "layers": 1, "heads": 2, "max_positions": 128}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_a_folder_and_the_model_in_memory_say_the_same(tmp_path: Path) -> None:
    """A layer of width 16, 2 heads of 8, one key-value head.

    Linear layers, inputs + outputs: query and output 32 each, key and value 24 each, gate, up and down of
    32 inside 48 each: 2 * 32 + 2 * 24 + 3 * 48 = 256. Weights: 2 * 256 + 2 * 128 + 3 * 512 = 2304, three
    norms of 16, and the embedding, which is the head too.
    """
    policy = scratch_policy(**SIZES)
    vocabulary = len(policy.tokenizer)
    wanted = ModelFacts(context=128, weights=2304 + 48 + 16 * vocabulary, linear_sides=256)
    assert wanted.weights == sum(parameter.numel() for parameter in policy.model.parameters())
    save_policy(policy, tmp_path / "model")
    assert model_facts(str(tmp_path / "model")) == wanted
    assert model_facts(ModelSpec(scratch=SIZES)) == wanted
    adapted = get_peft_model(policy.model, LoraConfig(r=4, target_modules="all-linear"))
    assert adapted.get_nb_trainable_parameters()[0] == 4 * wanted.linear_sides


def test_a_model_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="no model folder"):
        model_facts("./nowhere")
