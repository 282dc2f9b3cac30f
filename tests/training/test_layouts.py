"""Training in a packed layout is training as ever: the same losses, gradients and weights."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from training_samples import lora, pair, pairs, policy, trajectories, weights
from transformers import Phi3Config, Phi3ForCausalLM, TrainerCallback
from transformers.modeling_layers import GradientCheckpointingLayer

from multiturn.errors import ConfigError, LayoutError, TrainingError
from multiturn.models import attention, logps
from multiturn.training import DMPOConfig, DMPOTrainer, SFTConfig, SFTTrainer
from multiturn.training import forwards as forwards_module
from multiturn.training.forwards import Forwards

EXPERT = [pair(0, rejected=1 + i) | {"id": f"expert-{i}"} for i in range(4)]
"""Four pairs of one task that share their chosen side."""


class _Gradients(TrainerCallback):
    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, *_: Any, model: Any = None, **__: Any) -> None:
        self.steps.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})


def _train(
    folder: Any, *, kind: str = "dmpo", adapter: bool = False, model: Any = None, **options: Any
) -> dict[str, Any]:
    tiny = policy(dtype=torch.float64)
    model = model or tiny.model
    gradients = _Gradients()
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": 1,
        "learning_rate": 1e-2,
        "max_grad_norm": 0.0,
        "save_strategy": "no",
        "optim": "sgd",
        "logging_steps": 1,
        "report_to": "none",
        **options,
    }
    common: dict[str, Any] = {
        "processing_class": tiny.tokenizer,
        "callbacks": [gradients],
        "peft_config": lora() if adapter else None,
    }
    trainer: Any
    if kind == "sft":
        trainer = SFTTrainer(model, SFTConfig(**settings), train_dataset=trajectories(11), **common)
    else:
        settings.setdefault("reference", "live")
        rows = [*EXPERT, *pairs(9)[2:]]
        trainer = DMPOTrainer(model, DMPOConfig(**settings, objective=kind), train_dataset=rows, **common)
    trainer.train()
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    return {
        "losses": losses,
        "gradients": gradients.steps,
        "weights": weights(trainer.model),
        "trainer": trainer,
    }


def _assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["losses"] == pytest.approx(other["losses"], abs=1e-10)
    for mine, theirs in zip(one["gradients"], other["gradients"], strict=True):
        assert mine.keys() == theirs.keys()
        for name, gradient in mine.items():
            torch.testing.assert_close(gradient, theirs[name], rtol=1e-8, atol=1e-11, msg=name)
    for name, tensor in one["weights"].items():
        torch.testing.assert_close(tensor, other["weights"][name], rtol=1e-8, atol=1e-11, msg=name)


@pytest.mark.usefixtures("double_throughout")
@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("kind", ["dmpo", "dpo", "sft"])
def test_layouts_and_heads_change_nothing(kind: str, tmp_path: Any, *, adapter: bool) -> None:
    options: dict[str, Any] = {"kind": kind, "adapter": adapter, "train_sampling_strategy": "sequential"}
    plain = _train(tmp_path / "plain", **options, layout="padded", head="logits")
    assert len(plain["losses"]) == 2
    for layout, head, more in (
        ("forest", "fused", {}),
        ("forest", "logits", {"max_tokens_per_batch": 60}),
        ("packed", "fused", {"gradient_checkpointing": True}),
        ("padded", "fused", {"max_tokens_per_batch": 60}),
    ):
        other = _train(tmp_path / f"{layout}-{head}", **options, layout=layout, head=head, **more)
        assert other["trainer"].forwards.layout == layout
        _assert_same(other, plain)


@pytest.mark.usefixtures("double_throughout")
def test_the_cached_reference_equals_the_live_one_in_a_forest(tmp_path: Any) -> None:
    """The first step's margins are exactly 0, so the losses would show the smallest difference later on."""
    live = _train(tmp_path / "live", reference="live")
    cached = _train(tmp_path / "cached", reference="cached")
    assert cached["losses"] == pytest.approx(live["losses"], abs=1e-7)
    for mine, theirs in zip(cached["gradients"], live["gradients"], strict=True):
        for name, gradient in mine.items():
            torch.testing.assert_close(gradient, theirs[name], rtol=1e-5, atol=1e-8, msg=name)


def test_a_token_budget_makes_passes_and_kin_share(tmp_path: Any) -> None:
    result = _train(tmp_path, max_tokens_per_batch=100)
    trainer = result["trainer"]
    assert trainer.computed_tokens < 0.8 * trainer.total_tokens
    rows = [(1.0, row) for row in trainer.train_dataset.rows]
    passes = trainer.forwards.passes(rows)
    assert len(passes) > 2
    for each in passes:
        assert len(each) == 1 or trainer.micro_batch(each).computed_tokens <= 100
    assert trainer.timing["layout"] == "forest"
    assert trainer.state.num_input_tokens_seen == trainer.total_tokens


@pytest.mark.parametrize("layout", ["padded", "packed", "forest"])
def test_the_tokens_that_are_told_are_those_that_the_model_is_given(
    tmp_path: Any, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []

    tiny = policy(dtype=torch.float64)
    tiny.model.register_forward_pre_hook(
        lambda _module, _arguments, inputs: given.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    monkeypatch.setattr(forwards_module.Forwards, "_check", lambda *_, **__: None)
    trainer = _train(tmp_path, kind="simpo", model=tiny.model, layout=layout, head="logits")["trainer"]
    assert sum(given) == trainer.computed_tokens
    assert trainer.total_tokens == sum(
        s.scored_length for row in trainer.train_dataset.rows for s in row.sequences
    )


def test_where_the_time_went_is_told(
    tmp_path: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MULTITURN_PROGRESS", "plain")
    trainer = _train(tmp_path, reference="cached", disable_tqdm=False)["trainer"]
    told = capsys.readouterr().err
    assert "of computation: data " in told
    assert "of the tokens were shared" in told
    seconds = trainer.clock.seconds()
    assert all(seconds[name] > 0 for name in ("data", "forward", "backward", "reference", "optimizer"))


def test_the_check_recomputes_activations_where_the_training_does(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it takes more memory than the training that it is to make safe."""
    seen: list[bool] = []
    own = Forwards._loss_and_norm

    def watched(self: Forwards, model: Any, *arguments: Any, **options: Any) -> tuple[float, float]:
        layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
        seen.extend(layer.gradient_checkpointing and layer.training for layer in layers)
        return own(self, model, *arguments, **options)

    monkeypatch.setattr(Forwards, "_loss_and_norm", watched)
    _train(tmp_path / "plain")
    assert seen
    assert not any(seen)
    seen.clear()
    result = _train(tmp_path / "recomputed", gradient_checkpointing=True)
    assert seen
    assert all(seen)
    assert result["trainer"].forwards.layout == "forest"


def test_a_layout_that_computes_something_else_is_given_up_loudly(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An attention that forgets what stands above a segment."""
    from multiturn.models import cascade

    own_segments = cascade._parts
    monkeypatch.setattr(cascade, "_parts", lambda *seen: [p for p in own_segments(*seen) if p.causal])
    with caplog.at_level(logging.WARNING):
        result = _train(tmp_path)
    assert result["trainer"].forwards.layout == "padded"
    assert "does not compute what padded rows compute" in caplog.text
    assert "does not compute" in result["trainer"].warnings_seen[0]["warning"]


@pytest.mark.parametrize("unchecked", [False, True])
def test_the_reference_is_read_in_the_layout_of_the_training(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, *, unchecked: bool
) -> None:
    """An evaluation comes first, in a layout that computes something else; training gives that layout up.

    The evaluation checks it as well. Without that (`unchecked`), what it has kept of the reference is wrong.
    """
    from multiturn.models import cascade

    own_parts, own_settle = cascade._parts, Forwards.settle
    losses = []
    for layout in ("padded", "auto"):
        if layout == "auto":
            monkeypatch.setattr(cascade, "_parts", lambda *parts: [p for p in own_parts(*parts) if p.causal])
            if unchecked:
                monkeypatch.setattr(
                    Forwards,
                    "settle",
                    lambda self, model, rows, *, gradients, longest: own_settle(
                        self, model, rows if gradients else None, gradients=gradients, longest=longest
                    ),
                )
        tiny = policy(dtype=torch.float64)
        trainer = DMPOTrainer(
            tiny.model,
            DMPOConfig(
                output_dir=str(tmp_path / layout),
                layout=layout,
                max_steps=3,
                learning_rate=1e-2,
                logging_steps=1,
                save_strategy="no",
                reference="cached",
                report_to="none",
            ),
            train_dataset=EXPERT,
            eval_dataset=EXPERT,
            processing_class=tiny.tokenizer,
        )
        trainer.evaluate()
        assert trainer.forwards.layout == ("forest" if unchecked and layout == "auto" else "padded")
        trainer.train()
        assert trainer.forwards.layout == "padded"
        losses.append([record["loss"] for record in trainer.state.log_history if "loss" in record])
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_a_layout_that_was_given_up_does_not_come_back_with_an_evaluation(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from multiturn.models import cascade

    class Layouts(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            seen.append(trainer.forwards.layout)

    own_segments = cascade._parts
    seen: list[str] = []
    evaluated = []
    for layout in ("padded", "auto"):
        if layout == "auto":
            monkeypatch.setattr(
                cascade, "_parts", lambda *parts: [p for p in own_segments(*parts) if p.causal]
            )
        tiny = policy(dtype=torch.float64)
        trainer = DMPOTrainer(
            tiny.model,
            DMPOConfig(
                output_dir=str(tmp_path / layout),
                layout=layout,
                max_steps=3,
                eval_strategy="steps",
                eval_steps=1,
                save_strategy="no",
                reference="live",
                report_to="none",
            ),
            train_dataset=EXPERT,
            eval_dataset=EXPERT,
            processing_class=tiny.tokenizer,
            callbacks=[Layouts()],
        )
        trainer.train()
        evaluated.append([r["eval_loss"] for r in trainer.state.log_history if "eval_loss" in r])
        evaluated[-1].append(trainer.evaluate()["eval_loss"])
    assert seen == ["padded"] * 6
    assert evaluated[1] == pytest.approx(evaluated[0], abs=1e-12)


def test_attention_dropout_is_found_out_before_the_first_step(tmp_path: Any) -> None:
    """A model comes in evaluation mode, in which it has none."""
    tiny = policy()
    tiny.model.config.attention_dropout = 0.1
    assert not tiny.model.training
    args = DMPOConfig(output_dir=str(tmp_path), max_steps=1, save_strategy="no", report_to="none")
    trainer = DMPOTrainer(tiny.model, args, train_dataset=EXPERT, processing_class=tiny.tokenizer)
    trainer.train()
    assert trainer.forwards.layout == "padded"


def test_a_gradient_that_is_something_else_is_noticed_too(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from multiturn.models import token_logps

    backward = token_logps._TokenLogps.backward
    monkeypatch.setattr(
        token_logps._TokenLogps,
        "backward",
        staticmethod(lambda ctx, grad: backward(ctx, 1.2 * grad)),
    )
    result = _train(tmp_path)
    assert "gradient norm" in result["trainer"].warnings_seen[0]["warning"]


def test_a_model_that_cannot_be_packed_is_padded(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(attention, "_obstacle", lambda model, **_: "its layers have a memory of their own")
    with caplog.at_level(logging.INFO):
        result = _train(tmp_path / "auto")
    assert result["trainer"].forwards.layout == "padded"
    assert "its layers have a memory of their own" in caplog.text
    with pytest.raises(LayoutError, match="cannot take packed forests"):
        _train(tmp_path / "forest", layout="forest")


def _longrope(limit: int) -> Any:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [1.0, 2.0, 5.0, 9.0],
        "original_max_position_embeddings": limit,
        "factor": 512 / limit,
    }
    config = Phi3Config(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        original_max_position_embeddings=limit,
        rope_parameters=rope,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    return Phi3ForCausalLM(config).double()


@pytest.mark.usefixtures("double_throughout")
@pytest.mark.parametrize("reference", ["live", "cached"])
def test_a_model_that_turns_long_conversations_otherwise_sees_each_as_if_alone(
    tmp_path: Any, caplog: pytest.LogCaptureFixture, reference: str
) -> None:
    """Phi-3: what a row is worth must not depend on the longest one beside it, nor on the budget."""
    limit, results = 50, []
    ways: list[dict[str, Any]] = [{"max_tokens_per_batch": 1}, {}, {"head": "logits"}]
    for number, options in enumerate(ways):
        with caplog.at_level(logging.INFO):
            results.append(
                _train(tmp_path / str(number), model=_longrope(limit), reference=reference, **options)
            )
        trainer = results[-1]["trainer"]
        lengths = [s.scored_length for row in trainer.train_dataset.rows for s in row.sequences]
        assert min(lengths) <= limit < max(lengths)
        assert trainer.forwards.layout == "padded"
    assert "beyond 50 tokens it turns the positions of a whole pass in another way" in caplog.text
    assert results[0]["losses"] == pytest.approx(results[1]["losses"], rel=1e-7)
    assert results[0]["losses"] == pytest.approx(results[2]["losses"], rel=1e-7)
    assert _train(tmp_path / "short", model=_longrope(500))["trainer"].forwards.layout == "forest"


def test_longer_conversations_of_an_evaluation_are_padded_after_a_training_in_forests() -> None:
    model, seen = _longrope(50), []
    forwards = Forwards("auto", "auto", None, Accelerator(cpu=True))
    for longest, gradients in [(50, True), (51, False), (50, True)]:
        forwards.settle(model, None, longest=longest, gradients=gradients)
        seen.append((forwards.layout, forwards.share))
        forwards.release()
    assert seen == [("forest", True), ("padded", False), ("forest", True)]


def test_the_model_has_its_own_attention_afterwards(tmp_path: Any) -> None:
    trainer = _train(tmp_path)["trainer"]
    assert trainer.model.config._attn_implementation == "sdpa"
    trainer.evaluate(pairs(3))
    assert trainer.model.config._attn_implementation == "sdpa"


def test_a_full_memory_names_the_pass_and_the_remedy(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 9 bytes"
        )

    monkeypatch.setattr(forwards_module.Forwards, "_check", lambda *_, **__: None)
    monkeypatch.setattr(forwards_module, "turn_logps", full)
    with pytest.raises(
        TrainingError, match=r"over 8 rows with \d+ tokens \(.*set max_tokens_per_batch below"
    ):
        _train(tmp_path)
    with pytest.raises(TrainingError, match=r"over 1 row with \d+ tokens \(.*a row is not split"):
        _train(tmp_path, max_tokens_per_batch=1)


@pytest.mark.parametrize("layout", ["padded", "packed", "forest"])
def test_the_budget_that_a_full_memory_asks_for_makes_smaller_passes(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    """It is told in what a budget counts in, which with padding is not what the model is given."""

    def full(*_: Any, **__: Any) -> None:
        raise MemoryError("out of memory")

    monkeypatch.setattr(forwards_module.Forwards, "_check", lambda *_, **__: None)
    monkeypatch.setattr(forwards_module, "turn_logps", full)
    budget, rows = 10_000, []
    for _ in range(3):
        with pytest.raises(TrainingError) as caught:
            _train(tmp_path, max_tokens_per_batch=budget, layout=layout)
        found = re.search(r"over (\d+) rows .* max_tokens_per_batch below (\d+)", str(caught.value))
        assert found is not None
        rows.append(int(found[1]))
        assert int(found[2]) <= budget
        budget = int(found[2]) - 1
    assert rows[0] > rows[1] > rows[2]


def test_other_errors_stay_what_they_are(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(forwards_module.Forwards, "_check", lambda *_, **__: None)
    monkeypatch.setattr(forwards_module, "turn_logps", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        _train(tmp_path)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"layout": "tree"}, "layout is 'tree'; use one of auto, forest, packed, padded"),
        ({"head": "x"}, "head is 'x'; use one of auto, fused, logits"),
        ({"max_tokens_per_batch": 0}, "max_tokens_per_batch is 0; use a number of tokens above 0"),
    ],
)
def test_settings_are_checked(option: dict[str, Any], message: str, tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match=message):
        DMPOConfig(output_dir=str(tmp_path), **option)


def test_rows_of_a_task_are_known() -> None:
    from multiturn.tokens import Renderer
    from multiturn.training import render_pairs

    rows = render_pairs([*EXPERT, pair(5)], Renderer(policy().tokenizer))
    assert rows.tasks == [[0, 1, 2, 3], [4]]
    assert rows[0][0] == 1.0
    assert rows[7] == (0.0, rows.rows[2])


def test_the_logits_of_a_model_are_used_where_the_head_is_odd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logps, "fused_obstacle", lambda model: "it is odd")
    model: Any = policy().model
    with pytest.raises(LayoutError, match="cannot be scored by head 'fused': it is odd"):
        logps._is_fused(model, "fused")
    assert not logps._is_fused(model, "auto")
