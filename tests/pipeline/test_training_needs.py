"""What trainings ask of a machine (trackers, a GPU for 4 bits) is found out before any work."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import pytest
import torch

from multiturn.errors import ConfigError
from multiturn.pipeline import stages, trainings
from multiturn.pipeline.config import PromptSettings
from multiturn.pipeline.load import load_config, validated
from multiturn.pipeline.run import open_run
from multiturn.pipeline.train_settings import LoraSettings, PreferenceSettings, SftSettings

if TYPE_CHECKING:
    from pathlib import Path


def common(output: Path) -> dict[str, Any]:
    return {"prompt": PromptSettings(), "precision": "fp32", "seed": 0, "output": output}


@pytest.mark.parametrize(
    ("given", "trackers"),
    [
        (None, None),
        ("none", None),
        ([], None),
        (["none"], None),
        ("tensorboard", ("tensorboard",)),
        ("tensorboard, wandb", ("tensorboard", "wandb")),
        (["tensorboard"], ("tensorboard",)),
    ],
)
def test_ways_to_name_trackers(given: object, trackers: tuple[str, ...] | None) -> None:
    assert SftSettings.model_validate({"report_to": given}).report_to == trackers


def test_unknown_trackers_are_refused_where_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("name: tiny\nenvironment: {name: household}\npreference: {report_to: [wandbb]}\n")
    with pytest.raises(ConfigError, match=r"run.yaml: preference.report_to: .*did you mean 'wandb'"):
        load_config(path)
    with pytest.raises(ConfigError, match=r"methods.dmpo.*report_to.*no tracker 'x'"):
        load_config(path, ["preference.report_to=none", "methods.dmpo.report_to=x"])
    with pytest.raises(ConfigError, match="report_to"):
        validated(SftSettings, {"report_to": 3}, where="--set")


def test_quantizations_have_names() -> None:
    with pytest.raises(ConfigError, match=r"lora\.quantization"):
        validated(SftSettings, {"lora": {"quantization": "int4"}}, where="--set")


def test_what_is_missing_is_found_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(trainings, "load_model", lambda spec: pytest.fail("the model was loaded"))
    with pytest.raises(ConfigError, match="pip install wandb"):
        trainings.train_on_demonstrations(
            "model", [], settings=SftSettings(report_to=("wandb",)), **common(tmp_path)
        )
    with pytest.raises(ConfigError, match="trains on a CUDA GPU"):
        trainings.train_on_pairs(
            "model",
            [],
            settings=PreferenceSettings(lora=LoraSettings(quantization="nf4")),
            **common(tmp_path),
        )


@pytest.mark.parametrize("where", ["sft", "methods.dmpo"])
def test_a_run_begins_with_what_its_trainings_need(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = tmp_path / "run.yaml"
    path.write_text(f"name: tiny\nenvironment: {{name: household}}\noutput: {tmp_path / 'run'}\n")
    run = open_run(load_config(path, [f"{where}.lora.quantization=nf4"]))
    with pytest.raises(ConfigError, match="trains on a CUDA GPU"):
        stages.play_expert(run)
    assert not run.directory.expert.exists()


def test_a_model_in_4_bits_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def train_sft(policy: Any, rows: object, arguments: Any, *, peft_config: Any) -> dict[str, Any]:
        seen.extend([policy, arguments.report_to, peft_config.r])
        return {}

    monkeypatch.setattr(trainings, "require_what_it_takes", lambda settings: None)
    monkeypatch.setattr(trainings, "load_policy", lambda spec, dtype: (spec.name, spec.quantization, dtype))
    monkeypatch.setattr(trainings, "train_sft", train_sft)
    settings = SftSettings(lora=LoraSettings(quantization="nf4", rank=3))
    trainings.train_on_demonstrations("some/model", [], settings=settings, **common(tmp_path))
    assert seen == [("some/model", "nf4", "bfloat16"), [], 3]
    with pytest.raises(ConfigError, match="scratch model"):
        trainings.train_on_demonstrations({"scratch": {}}, [], settings=settings, **common(tmp_path))


def test_a_setting_that_is_new_keeps_old_runs_alive() -> None:
    """A manifest that lacks a key holds what null says; only then does an older run go on."""
    dumped = SftSettings(lora=LoraSettings()).model_dump(mode="json")
    assert dumped["report_to"] is None
    assert dumped["lora"]["quantization"] is None
