"""Per-turn log-probabilities equal those of the plain way, with every parameter's gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from model_samples import (
    MODELS,
    adapted,
    checkpoint,
    conversation,
    conversations,
    gradients,
    llama,
    plainly,
    single,
)
from peft import LoraConfig, PromptTuningConfig

from multiturn.errors import ConfigError
from multiturn.models import logps
from multiturn.models.logps import Head, turn_logps
from multiturn.models.wrapped import bare_model
from multiturn.tokens.padded import collate

if TYPE_CHECKING:
    from torch import nn


HEADS: tuple[Head, ...] = ("fused", "logits")


def check(model: nn.Module, wrapped: nn.Module | None = None, *, head: Head = "auto") -> None:
    rows = conversations()
    expected = plainly(model, rows, 4)
    expected_gradients = gradients(model, expected)
    got = turn_logps(wrapped or model, collate(rows, pad_id=0), head=head)
    assert got.shape == (4, 4)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    got_gradients = gradients(model, got)
    assert any(bool(g.abs().max() > 1e-3) for g in got_gradients.values())
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(got_gradients[name], gradient, rtol=1e-8, atol=1e-10, msg=name)


@pytest.mark.usefixtures("double_throughout")
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("head", HEADS)
def test_equal_to_full_logits_with_gradients(name: str, head: Head) -> None:
    check(MODELS[name](), head=head)


@pytest.mark.usefixtures("double_throughout")
@pytest.mark.parametrize("name", MODELS)
def test_equal_where_positions_are_shared_by_all_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What older versions of transformers get: the union of positions."""
    monkeypatch.setattr(logps, "_takes_mask", lambda bare: False)
    check(MODELS[name](), head="logits")


def test_equal_where_the_model_gives_all_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama()
    inner = type(model).forward

    def forward(self: Any, input_ids: Any, attention_mask: Any = None, use_cache: Any = None) -> Any:
        return inner(self, input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)

    monkeypatch.setattr(type(model), "forward", forward)
    check(model, head="logits")


def test_equal_through_lora() -> None:
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = adapted(llama(), config).double()
    assert bare_model(model) is model.get_base_model()
    check(model)


class Wrapper(torch.nn.Module):
    """As DDP and DeepSpeed wrap a model; with DDP itself two processes train in the tests of the training."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **options: Any) -> Any:
        return self.module(*args, **options)


def test_equal_through_data_parallel_wrappers() -> None:
    model = llama()
    wrapped = Wrapper(model)
    assert bare_model(wrapped) is model
    check(model, wrapped)


def test_gradient_checkpointing_changes_nothing() -> None:
    model = llama()
    batch = collate(conversations())
    expected = gradients(model, turn_logps(model, batch))
    model.train()
    checkpoint(model)
    got = gradients(model, turn_logps(model, batch))
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.skipif(not logps._slices_by_mask(), reason="takes the same places of every row")
def test_only_scored_rows_meet_the_output_head() -> None:
    model = llama()
    seen = []
    model.get_submodule("lm_head").register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    rows = conversations()
    turn_logps(model, collate(rows), head="logits")
    assert seen == [(sum(row.scored_tokens for row in rows), 16)]


def test_padding_and_pad_ids_mean_nothing() -> None:
    """Token 0 is the pad token and occurs in the conversations, also as a scored token."""
    model = llama()
    rows = conversations()
    assert any(i == 0 and t >= 0 for row in rows for i, t in zip(row.token_ids, row.turns, strict=True))
    one = turn_logps(model, collate(rows, pad_id=0))
    other = turn_logps(model, collate(rows, pad_id=13))
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_columns() -> None:
    model = llama()
    batch = collate([conversation(2, 3, seed=5), conversation(1, seed=6)])
    sums = turn_logps(model, batch, max_turns=5)
    assert sums.shape == (2, 5)
    assert (sums[0, :2] < 0).all()
    assert sums[0, 2:].tolist() == [0, 0, 0]
    assert sums[1, 1:].tolist() == [0, 0, 0, 0]
    torch.testing.assert_close(sums[:, :2], turn_logps(model, batch))
    with pytest.raises(ValueError, match="max_turns is 1, but a conversation of the batch has 2 turns"):
        turn_logps(model, batch, max_turns=1)


def test_float32_and_better_under_autocast() -> None:
    """The softmax of bfloat16 logits is taken in float32: only the logits' own rounding is left."""
    model = single(llama())
    batch = collate(conversations())
    exact = turn_logps(model, batch)
    assert exact.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = turn_logps(model, batch)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.3)
    half = torch.nn.Module.to(llama(), torch.bfloat16)
    assert turn_logps(half, batch).dtype == torch.float32


def test_a_hand_worked_sum() -> None:
    """With all weights zero every token has probability 1 / 61: a turn of n tokens sums to -n ln 61."""
    model = llama()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    sums = turn_logps(model, collate([conversation(3, 1, seed=7)]))
    expected = torch.tensor([[-3 * 4.110873864173311, -4.110873864173311]], dtype=torch.float64)
    torch.testing.assert_close(sums, expected)


@pytest.mark.parametrize("compiled", [False, True])
def test_virtual_tokens_are_refused(*, compiled: bool) -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    model = adapted(llama(), config)
    wrapped: Any = torch.compile(model, backend="eager") if compiled else model
    with pytest.raises(ConfigError, match="virtual tokens"):
        turn_logps(wrapped, collate(conversations()))
