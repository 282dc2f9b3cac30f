"""A packed forest gives what one conversation at a time gives, with every parameter's gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from forest_samples import FAMILIES, everybody, families
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_samples import (
    MODELS,
    PACKABLE,
    adapted,
    checkpoint,
    conversations,
    gradients,
    llama,
    plainly,
)
from peft import LoraConfig

from multiturn.models import forest_attention, turn_logps
from multiturn.models.head import fused_token_logps
from multiturn.objective import PairLogps, dmpo
from multiturn.tokens import Rendered, collate, plant

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from multiturn.models.logps import Head

pytestmark = pytest.mark.usefixtures("double_throughout")
heads = pytest.mark.parametrize("head", ["fused", "logits"])
layouts = pytest.mark.parametrize("share", [True, False], ids=["forest", "packed"])


def lora() -> nn.Module:
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    return adapted(llama(), config).double()


def packed(model: nn.Module, rows: list[Rendered], *, share: bool = True, head: Head = "auto") -> Tensor:
    with forest_attention(model):
        return turn_logps(model, plant(rows, share=share), head=head)


def check_gradients(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    assert any(bool(gradient.abs().max() > 1e-3) for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-8, atol=1e-10, msg=name)


def check(model: nn.Module, rows: list[Rendered], *, share: bool, head: Head = "auto") -> None:
    expected = plainly(model, rows, max(row.num_turns for row in rows))
    expected_gradients = gradients(model, expected)
    with forest_attention(model):
        got = turn_logps(model, plant(rows, share=share), head=head)
        got_gradients = gradients(model, got)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    check_gradients(got_gradients, expected_gradients)


@layouts
@heads
@pytest.mark.parametrize("name", PACKABLE)
def test_equal_to_one_conversation_at_a_time(name: str, head: Head, *, share: bool) -> None:
    model, rows = MODELS[name](), everybody()
    window = getattr(model.config, "sliding_window", None)
    assert name not in ("mistral", "gemma3") or window is not None
    assert window is None or 2 * window < max(row.scored_length for row in rows)
    check(model, rows, share=share, head=head)


@layouts
@pytest.mark.parametrize("name", ["llama", "mistral"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equal_for_each_kind_of_kinship(family: str, name: str, *, share: bool) -> None:
    rows = FAMILIES[family]()
    forest = plant(rows, share=share)
    assert (len(forest.input_ids) < forest.total_tokens) == share
    check(MODELS[name](), rows, share=share)


def test_the_samples_are_what_they_are_called() -> None:
    for family in ("pair_with_shared_turns", "fork_inside_a_turn"):
        chosen, rejected = FAMILIES[family]()
        assert chosen.num_turns != rejected.num_turns
    shared = plant(FAMILIES["pair_with_shared_turns"]())
    assert sorted(set(shared.turns[torch.bincount(shared.scored)[shared.scored] == 2].tolist())) == [0, 1]
    inside = plant(FAMILIES["fork_inside_a_turn"]())
    assert torch.bincount(inside.sources).max() == 2
    assert len(set(FAMILIES["pairs_with_one_expert"]())) == 4
    whole, beginning = FAMILIES["beginning_of_another"]()
    assert whole.token_ids[: len(beginning.token_ids)] == beginning.token_ids


@layouts
@heads
@pytest.mark.parametrize("name", PACKABLE)
def test_equal_to_padded_rows(name: str, head: Head, *, share: bool) -> None:
    model, rows = MODELS[name](), conversations() + everybody()
    padded = turn_logps(model, collate(rows), head=head)
    torch.testing.assert_close(packed(model, rows, share=share, head=head), padded, rtol=1e-10, atol=1e-10)


@layouts
def test_equal_through_lora(*, share: bool) -> None:
    check(lora(), everybody(), share=share)


@pytest.mark.parametrize("make", [llama, MODELS["gemma3"], lora], ids=["llama", "gemma3", "lora"])
def test_gradient_checkpointing_changes_nothing(make: type[nn.Module]) -> None:
    model, forest = make(), plant(everybody())
    with forest_attention(model):
        expected = turn_logps(model, forest)
        expected_gradients = gradients(model, expected)
        model.train()
        checkpoint(model)
        got = turn_logps(model, forest)
        got_gradients = gradients(model, got)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    check_gradients(got_gradients, expected_gradients)


@layouts
def test_the_objective_does_not_feel_the_layout(*, share: bool) -> None:
    """DMPO of six pairs, sides of different numbers of turns, gradients through its loss."""
    model: PreTrainedModel = llama()
    rows = [row for name in ("pair_with_shared_turns", "fork_inside_a_turn") for row in FAMILIES[name]()]
    rows += FAMILIES["pairs_with_one_expert"]() + FAMILIES["beginning_of_another"]()
    turns = torch.tensor([row.num_turns for row in rows])
    assert (turns[::2] != turns[1::2]).any()
    reference = plainly(MODELS["llama"](), rows, 4).detach() * 1.1

    def loss(sums: Tensor) -> Tensor:
        sides = PairLogps(
            policy_chosen=sums[::2],
            policy_rejected=sums[1::2],
            reference_chosen=reference[::2],
            reference_rejected=reference[1::2],
            num_turns_chosen=turns[::2],
            num_turns_rejected=turns[1::2],
        )
        return dmpo(sides, beta=0.3, gamma=0.7).loss

    expected = loss(turn_logps(model, collate(rows)))
    expected_gradients = gradients(model, expected)
    with forest_attention(model):
        got = loss(turn_logps(model, plant(rows, share=share)))
        got_gradients = gradients(model, got)
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=0)
    torch.testing.assert_close(got, loss(plainly(model, rows, 4)), rtol=1e-11, atol=0)
    check_gradients(got_gradients, expected_gradients)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=families(), share=st.booleans())
def test_any_forest_equals_padded_rows(rows: list[Rendered], *, share: bool) -> None:
    model = llama()
    expected = turn_logps(model, collate(rows))
    expected_gradients = gradients(model, expected)
    with forest_attention(model):
        got = turn_logps(model, plant(rows, share=share))
        got_gradients = gradients(model, got)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(got_gradients[name], gradient, rtol=1e-8, atol=1e-10, msg=name)


@heads
def test_columns_beyond_the_turns_are_zero(head: Head) -> None:
    model, rows = llama(), FAMILIES["pair_with_shared_turns"]()
    forest = plant(rows)
    with forest_attention(model):
        sums = turn_logps(model, forest, max_turns=6, head=head)
        with pytest.raises(ValueError, match="max_turns is 3, but a conversation of the batch has 4 turns"):
            turn_logps(model, forest, max_turns=3, head=head)
    assert sums.shape == (2, 6)
    assert sums[0, 4:].tolist() == [0, 0]
    assert sums[1, 3:].tolist() == [0, 0, 0]
    assert (sums[0, :4] < 0).all()


def test_what_is_shared_is_computed_once() -> None:
    """Each layer sees as many tokens as the forest has, and the head each prediction once."""
    model, rows = llama(), everybody()
    forest = plant(rows)
    seen: list[tuple[int, ...]] = []
    for name in ("model.layers.0.mlp", "lm_head"):
        model.get_submodule(name).register_forward_hook(lambda _, args, __: seen.append(args[0].shape[:-1]))
    packed(model, rows, head="logits")
    assert len(forest.input_ids) < forest.total_tokens == sum(row.scored_length for row in rows)
    assert len(forest.sources) < len(forest.scored) == sum(row.scored_tokens for row in rows)
    assert seen[0] == (1, len(forest.input_ids))
    assert seen[1][-1] == len(set(forest.sources.tolist()))


def test_the_head_may_take_any_number_of_rows_at_once() -> None:
    model = llama()
    batch = collate(everybody())
    sources, targets = torch.tensor([3, 4, 5, 40, 77]), torch.tensor([1, 2, 3, 4, 5])
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
    expected = fused_token_logps(model, inputs, sources, targets)
    for rows in (1, 2, 5, 9):
        got = fused_token_logps(model, inputs, sources, targets, rows=rows)
        torch.testing.assert_close(got, expected, rtol=1e-13, atol=0)


@heads
def test_autocast_leaves_float64_alone(head: Head) -> None:
    model, rows = llama(), everybody()
    expected = packed(model, rows, head=head)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(packed(model, rows, head=head), expected, rtol=0, atol=0)
