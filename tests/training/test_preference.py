"""DMPO and trajectory DPO: what is learned, what is logged, against which reference."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from training_samples import lora, pair, pairs, policy, weights
from transformers import TrainerState

from multiturn.errors import ConfigError, TrainingError
from multiturn.models import Policy, turn_logps, weights_fingerprint
from multiturn.tokens import Renderer, collate
from multiturn.training import DMPOConfig, DMPOTrainer, SFTConfig, SFTTrainer
from multiturn.training.callbacks import CollapseWatch
from multiturn.training.setup import attach_adapter, merge_adapter
from multiturn.trajectory import Message

METRICS = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
    "logratios/chosen",
    "logratios/rejected",
)


def _trainer(policy: Policy, args: DMPOConfig, **options: Any) -> DMPOTrainer:
    options.setdefault("train_dataset", pairs(8))
    return DMPOTrainer(policy.model, args, processing_class=policy.tokenizer, **options)


@pytest.mark.parametrize("objective", ["dmpo", "dpo"])
@pytest.mark.parametrize("adapter", [False, True])
def test_the_preference_is_learned(
    tiny: Policy, run_options: dict[str, Any], objective: str, *, adapter: bool
) -> None:
    """Also on pairs that were not trained on: a chosen side takes, a rejected one drops."""
    args = DMPOConfig(**run_options, objective=objective, learning_rate=3e-3, num_train_epochs=6)
    args.per_device_train_batch_size, args.gradient_accumulation_steps = 4, 1
    held_out = [pair(100 + i, chosen=2, rejected=2) for i in range(4)]
    trainer = _trainer(tiny, args, eval_dataset=held_out, peft_config=lora() if adapter else None)
    before = trainer.evaluate()
    assert before["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_rewards/accuracies"] == 1.0
    assert after["eval_rewards/margins"] > 0.2
    assert after["eval_logratios/chosen"] > 0 > after["eval_logratios/rejected"]


def _turns_by_hand(policy: Policy, row: dict[str, Any], side: str) -> list[float]:
    """The log-probability of each turn from the plain logits of one conversation, token by token."""
    messages = [Message.from_json(m) for m in [*row["prompt"], *row[side]]]
    rendered = Renderer(policy.tokenizer).render(messages)
    with torch.no_grad():
        logits = (
            policy.model(input_ids=torch.tensor([rendered.token_ids]), use_cache=False).logits[0].double()
        )
    sums = [0.0] * rendered.num_turns
    for position, turn in enumerate(rendered.turns):
        if turn >= 0:
            row_logits = logits[position - 1]
            sums[turn] += float(row_logits[rendered.token_ids[position]] - row_logits.logsumexp(0))
    return sums


def test_metrics_equal_a_computation_by_hand(tiny: Policy, run_options: dict[str, Any]) -> None:
    """Three pairs in micro-batches of two, beta 0.5, gamma 0.6, and another model as reference.

    phi(t, T) = (g^t - g^T) / (1 - g^T); reward of a side = beta * sum_t phi(t, T) rho_t; every metric of the
    first step is the mean over the three pairs, not the mean of the means of two and of one pair.
    """
    beta, gamma = 0.5, 0.6
    rows, reference = pairs(3), policy(seed=1)
    expected: dict[str, list[float]] = {name: [] for name in (*METRICS, "loss")}
    for row in rows:
        rewards = {}
        for side in ("chosen", "rejected"):
            ours, theirs = _turns_by_hand(tiny, row, side), _turns_by_hand(reference, row, side)
            rho = [a - b for a, b in zip(ours, theirs, strict=True)]
            turns = len(rho)
            phi = [(gamma**t - gamma**turns) / (1 - gamma**turns) for t in range(turns)]
            rewards[side] = beta * sum(w * r for w, r in zip(phi, rho, strict=True))
            expected[f"rewards/{side}"].append(rewards[side])
            expected[f"logps/{side}"].append(sum(ours))
            expected[f"logratios/{side}"].append(sum(rho))
        margin = rewards["chosen"] - rewards["rejected"]
        expected["rewards/margins"].append(margin)
        expected["rewards/accuracies"].append(float(margin > 0))
        expected["loss"].append(math.log1p(math.exp(-margin)))
    args = DMPOConfig(**run_options, beta=beta, gamma=gamma, max_steps=1, per_device_train_batch_size=2)
    trainer = _trainer(tiny, args, train_dataset=rows, eval_dataset=rows, ref_model=reference.model)
    evaluated = trainer.evaluate()
    trainer.train()
    logged = trainer.state.log_history[0]
    for name, values in expected.items():
        mean = sum(values) / 3
        assert logged[name] == pytest.approx(mean, rel=1e-4, abs=1e-5), name
        assert evaluated[f"eval_{name}"] == pytest.approx(mean, rel=1e-4, abs=1e-5), name


def test_what_is_logged(tiny: Policy, run_options: dict[str, Any]) -> None:
    args = DMPOConfig(**run_options, max_steps=2, per_device_train_batch_size=4)
    trainer = _trainer(tiny, args)
    trainer.train()
    records = [record for record in trainer.state.log_history if "loss" in record]
    assert [record["step"] for record in records] == [1, 2]
    assert all(name in record for record in records for name in METRICS)
    assert records[0]["num_input_tokens_seen"] > 0
    assert records[1]["num_input_tokens_seen"] == trainer.data_report.tokens * 2
    assert records[0]["seconds"] <= records[1]["seconds"]


def test_an_sft_adapter_is_merged_and_becomes_the_reference(
    tiny: Policy, run_options: dict[str, Any]
) -> None:
    """The reference with the new adapter off scores as the SFT policy did with its own adapter on."""
    args = DMPOConfig(**run_options, reference="adapter-off", learning_rate=1e-2, max_steps=3)
    model = attach_adapter(tiny.model, lora(), args)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    rows = pairs(4)
    renderer = Renderer(tiny.tokenizer)
    messages = [Message.from_json(m) for m in [*rows[3]["prompt"], *rows[3]["chosen"]]]
    batch = collate([renderer.render(messages)])
    model.eval()
    with torch.no_grad():
        sft = turn_logps(model, batch)
        bare = policy().model
        assert not torch.allclose(turn_logps(bare, batch), sft, atol=0.1)
    trainer = DMPOTrainer(model, args, train_dataset=rows, processing_class=tiny.tokenizer)
    trainer.train()
    trained: Any = trainer.model
    assert isinstance(trained, PeftModel)
    trained.eval()
    with torch.no_grad(), trained.disable_adapter():
        torch.testing.assert_close(turn_logps(trained, batch), sft, atol=1e-4, rtol=1e-5)
    with torch.no_grad():
        assert not torch.allclose(turn_logps(trained, batch), sft, atol=1e-2)


@pytest.mark.parametrize("adapter", [False, True])
def test_every_reference_gives_the_same_training(tmp_path: Any, *, adapter: bool) -> None:
    """Cached, live, the same model given as `ref_model`, and adapter off: equal losses at every step."""
    losses = {}
    sources = ["cached", "live", "given", *(["adapter-off"] if adapter else [])]
    for source in sources:
        tiny = policy()
        args = DMPOConfig(
            output_dir=str(tmp_path / source),
            reference="auto" if source == "given" else source,
            learning_rate=1e-3,
            max_steps=4,
            logging_steps=1,
            save_strategy="no",
            per_device_train_batch_size=4,
            gradient_accumulation_steps=1,
        )
        trainer = _trainer(
            tiny,
            args,
            peft_config=lora() if adapter else None,
            ref_model=policy().model if source == "given" else None,
        )
        trainer.train()
        losses[source] = [r["loss"] for r in trainer.state.log_history if "loss" in r]
    for source in sources:
        assert losses[source] == pytest.approx(losses["cached"], abs=1e-5), source
    assert losses["cached"][0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses["cached"][-1] < 0.69


def test_a_shared_cache_is_computed_once(
    tmp_path: Any, run_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep over objective and gamma runs the reference for the first of its trainings only."""
    from multiturn.models import reference

    computed: list[int] = []
    compute = reference._compute

    def counting(model: Any, rows: Any, *how: Any) -> Any:
        computed.append(len(rows))
        return compute(model, rows, *how)

    monkeypatch.setattr(reference, "_compute", counting)
    for options in ({"objective": "dmpo"}, {"objective": "dpo"}, {"gamma": 0.2}):
        args = DMPOConfig(**run_options, **options, max_steps=1, reference_cache=str(tmp_path / "shared"))
        _trainer(policy(), args).train()
    assert sum(computed) == 16


def test_rows_that_are_new_after_training_need_a_reference(tiny: Policy, run_options: dict[str, Any]) -> None:
    trainer = _trainer(tiny, DMPOConfig(**run_options, max_steps=1))
    trainer.train()
    with pytest.raises(ConfigError, match="eval_dataset"):
        trainer.evaluate([pair(77)])


def test_arguments_that_contradict_each_other(tiny: Policy, run_options: dict[str, Any]) -> None:
    wrong: Any = 3
    with pytest.raises(ConfigError, match="needs an adapter"):
        _trainer(tiny, DMPOConfig(**run_options, reference="adapter-off"))
    with pytest.raises(ConfigError, match="contradict"):
        _trainer(
            tiny,
            DMPOConfig(**run_options, reference="adapter-off"),
            peft_config=lora(),
            ref_model=policy().model,
        )
    with pytest.raises(ConfigError, match="takes a DMPOConfig"):
        _trainer(tiny, wrong)
    with pytest.raises(ConfigError, match="model is a int"):
        DMPOTrainer(wrong, DMPOConfig(**run_options), train_dataset=pairs(1))


def test_nothing_left_to_train_on(tiny: Policy, run_options: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match="nothing is left to train on: 0 of 8 rows used; 8 dropped"):
        _trainer(tiny, DMPOConfig(**run_options, max_length=10, overlong="drop"))


def test_the_models_own_context_is_the_limit(
    tiny: Policy, run_options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    long = pair(9, chosen=60)
    with caplog.at_level(logging.WARNING, logger="multiturn"):
        trainer = _trainer(tiny, DMPOConfig(**run_options, overlong="drop"), train_dataset=[*pairs(2), long])
    assert trainer.data_report.dropped_ids == {"longer than max_length": ["pair-9"]}
    assert "2 of 3 rows used; 1 dropped: longer than max_length (pair-9)" in caplog.text


def test_a_non_finite_loss_names_the_pairs_and_changes_nothing(
    tiny: Policy, run_options: dict[str, Any]
) -> None:
    """The reference of one pair is made infinite; two good steps were taken before."""
    rows = pairs(3)
    options = {**run_options, "save_strategy": "steps", "save_steps": 1}
    args = DMPOConfig(
        **options,
        layout="padded",
        train_sampling_strategy="sequential",
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        learning_rate=1e-3,
    )
    trainer = _trainer(tiny, args, train_dataset=rows)
    reference: Any = trainer.reference
    trainer._prepare_reference(trainer.model, trainer.train_dataset)
    dataset: Any = trainer.train_dataset
    bad = dataset.rows[2].chosen
    reference._known[bad] = torch.full((bad.num_turns,), -math.inf)
    with pytest.raises(TrainingError, match="not finite in step 3 for pair-2;"):
        trainer.train()
    folder = Path(str(args.output_dir))
    saved = sorted(path.name for path in folder.glob("checkpoint-*"))
    assert saved == ["checkpoint-1", "checkpoint-2"]
    last = policy()
    last.model.load_state_dict(load_file(folder / "checkpoint-2" / "model.safetensors"), strict=False)
    for name, tensor in weights(last.model).items():
        assert torch.equal(tensor, weights(tiny.model)[name]), name


def test_a_non_finite_gradient_stops_before_the_step(tiny: Policy, run_options: dict[str, Any]) -> None:
    args = DMPOConfig(**run_options, max_steps=1)
    trainer = _trainer(tiny, args)
    model: Any = trainer.model
    model.lm_head.weight.register_hook(lambda gradient: gradient * math.nan)
    before = weights(model)
    with pytest.raises(TrainingError, match=r"gradient is not finite in step 1 \(rows .*pair-3"):
        trainer.train()
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(model).items())


def test_collapse_is_reported_once(
    tiny: Policy, run_options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The reference has learned the chosen sides, the policy has not: the chosen log-ratios are negative."""
    learned = policy()
    demonstrations = [{"messages": row["prompt"] + row["chosen"]} for row in pairs(8)]
    sft = SFTConfig(**run_options, learning_rate=1e-2, max_steps=10)
    SFTTrainer(learned.model, sft, train_dataset=demonstrations, processing_class=tiny.tokenizer).train()
    args = DMPOConfig(**run_options, max_steps=6)
    with caplog.at_level(logging.WARNING, logger="multiturn"):
        trainer = _trainer(tiny, args, ref_model=learned.model)
        trainer.train()
    assert [record["step"] for record in trainer.warnings_seen] == [3]
    assert "collapse: by step 3" in str(trainer.warnings_seen[0]["warning"])
    assert caplog.text.count("collapse: by step") == 1


def test_the_watch_averages_over_turns_and_steps() -> None:
    """Five pairs of two turns: log-ratios of -1.8 nats a pair are -0.9 a turn, above the threshold of -1.

    The fourth step's -6 a pair are -3 a turn; smoothed with 0.8:
    (0.8 (1 - 0.8^3) (-0.9) + 0.2 (-3)) / (1 - 0.8^4) = (0.8 * 0.488 * -0.9 - 0.6) / 0.5904 = -1.6114.
    """
    seen: list[tuple[int, str]] = []
    watch = CollapseWatch(1.0, lambda step, message: seen.append((step, message)))
    unused: Any = None
    state = TrainerState(is_world_process_zero=False)
    for step, nats in enumerate((-1.8, -1.8, -1.8, -6.0), start=1):
        assert not seen
        watch.add(torch.full((3,), nats), 6)
        watch.add(torch.full((2,), nats), 4)
        state.global_step = step
        watch.on_step_end(unused, state, unused)
    assert seen[0][0] == 4
    assert "5.01 times less likely" in seen[0][1]
    assert "-1.61 nats a turn" in seen[0][1]


def test_no_collapse_warning_where_the_chosen_gain(tiny: Policy, run_options: dict[str, Any]) -> None:
    args = DMPOConfig(**run_options, learning_rate=1e-3, num_train_epochs=5, gradient_accumulation_steps=1)
    trainer = _trainer(tiny, args)
    trainer.train()
    assert trainer.warnings_seen == []


def test_bfloat16_on_the_cpu(tiny: Policy, run_options: dict[str, Any]) -> None:
    """Autocast computes, the weights stay float32, and the model comes back as it was."""
    args = DMPOConfig(**run_options, bf16=True, learning_rate=1e-3, max_steps=3)
    trainer = _trainer(tiny, args)
    trainer.train()
    model: Any = trainer.model
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not hasattr(model, "_original_forward")  # autocast's wrapper is gone
    assert model.config.use_cache is True
    assert trainer.state.log_history[0]["loss"] == pytest.approx(math.log(2), abs=1e-3)
    output = model(input_ids=torch.tensor([[1, 2, 3]]))
    assert output.logits.dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"init_lora_weights": "olora"}, "init_lora_weights 'olora' changes the weights"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the weights under the adapter"),
        ({"bias": "all"}, "bias 'all' trains weights under the adapter"),
    ],
)
def test_adapters_that_would_move_the_reference_are_refused(
    run_options: dict[str, Any], settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        _trainer(policy(), DMPOConfig(**run_options), peft_config=lora(**settings))


def bare(trainer: DMPOTrainer) -> torch.nn.Module:
    assert isinstance(trainer.model, torch.nn.Module)
    return trainer.model


@pytest.mark.parametrize("start", [True, False, "gaussian"])
def test_without_its_adapter_the_policy_is_the_reference(run_options: dict[str, Any], start: Any) -> None:
    trainer = _trainer(policy(), DMPOConfig(**run_options), peft_config=lora(init_lora_weights=start))
    assert weights_fingerprint(bare(trainer), adapter=False) == trainer.origin.fingerprint


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own
def test_an_adapter_that_was_loaded_for_use_can_be_trained_on(
    run_options: dict[str, Any], tmp_path: Path
) -> None:
    """Its settings say that it is for inference, and the weights under it are frozen."""
    adapted: Any = get_peft_model(policy().model, lora())
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(policy().model, str(tmp_path / "adapter"))
    again = _trainer(Policy(loaded, policy().tokenizer, name="loaded"), DMPOConfig(**run_options))
    assert any(p.requires_grad for p in bare(again).parameters())
    merged = merge_adapter(PeftModel.from_pretrained(policy().model, str(tmp_path / "adapter")))
    assert all(p.requires_grad for p in merged.parameters())
