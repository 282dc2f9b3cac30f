"""Scoring at the output head: for which models, and nothing is left behind."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from model_samples import (
    MODELS,
    adapted,
    conversations,
    gemma3,
    gradients,
    llama,
    plainly,
    qwen2,
)
from peft import LoraConfig
from torch import Tensor, nn
from transformers import Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

from multiturn.errors import LayoutError
from multiturn.models import turn_logps
from multiturn.models.head import fused_obstacle, fused_token_logps
from multiturn.tokens import collate

if TYPE_CHECKING:
    from collections.abc import Callable

UNKNOWN = "it changes its logits after the output head in a way that is not known here"
SETTINGS = pytest.mark.parametrize("name", ["phi", "gemma3", "granite", "cohere"])


class Doubling(LlamaForCausalLM):  # type: ignore[no-untyped-call]
    """Does something to its logits that no setting tells."""

    def forward(self, *args: Any, **options: Any) -> Any:
        output = super().forward(*args, **options)
        output.logits = output.logits * 2
        return output


class Multiplying(LlamaForCausalLM):  # type: ignore[no-untyped-call]
    """Multiplies its logits by what Granite divides them by, as HyperCLOVA X does."""

    def forward(self, *args: Any, **options: Any) -> Any:
        output = super().forward(*args, **options)
        output.logits = output.logits * self.config.logits_scaling
        return output


class Remembering(LlamaForCausalLM):  # type: ignore[no-untyped-call]
    """Does as its setting says, but does not look at it again."""

    def forward(self, *args: Any, **options: Any) -> Any:
        output = super().forward(*args, **options)
        output.logits = output.logits / 3.0
        return output


class Derived(LlamaConfig):  # type: ignore[no-untyped-call]
    """Derives a setting of the same name, as MiniCPM 3 does, whose hidden states are divided by it."""

    @property
    def logits_scaling(self) -> float:
        return 4.0


class Insisting(Gemma3TextConfig):  # type: ignore[no-untyped-call]
    """Insists on a cap, as Gemma 3n does."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "final_logit_softcapping" and not isinstance(value, float):
            raise TypeError(f"{name} must be a number")
        super().__setattr__(name, value)  # type: ignore[no-untyped-call]


class NormedHead(nn.Linear):
    def forward(self, hidden: Tensor) -> Tensor:
        return nn.functional.linear(nn.functional.normalize(hidden, dim=-1), self.weight)


class StopError(Exception):
    """Raised in the middle of a forward pass."""


def doubling() -> Any:
    return becoming(Doubling)


def multiplying() -> Any:
    return becoming(Multiplying, logits_scaling=3.0)


def remembering() -> Any:
    return becoming(Remembering, logits_scaling=3.0)


def becoming(kind: type[nn.Module], **settings: float) -> Any:
    model: Any = llama()
    model.__class__ = kind
    for name, value in settings.items():
        setattr(model.config, name, value)
    return model


def sequential_head() -> Any:
    model: Any = qwen2()
    model.lm_head = nn.Sequential(model.lm_head, nn.Tanh())
    return model


def normed_head() -> Any:
    model: Any = qwen2()
    model.lm_head.__class__ = NormedHead
    return model


def adapted_head() -> Any:
    return adapted(qwen2(), LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False)).double()


def check_scores(model: nn.Module) -> None:
    rows = conversations()
    expected = plainly(model, rows, 4)
    expected_gradients = gradients(model, expected)
    got = turn_logps(model, collate(rows))
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    for name, gradient in gradients(model, got).items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_against_the_models_of_today(name: str) -> None:
    assert fused_obstacle(MODELS[name]()) is None


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (doubling, UNKNOWN),
        (multiplying, UNKNOWN),
        (remembering, UNKNOWN),
        (sequential_head, "its output head is a torch.nn.modules.container.Sequential, not a plain linear"),
        (normed_head, "its output head is a test_head.NormedHead, not a plain linear layer"),
        (adapted_head, "its output head is a peft.tuners.lora.layer.Linear, not a plain linear layer"),
    ],
    ids=["doubling", "multiplying", "remembering", "sequential", "normed", "adapted"],
)
def test_other_models_are_scored_by_their_own_logits(make: Callable[[], nn.Module], reason: str) -> None:
    model = make()
    found = fused_obstacle(model)
    assert found is not None
    assert found.startswith(reason)
    check_scores(model)
    with pytest.raises(LayoutError, match="cannot be scored by head 'fused'") as caught:
        turn_logps(model, collate(conversations()), head="fused")
    assert found in str(caught.value)
    assert "set `head: logits`" in str(caught.value)


def test_a_head_of_eight_bits_is_refused() -> None:
    model: Any = qwen2()
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.to(torch.int8), requires_grad=False)
    found = fused_obstacle(model)
    assert found == "the weights of its output head are torch.int8, not floating-point numbers"


def test_what_is_no_language_model_is_refused() -> None:
    assert (
        fused_obstacle(nn.Linear(2, 2)) == "its output head is a builtins.NoneType, not a plain linear layer"
    )


def test_an_adapter_that_comes_later_is_seen() -> None:
    model = qwen2()
    assert fused_obstacle(model) is None
    later = adapted(model, LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False)).double()
    assert fused_obstacle(later) is not None
    check_scores(later)


def test_settings_that_cannot_be_changed_are_left_alone() -> None:
    model: Any = llama()
    model.config.__class__ = Derived
    model.model.register_forward_hook(
        lambda module, args, output: output.__class__(last_hidden_state=output.last_hidden_state / 4.0)
    )
    assert fused_obstacle(model) is None
    check_scores(model)


@pytest.mark.usefixtures("double_throughout")
def test_a_cap_that_must_be_a_number_stays_one() -> None:
    model: Any = gemma3()
    model.config.__class__ = Insisting
    assert fused_obstacle(model) is None
    check_scores(model)
    assert model.config.final_logit_softcapping == 1.5


def test_a_model_is_asked_once() -> None:
    runs = []
    for make in (llama, doubling):
        model = make()
        model.get_submodule("model").register_forward_hook(lambda *_: runs.append(1))
        verdicts = [fused_obstacle(model) for _ in range(3)]
        assert len(set(verdicts)) == 1
    assert len(runs) == 2


def state(model: Any) -> list[Any]:
    """What scoring at the head must leave as it was."""
    return [
        torch.get_rng_state().numpy().tobytes(),
        [module.training for module in model.modules()],
        copy.deepcopy(model.config.to_dict()),
        getattr(model, "logit_scale", None),
        model.get_output_embeddings().__dict__.get("forward"),
        [parameter.requires_grad for parameter in model.parameters()],
    ]


def noisy(name: str) -> Any:
    """A model in training mode, a part of it not, which draws random numbers there."""
    model: Any = MODELS[name]()
    model.train()
    model.model.layers[1].eval()
    model.model.layers[0].mlp.register_forward_hook(
        lambda module, args, output: nn.functional.dropout(output, 0.5, training=module.training)
    )
    return model


@SETTINGS
def test_asking_leaves_everything_as_it_was(name: str) -> None:
    model = noisy(name)
    before = state(model)
    assert fused_obstacle(model) is None
    assert state(model) == before


@SETTINGS
def test_a_question_that_fails_leaves_everything_as_it_was(name: str) -> None:
    model = noisy(name)
    before = state(model)

    def stop(*_: Any) -> None:
        raise StopError

    handle = model.model.register_forward_hook(stop)
    with pytest.raises(StopError):
        fused_obstacle(model)
    assert state(model) == before
    ids = torch.tensor([[1, 2, 3]])
    with torch.random.fork_rng(), pytest.raises(StopError):
        fused_token_logps(model, {"input_ids": ids, "use_cache": False}, ids[0], ids[0])
    assert state(model) == before
    handle.remove()
    assert fused_obstacle(model) is None


@SETTINGS
def test_scoring_leaves_the_head_and_the_settings_as_they_were(name: str) -> None:
    model = MODELS[name]()
    before = state(model)[1:]
    turn_logps(model, collate(conversations()), head="fused")
    assert state(model)[1:] == before


def test_a_hook_that_took_the_place_of_the_heads_forward_comes_back() -> None:
    model: Any = llama()
    inner = model.lm_head.forward

    def hooked(hidden: Tensor) -> Tensor:
        output: Tensor = inner(hidden)
        return output

    model.lm_head.forward = hooked
    check_scores(model)
    assert model.lm_head.forward is hooked
    model.model.register_forward_hook(lambda *_: (_ for _ in ()).throw(StopError))
    with pytest.raises(StopError):
        turn_logps(model, collate(conversations()), head="fused")
    assert model.lm_head.forward is hooked
