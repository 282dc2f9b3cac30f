"""The copy that decodes: same results, nothing changed in the original, nothing copied that need not be."""

from __future__ import annotations

import peft
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from multiturn.agents.decoder import make_decoder
from multiturn.agents.snapshot import PackedLinear, count_weights, decoding_copy, decoding_dtype
from multiturn.errors import ConfigError

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


@pytest.fixture
def model() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config)


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return result


def test_same_dtype_shares_the_weights(model: LlamaForCausalLM) -> None:
    duplicate = decoding_copy(model, torch.float32)
    ours, theirs = dict(duplicate.named_parameters()), dict(model.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(ours[name].data_ptr() == theirs[name].data_ptr() for name in ours)
    assert not any(p.requires_grad for p in ours.values())
    assert all(p.requires_grad for p in theirs.values())
    torch.testing.assert_close(logits(duplicate), logits(model), rtol=0.0, atol=0.0)


def test_the_original_is_left_alone(model: LlamaForCausalLM) -> None:
    model.train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    attention = model.config._attn_implementation
    make_decoder(decoding_copy(model, torch.bfloat16), rows=2, max_length=64).step([(0, [1, 2])])
    assert model.training
    assert model.config._attn_implementation == attention
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32
        torch.testing.assert_close(parameter.detach(), before[name], rtol=0.0, atol=0.0)


def test_rotary_frequencies_keep_their_precision(model: LlamaForCausalLM) -> None:
    duplicate = decoding_copy(model, torch.bfloat16)
    frequencies = [b for name, b in duplicate.named_buffers() if name.endswith("inv_freq")]
    assert frequencies
    assert all(b.dtype == torch.float32 for b in frequencies)


def test_bfloat16_equals_plain_bfloat16(model: LlamaForCausalLM) -> None:
    """Packed weights are another layout, not another precision."""
    duplicate = decoding_copy(model, torch.bfloat16)
    packed = sum(isinstance(module, PackedLinear) for module in duplicate.modules())
    assert packed in (0, 2 * 7 + 1)  # this build of torch packs, or it does not
    # The output layer is tied to the embeddings until it is packed.
    assert count_weights(duplicate) == model.num_parameters() + 64 * 64 * bool(packed)
    plain = LlamaForCausalLM(model.config)
    plain.load_state_dict(model.state_dict())
    plain.train(mode=False)
    for parameter in plain.parameters():
        parameter.data = parameter.data.bfloat16()
    torch.testing.assert_close(logits(duplicate), logits(plain), rtol=2e-2, atol=2e-2)


# PEFT asks transformers by a name that is going away.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_an_adapter_is_merged(model: LlamaForCausalLM) -> None:
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.2)
    adapted.train(mode=False)
    wanted = logits(adapted)
    duplicate = decoding_copy(adapted, torch.float32)
    assert not any("lora" in name for name, _ in duplicate.named_parameters())
    torch.testing.assert_close(logits(duplicate), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits(adapted), wanted, rtol=0.0, atol=0.0)
    with adapted.disable_adapter():
        assert not torch.allclose(logits(adapted), wanted)


def test_a_trainer_s_wrapping_is_left_behind(model: LlamaForCausalLM) -> None:
    """Accelerate puts an autocast wrapper into the instance; the copy computes in its own dtype."""
    wanted = logits(model)

    def wrapped(*args: object, **kwargs: object) -> None:
        raise AssertionError("the wrapper was called")

    vars(model)["forward"] = wrapped
    torch.testing.assert_close(logits(decoding_copy(model, torch.float32)), wanted, rtol=0.0, atol=0.0)


def test_dtype(model: LlamaForCausalLM) -> None:
    assert decoding_dtype(model, "float64") == torch.float64
    assert decoding_dtype(model, None) in (torch.float32, torch.bfloat16)
    with pytest.raises(ConfigError, match="int8"):
        decoding_dtype(model, "int8")
    for parameter in model.parameters():
        parameter.data = parameter.data.half()
    assert decoding_dtype(model, None) == torch.float16
