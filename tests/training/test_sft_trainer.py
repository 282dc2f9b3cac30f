"""Supervised fine-tuning, and the calls that train to the end and save."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from training_samples import lora, pairs, policy, trajectories
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

import multiturn
from multiturn.models import Policy, load_policy, turn_logps
from multiturn.tokens import Renderer, collate
from multiturn.training import DMPOConfig, SFTConfig, SFTTrainer, train_preference, train_sft
from multiturn.trajectory import Message

if TYPE_CHECKING:
    from pathlib import Path


def test_names_at_the_top() -> None:
    assert multiturn.SFTTrainer is SFTTrainer
    assert multiturn.DMPOConfig is DMPOConfig
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = multiturn.Nothing


def test_demonstrations_are_learned(tiny: Policy, run_options: dict[str, Any]) -> None:
    rows = trajectories(6)
    args = SFTConfig(**run_options, learning_rate=1e-2, max_steps=20, gradient_accumulation_steps=1)
    trainer = SFTTrainer(
        tiny.model, args, train_dataset=rows, eval_dataset={"same": rows}, processing_class=tiny.tokenizer
    )
    before = trainer.evaluate()["eval_same_nll/token"]
    trainer.train()
    assert trainer.evaluate()["eval_same_nll/token"] < before / 2


def test_the_loss_is_the_mean_over_tokens(tiny: Policy, run_options: dict[str, Any]) -> None:
    """Against transformers' own loss on the same labels, and only the assistant's tokens are labels."""
    rows = trajectories(3)
    renderer = Renderer(tiny.tokenizer)
    total, count = 0.0, 0
    for row in rows:
        rendered = renderer.render([Message.from_json(m) for m in row["messages"]])
        labels = [i if t >= 0 else -100 for i, t in zip(rendered.token_ids, rendered.turns, strict=True)]
        ids = torch.tensor([rendered.token_ids])
        with torch.no_grad():
            loss = tiny.model(input_ids=ids, labels=torch.tensor([labels])).loss
        total += float(loss) * rendered.scored_tokens
        count += rendered.scored_tokens
    args = SFTConfig(**run_options, max_steps=1, per_device_train_batch_size=2)
    trainer = SFTTrainer(tiny.model, args, train_dataset=rows, processing_class=tiny.tokenizer)
    assert trainer.evaluate(rows)["eval_loss"] == pytest.approx(total / count, rel=1e-5)
    trainer.train()
    record = trainer.state.log_history[0]
    assert record["loss"] == pytest.approx(total / count, rel=1e-5)
    assert record["nll/token"] == pytest.approx(total / count, rel=1e-5)


def test_what_training_sees_is_what_a_rollout_produced(tiny: Policy, run_options: dict[str, Any]) -> None:
    """An answer's own token ids are trained on, not another way to split its text."""
    produced = tuple(tiny.tokenizer.encode("t", add_special_tokens=False)) * 2
    answer = {"role": "assistant", "content": "tt", "token_ids": list(produced)}
    rows = [{"messages": [{"role": "user", "content": "go"}, answer]}]
    trainer = SFTTrainer(
        tiny.model, SFTConfig(**run_options), train_dataset=rows, processing_class=tiny.tokenizer
    )
    dataset: Any = trainer.train_dataset
    rendered = dataset.rows[0].rendered
    scored = [i for i, t in zip(rendered.token_ids, rendered.turns, strict=True) if t == 0]
    assert tuple(scored) == produced


@pytest.mark.parametrize("adapter", [False, True])
def test_sft_then_preference_to_the_end(tmp_path: Path, *, adapter: bool) -> None:
    """What is saved loads in plain transformers and scores as the trained policy; checkpoints are gone."""
    peft_config = lora() if adapter else None
    common: dict[str, Any] = {"num_train_epochs": 2, "save_steps": 1, "gradient_accumulation_steps": 1}
    tiny = policy()
    sft_args = SFTConfig(output_dir=str(tmp_path / "sft"), learning_rate=1e-3, **common)
    history = train_sft(tiny, trajectories(4), sft_args, peft_config=peft_config)
    assert json.loads(json.dumps(history)) == history
    assert history["task"] == "SFT"
    assert history["steps"] == 2
    assert history["warnings"] == []
    data: Any = history["data"]
    assert data["used"] == 4
    assert history["tokens"] == 2 * data["tokens"]
    assert history["resumed_from"] is None
    peak: Any = history["peak_memory_bytes"]
    assert peak > 2**20
    assert not list((tmp_path / "sft").glob("checkpoint-*"))
    assert (tmp_path / "sft" / "model-adapter").exists() == adapter

    start = load_policy(str(tmp_path / "sft" / "model"))
    assert start.fingerprint == tiny.fingerprint
    args = DMPOConfig(
        output_dir=str(tmp_path / "dmpo"), learning_rate=1e-3, chat_template="compact", **common
    )
    saved = tmp_path / "elsewhere"
    history = train_preference(start, pairs(4), args, save_to=saved, peft_config=peft_config)
    assert history["task"] == "DMPO"
    model: Any = AutoModelForCausalLM.from_pretrained(saved)
    tokenizer = AutoTokenizer.from_pretrained(saved)
    assert model.config.use_cache is True
    messages = [Message(role="user", content="a"), Message(role="assistant", content="b")]
    # The template it was trained with is its own now.
    batch = collate([Renderer(tokenizer).render(messages)])
    same = collate([Renderer(start.tokenizer, chat_template="compact").render(messages)])
    assert torch.equal(batch.input_ids, same.input_ids)
    with torch.no_grad():
        torch.testing.assert_close(turn_logps(model, batch), turn_logps(start.model, batch))


class _Stop(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 2:
            raise KeyboardInterrupt


def test_the_same_call_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted in step 2 of 4, called again: it resumes from step 1 and ends as an uninterrupted one."""

    def call(folder: str) -> tuple[dict[str, Any], Policy]:
        tiny = policy()
        args = SFTConfig(
            output_dir=str(tmp_path / folder),
            learning_rate=1e-3,
            num_train_epochs=4,
            save_steps=1,
            gradient_accumulation_steps=1,
            per_device_train_batch_size=4,
        )
        return train_sft(tiny, trajectories(4), args), tiny

    _, expected = call("whole")
    create = SFTTrainer.__init__

    def interrupted(self: SFTTrainer, *args: Any, **options: Any) -> None:
        create(self, *args, **options, callbacks=[_Stop()])

    with monkeypatch.context() as patched:
        patched.setattr(SFTTrainer, "__init__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            call("stopped")
    history, found = call("stopped")
    assert history["resumed_from"] == 1
    assert [record["step"] for record in history["log"]] == [1, 4]
    assert found.fingerprint == expected.fingerprint
