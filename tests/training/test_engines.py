"""What engines are told and refused; the files in examples/accelerate; what processes must agree on."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate_examples import EXAMPLES, environment, launch_arguments
from training_samples import lora, pairs, policy
from transformers import Trainer

from multiturn.errors import ConfigError, TrainingError
from multiturn.launch import process_count, process_index
from multiturn.progress import progress, tell
from multiturn.training import DMPOConfig, DMPOTrainer
from multiturn.training import processes as processes_module
from multiturn.training.engines import _refuse_fsdp
from multiturn.training.setup import attach_adapter
from multiturn.training.whole import filled, skeleton

NAMES = sorted(path.name for path in EXAMPLES.glob("*.yaml"))


def test_there_is_an_example_for_each_engine() -> None:
    assert NAMES == [
        "ddp-8gpu.yaml",
        "fsdp2-2x8gpu.yaml",
        "fsdp2-8gpu.yaml",
        "zero2-8gpu.yaml",
        "zero3-8gpu.yaml",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_accelerate_knows_every_key(name: str, caplog: pytest.LogCaptureFixture) -> None:
    load: Any = load_config_from_file
    config = load(str(EXAMPLES / name))  # refuses unknown keys, but not those of an engine
    parser: Any = launch_command_parser()
    known = vars(parser.parse_args(["-m", "multiturn"]))
    content = yaml.safe_load((EXAMPLES / name).read_text(encoding="utf-8"))
    for engine in ("fsdp_config", "deepspeed_config"):
        assert set(content.get(engine) or {}) <= set(known)
    with caplog.at_level(logging.WARNING):
        arguments, _ = launch_arguments(name)
    assert not caplog.messages  # it would say which settings it had to guess
    assert arguments.num_processes == (16 if "2x8" in name else 8)
    assert (arguments.use_fsdp, arguments.use_deepspeed) == ("fsdp" in name, "zero" in name)
    assert config.mixed_precision == "bf16"


@pytest.mark.parametrize("name", [name for name in NAMES if "fsdp" in name])
def test_the_examples_of_fsdp_are_not_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in environment(name).items():
        monkeypatch.setenv(key, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    _refuse_fsdp(plugin, adapter=False)
    with pytest.raises(ConfigError, match="needs fsdp_state_dict_type FULL_STATE_DICT"):
        _refuse_fsdp(plugin, adapter=True)
    monkeypatch.setenv("FSDP_STATE_DICT_TYPE", "FULL_STATE_DICT")
    _refuse_fsdp(FullyShardedDataParallelPlugin(), adapter=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fsdp_version": 1}, "set fsdp_version to 2"),
        ({"fsdp_version": 2, "cpu_offload": True}, "set fsdp_offload_params to false"),
    ],
)
def test_what_fsdp_must_not_be_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _refuse_fsdp(FullyShardedDataParallelPlugin(**options), adapter=False)


def test_a_launcher_says_the_precision(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    assert DMPOConfig(output_dir=str(tmp_path)).autocast_dtype is None
    assert DMPOConfig(output_dir=str(tmp_path), bf16=True).autocast_dtype == torch.bfloat16
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert DMPOConfig(output_dir=str(tmp_path)).autocast_dtype == torch.bfloat16


def _trainer(folder: Any, model: Any) -> DMPOTrainer:
    return DMPOTrainer(
        model,
        DMPOConfig(output_dir=str(folder), max_steps=1),
        train_dataset=pairs(2),
        processing_class=policy().tokenizer,
    )


def test_processes_must_have_the_same_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(processes_module, "gathered", lambda value: [value, "another"])
        with pytest.raises(ConfigError, match="have not loaded the same weights"):
            _trainer(tmp_path, policy().model)
    with pytest.raises(ConfigError, match="leave fsdp_cpu_ram_efficient_loading and zero3_init_flag off"):
        _trainer(tmp_path, skeleton(policy().model))


def test_processes_must_see_the_same_checkpoints(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    from multiturn.training import resumable

    trainer = _trainer(tmp_path, policy().model)
    monkeypatch.setattr(resumable, "gathered", lambda value: [value, "checkpoint-7"])
    with pytest.raises(ConfigError, match="output_dir must be a folder that all machines share"):
        trainer.train()


def test_only_data_are_parallel(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    def create(trainer: Any) -> None:
        trainer.accelerator = SimpleNamespace(parallelism_config=SimpleNamespace(non_data_parallel_size=2))

    monkeypatch.setattr(Trainer, "create_accelerator_and_postprocess", create)
    with pytest.raises(ConfigError, match="set tp_size, cp_size and sp_size to 1"):
        _trainer(tmp_path, policy().model)


def test_a_skeleton_is_filled(tmp_path: Any) -> None:
    model = attach_adapter(policy().model, lora(), DMPOConfig(output_dir=str(tmp_path)))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    bones = skeleton(model)
    assert all(parameter.is_meta for parameter in bones.parameters())
    assert not any(parameter.is_meta for parameter in model.parameters())
    whole: Any = filled(skeleton(bones), weights)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, whole.get_parameter(name))
        assert parameter.requires_grad == whole.get_parameter(name).requires_grad
    ids = torch.arange(5).unsqueeze(0)
    assert torch.equal(whole(ids).logits, model(ids).logits)
    assert whole.get_output_embeddings().weight is whole.get_input_embeddings().weight
    del weights["base_model.model.model.norm.weight"]
    with pytest.raises(TrainingError, match=r"did not give back the weights of base_model.model.model.norm"):
        filled(bones, weights)


def test_one_of_several_processes_shows_progress(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MULTITURN_PROGRESS", "plain")
    assert (process_count(), process_index()) == (1, 0)
    for rank, shown in (("0", True), ("1", False)):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", rank)
        with progress("work", total=1):
            tell("told")
        assert ("work: 0/1 started" in capsys.readouterr().err) == shown
    assert (process_count(), process_index()) == (2, 1)
