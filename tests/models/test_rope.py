"""What a conversation is worth does not depend on the length of others that share a pass with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from model_samples import (
    MODELS,
    adapted,
    conversation,
    gradients,
    llama_dynamic,
    phi3_longrope,
    plainly,
)
from peft import LoraConfig

from multiturn.errors import LayoutError
from multiturn.models import forest_attention, reference_turn_logps, turn_logps
from multiturn.models.rope import length_limit
from multiturn.tokens import Rendered, collate, plant

if TYPE_CHECKING:
    from multiturn.models.logps import Head

LIMIT = 12


def rows(*lengths: int) -> list[Rendered]:
    """Conversations of two turns and so many tokens."""
    made = [conversation(3, length - 8, seed=length, observation=2) for length in lengths]
    return [Rendered(row.token_ids[:-2], row.turns[:-2], row.num_turns) for row in made]


MIXED = rows(11, 20, LIMIT, LIMIT + 1, 9, 30)


def test_the_limit_is_that_of_the_configuration() -> None:
    assert [row.scored_length for row in MIXED] == [11, 20, 12, 13, 9, 30]
    assert length_limit(phi3_longrope()) == length_limit(llama_dynamic()) == LIMIT
    assert length_limit(adapted(phi3_longrope(), LoraConfig(target_modules=["qkv_proj"]))) == LIMIT
    assert {length_limit(make()) for make in MODELS.values()} == {None}


def test_the_model_itself_lets_company_matter() -> None:
    """What is avoided here: if transformers stops doing it, none of this is needed any more."""
    model = phi3_longrope()
    short, long = MIXED[0], MIXED[1]
    batch = collate([short, long])
    with torch.no_grad():
        beside = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[0, :11]
        alone = model(input_ids=torch.tensor([short.token_ids])).logits[0]
    assert (beside - alone).abs().max() > 0.01


@pytest.mark.parametrize("head", ["fused", "logits"])
def test_rows_are_worth_what_they_are_worth_alone(head: Head) -> None:
    model = phi3_longrope()
    expected = plainly(model, MIXED, turns=2)
    wanted = gradients(model, expected)
    got = turn_logps(model, collate(MIXED), head=head)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    for name, gradient in gradients(model, got).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-8, atol=1e-9, msg=name)
    assert all("forward" not in vars(module) for module in model.modules()), "the model is itself again"


def test_a_forward_that_a_hook_has_put_there_stays() -> None:
    model: Any = phi3_longrope()
    rotation = model.model.rotary_emb
    calls: list[int] = []
    own = rotation.forward

    def hooked(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        return own(*arguments, **options)

    rotation.forward = hooked
    for _ in range(2):
        calls.clear()
        got = turn_logps(model, collate(MIXED))
        assert len(calls) > 1, "once for the long conversations, once for the short ones"
        assert rotation.forward is hooked
    torch.testing.assert_close(got, plainly(phi3_longrope(), MIXED, turns=2), rtol=1e-9, atol=1e-9)


def test_the_reference_is_what_it_is_alone_however_its_passes_are_filled() -> None:
    model = phi3_longrope()
    alone = [reference_turn_logps(model, [row], layout="padded")[0] for row in MIXED]
    for max_tokens in (1, 40, 10_000):
        together = reference_turn_logps(model, MIXED, layout="padded", max_tokens=max_tokens)
        torch.testing.assert_close(together, alone)


def test_forests_within_the_limit_are_packed() -> None:
    model = phi3_longrope()
    short = [row for row in MIXED if row.scored_length <= LIMIT]
    with forest_attention(model, longest=LIMIT):
        got = turn_logps(model, plant(short))
    torch.testing.assert_close(got, plainly(model, short, turns=2), rtol=1e-9, atol=1e-9)


def test_forests_beyond_the_limit_are_refused() -> None:
    model = phi3_longrope()
    with (
        pytest.raises(LayoutError, match="beyond 12 tokens it turns the positions of a whole pass"),
        forest_attention(model, longest=LIMIT + 1),
    ):
        pytest.fail("refused before anything is done")
    with forest_attention(model), pytest.raises(LayoutError, match="has 30 tokens, and beyond 12"):
        turn_logps(model, plant(MIXED))


def test_positions_that_depend_on_the_past_are_refused() -> None:
    model = llama_dynamic()
    short = [row for row in MIXED if row.scored_length <= LIMIT]
    got = turn_logps(model, collate(short))
    torch.testing.assert_close(got, plainly(model, short, turns=2), rtol=1e-9, atol=1e-9)
    with pytest.raises(LayoutError, match=r"30 tokens, and beyond 12 .* set max_length to 12, or"):
        turn_logps(model, collate(MIXED))
    with forest_attention(model), pytest.raises(LayoutError, match="set max_length to 12"):
        turn_logps(model, plant(MIXED))
