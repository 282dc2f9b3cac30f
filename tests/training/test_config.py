"""What the configs accept, and how they complain."""

from __future__ import annotations

import math
from typing import Any

import pytest

from multiturn.errors import ConfigError
from multiturn.training import DMPOConfig, SFTConfig


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"gamma": 2}, "gamma is 2"),
        ({"gamma": -0.1}, "gamma is -0.1"),
        ({"gamma": math.nan}, "gamma is nan"),
        ({"gamma": "0.7"}, "gamma is '0.7'"),
        ({"beta": 0}, "beta is 0"),
        ({"beta": math.inf}, "beta is inf"),
        ({"beta": True}, "beta is True"),
        ({"objective": "dmop"}, "use one of dmpo, dpo"),
        ({"reference": "frozen"}, "auto, cached, live, adapter-off"),
        ({"collapse_warning_nats": 0}, "collapse_warning_nats is 0"),
        ({"overlong": "truncate"}, "error, drop, cut"),
        ({"max_length": 0}, "max_length is 0"),
        ({"max_length": 10.5}, "max_length is 10.5"),
        ({"chat_template": ""}, "chat_template"),
        ({"save_only_model": True}, "cannot be resumed"),
        ({"train_sampling_strategy": "batch_rebalance"}, "batch_rebalance"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor"),
        ({"lr_scheduler_type": "cosin"}, "cosin"),
        ({"bf16": True, "fp16": True}, "fp16 and bf16"),
    ],
)
def test_unusable_values_are_refused(options: dict[str, Any], says: str, tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match=says):
        DMPOConfig(output_dir=str(tmp_path), **options)


def test_gamma_may_be_zero_or_one(tmp_path: Any) -> None:
    assert DMPOConfig(output_dir=str(tmp_path), gamma=0).gamma == 0
    assert DMPOConfig(output_dir=str(tmp_path), gamma=1).gamma == 1


def test_defaults_are_the_papers(tmp_path: Any) -> None:
    dmpo = DMPOConfig(output_dir=str(tmp_path))
    assert (dmpo.learning_rate, dmpo.beta, dmpo.gamma, dmpo.num_train_epochs) == (1e-6, 0.1, 0.7, 3)
    assert dmpo.per_device_train_batch_size * dmpo.gradient_accumulation_steps == 32
    assert (dmpo.lr_scheduler_type, dmpo.warmup_steps) == ("constant_with_warmup", 0.1)
    sft = SFTConfig(output_dir=str(tmp_path))
    assert sft.per_device_train_batch_size * sft.gradient_accumulation_steps == 64
    assert (sft.lr_scheduler_type, sft.warmup_steps) == ("cosine", 0.03)
    assert dmpo.report_to == sft.report_to == []


def test_old_and_new_names_of_gradient_checkpointing(tmp_path: Any) -> None:
    """Neither name may draw a deprecation warning (warnings are errors here)."""
    assert SFTConfig(output_dir=str(tmp_path), gradient_checkpointing=True).gradient_checkpointing
    assert not SFTConfig(output_dir=str(tmp_path), gradient_checkpointing=False).gradient_checkpointing
