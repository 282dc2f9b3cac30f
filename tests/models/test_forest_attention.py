"""Who may take packed forests, when, and what becomes of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from forest_samples import everybody
from model_samples import MODELS, VOCABULARY, conversation, conversations, llama, plainly, single
from torch import nn
from transformers import (
    BartConfig,
    BartForCausalLM,
    DogeConfig,
    DogeForCausalLM,
    FalconConfig,
    FalconForCausalLM,
)

from multiturn.errors import LayoutError
from multiturn.models import forest_attention, turn_logps
from multiturn.models.attention import FOREST_ATTENTION, runs_forests
from multiturn.tokens import collate, plant

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from multiturn.models.logps import Head


def implementation(model: PreTrainedModel) -> str:
    name: str = model.config._attn_implementation
    return name


def bart() -> Any:
    return BartForCausalLM(
        BartConfig(vocab_size=VOCABULARY, d_model=16, decoder_layers=1, decoder_ffn_dim=16)
    )


def falcon() -> Any:
    config = FalconConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    return FalconForCausalLM(config)


def doge() -> Any:
    """Its layers hide keys by their values."""
    sizes: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 16}
    return DogeForCausalLM(DogeConfig(**sizes, num_hidden_layers=1, num_attention_heads=2))


class Recurrent(nn.Module):
    """In the place of a layer's attention, as in hybrid models: each token gets the mean of all before it."""

    def forward(self, hidden_states: Tensor, **_: Any) -> tuple[Tensor, None]:
        counts = torch.arange(1, hidden_states.shape[1] + 1).view(1, -1, 1)
        return hidden_states.cumsum(1) / counts, None


def check_refused(model: nn.Module, reason: str) -> None:
    with pytest.raises(LayoutError, match=reason), forest_attention(model):
        pytest.fail("it is refused before anything is done")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (MODELS["gemma2"], "Gemma2ForCausalLM cannot take packed forests: it caps its attention scores"),
        (bart, "BartForCausalLM cannot take packed forests: it numbers the positions of its tokens itself"),
        (falcon, "FalconForCausalLM cannot take .* does not go through transformers' attention interface"),
        (lambda: nn.Linear(1, 1), "Linear cannot take packed forests: it is no transformers model"),
    ],
    ids=["gemma2", "bart", "falcon", "linear"],
)
def test_models_that_cannot_take_forests_are_refused(make: Any, reason: str) -> None:
    check_refused(make(), reason)


def test_layers_of_an_unknown_kind_are_refused() -> None:
    model = llama()
    model.config.layer_types = ["full_attention", "linear_attention"]
    check_refused(model, "it has layers of the kind linear_attention")


def test_attention_dropout_is_refused_in_training_mode_only() -> None:
    model: Any = llama()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    model.config.attention_dropout = 0.1
    forest = plant(everybody())
    with forest_attention(model):
        turn_logps(model, forest)
        model.train()
        with pytest.raises(LayoutError, match="packed forests have no attention with dropout"):
            turn_logps(model, forest)
    check_refused(model, "it has attention dropout; set its attention_dropout to 0")


def test_scores_that_a_layer_caps_by_itself_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS["gemma2"]()
    model.config.attn_logit_softcapping = None
    monkeypatch.setattr(type(model), "_supports_sdpa", True)
    with forest_attention(model), pytest.raises(LayoutError, match="no attention with softcap; set `layout"):
        turn_logps(model, plant(everybody()), head="logits")


def test_masks_that_a_layer_makes_by_itself_are_refused() -> None:
    model = doge()
    with forest_attention(model), pytest.raises(LayoutError, match="no attention by a layer's own mask"):
        turn_logps(model, plant(everybody()))


def test_a_layer_that_mixes_tokens_in_another_way_is_noticed() -> None:
    model: Any = llama()
    model.model.layers[1].self_attn = Recurrent()
    rows = everybody()
    torch.testing.assert_close(
        turn_logps(model, collate(rows)), plainly(model, rows, 4), rtol=1e-5, atol=1e-5
    )
    message = r"LlamaForCausalLM has 2 layers, and 1 of them attended by the layout.*Set `layout: padded`"
    with forest_attention(model), pytest.raises(LayoutError, match=message):
        turn_logps(model, plant(rows))


def test_a_forest_outside_is_refused() -> None:
    model, forest = llama(), plant(everybody())
    with pytest.raises(LayoutError, match="needs the model inside `multiturn"):
        turn_logps(model, forest)
    with forest_attention(model):
        turn_logps(model, forest)
    with pytest.raises(LayoutError, match="needs the model inside"):
        turn_logps(model, forest)


@pytest.mark.parametrize("before", ["sdpa", "eager"])
def test_the_attention_of_before_comes_back(before: str) -> None:
    model = llama()
    model.set_attn_implementation(before)
    with forest_attention(model):
        assert implementation(model) == FOREST_ATTENTION
        with forest_attention(model):
            assert runs_forests(model)
        assert runs_forests(model)
    assert implementation(model) == before
    with pytest.raises(KeyboardInterrupt), forest_attention(model):
        raise KeyboardInterrupt
    assert implementation(model) == before
    assert not runs_forests(model)


@pytest.mark.usefixtures("double_throughout")
@pytest.mark.parametrize("head", ["fused", "logits"])
@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3", "gpt2"])
def test_padded_rows_pass_as_ever_inside(name: str, head: Head) -> None:
    model, batch = MODELS[name](), collate(conversations())
    expected = turn_logps(model, batch, head=head)
    with forest_attention(model):
        torch.testing.assert_close(turn_logps(model, batch, head=head), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("head", ["fused", "logits"])
def test_bfloat16_autocast_is_close_to_float64(head: Head) -> None:
    """Within the tolerance of padded rows: 5 percent and 0.3 nats of a turn."""
    rows = everybody()
    exact = turn_logps(llama(), collate(rows))
    model = single(llama())
    with forest_attention(model), torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = turn_logps(model, plant(rows), head=head)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.double(), exact, rtol=0.05, atol=0.3)


def test_restarting_positions_alone_do_not_keep_documents_apart() -> None:
    """Why packing brings an attention of its own.

    transformers tells documents by their positions only where there is no cache, and by default there is one:
    the second document then sees the first.
    """
    model = llama()
    model.set_attn_implementation("sdpa")
    first, second = conversation(4, seed=31), conversation(5, seed=32)
    ids = torch.tensor([[*first.token_ids, *second.token_ids]])
    positions = torch.tensor([[*range(len(first.token_ids)), *range(len(second.token_ids))]])
    with torch.no_grad():
        alone = model(input_ids=torch.tensor([second.token_ids])).logits[0]
        default = model(input_ids=ids, position_ids=positions).logits[0, len(first.token_ids) :]
        cacheless = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0]
    torch.testing.assert_close(cacheless[len(first.token_ids) :], alone, rtol=1e-5, atol=1e-5)
    assert (default - alone).abs().max() > 0.5
