"""QLoRA: adapters on weights in 4 bits, whose own bits are the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from training_samples import lora, pairs, policy, trajectories
from transformers import AutoModelForCausalLM

from multiturn.errors import ConfigError
from multiturn.models import ModelSpec, load_policy, quantized, save_policy, weights_fingerprint
from multiturn.models.quantized import is_quantized
from multiturn.training import DMPOConfig, DMPOTrainer, SFTConfig, SFTTrainer, train_preference, train_sft

if TYPE_CHECKING:
    from pathlib import Path

    from multiturn.models import Policy

NOT_INSTALLED = "bitsandbytes is not installed; pip install 'multiturn[qlora]'"


def in_4_bits(folder: Path) -> Policy:
    save_policy(policy(), folder)
    return load_policy(ModelSpec(name=str(folder), quantization="nf4"), dtype="bfloat16")


def options(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-2,
        "warmup_steps": 0,
        "logging_steps": 1,
        "bf16": True,
        **more,
    }


def log_of(history: dict[str, Any]) -> list[dict[str, float]]:
    return [record for record in history["log"] if "rewards/margins" in record]


class _OnAnyDevice:
    def test_training_moves_the_adapter_alone(self, tmp_path: Path) -> None:
        """The reference is the quantized model: before the first step policy and reference agree."""
        start = in_4_bits(tmp_path / "start")
        before = weights_fingerprint(start.model)
        trainer = DMPOTrainer(
            start.model,
            DMPOConfig(**options(tmp_path / "out", gradient_checkpointing=True)),
            train_dataset=pairs(4),
            processing_class=start.tokenizer,
            peft_config=lora(),
        )
        assert trainer.origin.fingerprint == trainer.origin.reference_fingerprint == before
        trainer.train()
        first, *_, last = [record for record in trainer.state.log_history if "rewards/margins" in record]
        assert first["rewards/margins"] == pytest.approx(0.0, abs=0.02)
        assert last["loss"] < first["loss"]
        model: Any = trainer.model
        trainable = {name for name, p in model.named_parameters() if p.requires_grad}
        assert trainable
        assert all("lora_" in name for name in trainable)
        assert is_quantized(model)
        assert "LORA on 4 bits (NF4)" in trainer.card()

    def test_the_model_that_is_saved_is_plain(self, tmp_path: Path) -> None:
        start = in_4_bits(tmp_path / "start")
        history = train_preference(
            start, pairs(4), DMPOConfig(**options(tmp_path / "out")), peft_config=lora()
        )
        assert log_of(history)[-1]["loss"] < log_of(history)[0]["loss"]
        assert not is_quantized(start.model)
        saved: Any = AutoModelForCausalLM.from_pretrained(str(tmp_path / "out" / "model"))
        assert {parameter.dtype for parameter in saved.parameters()} == {torch.float32}
        assert weights_fingerprint(saved) == start.fingerprint
        assert (tmp_path / "out" / "model-adapter" / "adapter_model.safetensors").is_file()

    def test_reference_with_the_adapter_off_is_the_cached_one(self, tmp_path: Path) -> None:
        logs = []
        for reference in ("cached", "adapter-off"):
            start = in_4_bits(tmp_path / "start")
            args = DMPOConfig(**options(tmp_path / reference, reference=reference, layout="padded"))
            logs.append(log_of(train_preference(start, pairs(4), args, peft_config=lora())))
        for one, other in zip(*logs, strict=True):
            assert one["rewards/margins"] == pytest.approx(other["rewards/margins"], abs=0.02)

    def test_sft(self, tmp_path: Path) -> None:
        start = in_4_bits(tmp_path / "start")
        args = SFTConfig(**options(tmp_path / "out"))
        log: Any = train_sft(start, trajectories(4), args, peft_config=lora())["log"]
        losses = [record["loss"] for record in log if "loss" in record]
        assert losses[-1] < losses[0]

    def test_what_cannot_be_trained_is_refused(self, tmp_path: Path) -> None:
        start = in_4_bits(tmp_path / "start")
        given: dict[str, Any] = {"processing_class": start.tokenizer}
        args = SFTConfig(**options(tmp_path / "out"))
        with pytest.raises(ConfigError, match="give a peft_config"):
            SFTTrainer(start.model, args, train_dataset=trajectories(2), **given)
        adapted: Any = SFTTrainer(
            start.model, args, train_dataset=trajectories(2), peft_config=lora(), **given
        ).model
        with pytest.raises(ConfigError, match="rounds it away"):
            DMPOTrainer(adapted, DMPOConfig(**options(tmp_path / "o")), train_dataset=pairs(2), **given)


class TestOnTheCpu(_OnAnyDevice):
    """bitsandbytes computes on CPUs, too: slowly, which is why it is not offered, but well enough here."""

    @pytest.fixture(autouse=True)
    def _on_the_cpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("bitsandbytes", reason=NOT_INSTALLED)
        monkeypatch.setattr(quantized, "_device", lambda: "cpu")
        # It would lay the bits out in another way for some processors, between two passes and for good.
        monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)


@pytest.mark.gpu
class TestOnTheGpu(_OnAnyDevice):
    @pytest.fixture(autouse=True)
    def _on_the_gpu(self) -> None:
        pytest.importorskip("bitsandbytes", reason=NOT_INSTALLED)
        if not torch.cuda.is_available():
            pytest.skip("there is no CUDA device")
