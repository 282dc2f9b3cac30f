"""Weights in 4 bits: what they need, what loads them, their fingerprint, and the way back."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM

from multiturn.errors import ConfigError, MissingExtraError
from multiturn.models import (
    ModelSpec,
    load_policy,
    quantized,
    save_policy,
    scratch_policy,
    weights_fingerprint,
)
from multiturn.models.quantized import (
    is_quantized,
    merged,
    quantization_of,
    quantized_options,
    require_quantization,
)

if TYPE_CHECKING:
    from pathlib import Path

IDS = torch.tensor([[5, 7, 11, 13]])


@pytest.fixture
def bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quantization on the CPU, which bitsandbytes can do: slowly, and well enough for a test."""
    pytest.importorskip(
        "bitsandbytes", reason="bitsandbytes is not installed; pip install 'multiturn[qlora]'"
    )
    monkeypatch.setattr(quantized, "_device", lambda: "cpu")
    # It would lay the bits out in another way for some processors, between two passes and for good.
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    save_policy(scratch_policy(hidden_size=64), tmp_path / "model")
    return str(tmp_path / "model")


class TestWhatItNeeds:
    def test_a_gpu(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Found out before anything is loaded: there is no such model, either."""
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        (tmp_path / "model").mkdir()
        with pytest.raises(ConfigError, match="trains on a CUDA GPU, and torch sees none"):
            load_policy(ModelSpec(name=str(tmp_path / "model"), quantization="nf4"))

    def test_bitsandbytes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(MissingExtraError, match=r"pip install 'multiturn\[qlora\]'"):
            require_quantization("nf4")

    def test_a_known_name(self) -> None:
        with pytest.raises(ConfigError, match="quantization is 'int3'; use nf4"):
            require_quantization("int3")

    def test_a_model_with_weights_of_its_own(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="scratch model"):
            load_policy(ModelSpec(scratch={}, quantization="nf4"))
        (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "x"}')
        with pytest.raises(ConfigError, match="rounds it away"):
            load_policy(ModelSpec(name=str(tmp_path), quantization="nf4"))


def test_what_transformers_are_asked_for(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without bitsandbytes and a GPU: the loader is watched, and loads plain weights."""
    seen: dict[str, Any] = {}
    load = AutoModelForCausalLM.from_pretrained

    def watched(name: str, **options: Any) -> Any:
        seen.update(options)
        options.pop("quantization_config")
        return load(name, **{**options, "device_map": None})

    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(quantized, "BitsAndBytesConfig", dict)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: object() if name == "bitsandbytes" else find(name, *a)
    )
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", watched)
    load_policy(ModelSpec(name=folder, quantization="nf4"), dtype="bfloat16")
    assert seen["quantization_config"] == {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": torch.bfloat16,
    }
    assert seen["device_map"] == {"": "cuda:3"}
    assert seen["dtype"] == torch.bfloat16


class _Scaled(nn.Linear):
    """Keeps scales beside its weight as quantized layers do: in the state dictionary, as no buffer."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.scale = torch.ones(2)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: Any) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight.absmax"] = self.scale


def test_scales_count_in_the_fingerprint() -> None:
    """The same bits with other scales are other weights."""
    torch.manual_seed(0)
    layer = _Scaled()
    model = nn.Sequential(layer)
    before = weights_fingerprint(model)
    assert before == weights_fingerprint(model)
    layer.scale = torch.tensor([1.0, 2.0])
    assert weights_fingerprint(model) != before


def test_plain_models_are_merged_as_ever() -> None:
    model = scratch_policy().model
    assert not is_quantized(model)
    assert merged(model) is model


@pytest.mark.parametrize(
    "settings", [{"bnb_4bit_quant_type": "fp4"}, SimpleNamespace(bnb_4bit_quant_type="fp4")]
)
def test_which_4_bits_they_are(settings: Any) -> None:
    model: Any = nn.Linear(1, 1)
    model.config = SimpleNamespace(quantization_config=settings)
    assert quantization_of(model) is None
    model.is_loaded_in_4bit = True
    assert quantization_of(model) == "fp4"


@pytest.mark.usefixtures("bitsandbytes")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own
class TestOnTheCpu:
    def quantized(self, folder: str) -> Any:
        return load_policy(ModelSpec(name=folder, quantization="nf4"), dtype="bfloat16")

    def test_the_linear_layers_are_in_4_bits(self, folder: str) -> None:
        model = self.quantized(folder).model
        assert is_quantized(model)
        layer = model.model.layers[0].mlp.up_proj
        assert layer.weight.numel() == 64 * 128 // 2
        assert model.lm_head.weight.dtype == torch.bfloat16

    def test_the_fingerprint_is_that_of_the_quantized_weights(self, folder: str) -> None:
        one, two = self.quantized(folder), self.quantized(folder)
        assert one.fingerprint == two.fingerprint != load_policy(folder).fingerprint
        state = two.model.model.layers[0].mlp.up_proj.weight.quant_state
        state.absmax = state.absmax + 1
        assert weights_fingerprint(two.model) != one.fingerprint

    def test_merging_gives_plain_weights_of_the_same_policy(self, folder: str) -> None:
        """By hand: W' = dequantized W + scaling * B A, in float32."""
        from bitsandbytes.functional import dequantize_4bit

        base = self.quantized(folder).model
        config = LoraConfig(r=2, lora_alpha=6, target_modules=["up_proj"], init_lora_weights=False)
        adapted: Any = get_peft_model(base, config)
        layer = adapted.base_model.model.model.layers[0].mlp.up_proj
        weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
        a, b = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()
        expected = weight + 3.0 * (b.float() @ a.float())
        with torch.no_grad():
            logits = adapted(input_ids=IDS).logits
        plain: Any = merged(adapted)
        found = plain.model.layers[0].mlp.up_proj.weight
        assert found.dtype == torch.float32
        assert torch.allclose(found, expected, atol=1e-6)
        assert {parameter.dtype for parameter in plain.parameters()} == {torch.float32}
        assert not is_quantized(plain)
        with torch.no_grad():
            assert torch.allclose(plain(input_ids=IDS).logits, logits.float(), atol=0.05)

    def test_options_name_the_device(self) -> None:
        assert quantized_options("nf4")["device_map"] == {"": "cpu"}

    def test_a_quantized_policy_is_saved_plain(self, folder: str, tmp_path: Path) -> None:
        policy = self.quantized(folder)
        policy.model = get_peft_model(policy.model, LoraConfig(r=2, target_modules="all-linear"))
        save_policy(policy, tmp_path / "saved")
        saved: Any = AutoModelForCausalLM.from_pretrained(str(tmp_path / "saved"))
        assert getattr(saved.config, "quantization_config", None) is None
        assert {parameter.dtype for parameter in saved.parameters()} == {torch.float32}
        assert is_quantized(policy.model)
