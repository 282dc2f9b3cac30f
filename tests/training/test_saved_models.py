"""What a saved model is: plain transformers (or PEFT) does with it what multiturn does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from training_samples import lora, pairs, policy, trajectories
from transformers import AutoModelForCausalLM, AutoTokenizer

from multiturn.agents.base import Request
from multiturn.agents.local import LocalAgent
from multiturn.models import load_policy, save_policy
from multiturn.models.policy import as_trained
from multiturn.tokens import Renderer
from multiturn.training import DMPOConfig, DMPOTrainer, SFTConfig, SFTTrainer, train_preference
from multiturn.trajectory import Message

if TYPE_CHECKING:
    from multiturn.models import Policy

TALK = (
    Message(role="user", content="task 1"),
    Message(role="assistant", content="take 0"),
    Message(role="user", content="saw 0"),
)
NEW_TOKENS = 12


def answer_of_agent(policy: Policy, chat_template: str) -> tuple[int, ...]:
    """What our own agent answers to `TALK`, greedily, as token ids."""
    agent = LocalAgent(
        policy, capacity=1, max_new_tokens=NEW_TOKENS, chat_template=chat_template, dtype="float32"
    )
    agent.submit(Request(slot=0, messages=TALK, seed=0))
    replies: list[Any] = []
    while not replies:
        replies = list(agent.poll())
    agent.close()
    ids = replies[0].message.token_ids
    assert ids is not None
    return tuple(ids)


def plain_answer(folder: Path, model: Any = None) -> tuple[int, ...]:
    """The same of plain transformers, which know nothing but the folder."""
    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    model = model or AutoModelForCausalLM.from_pretrained(str(folder))
    inputs = tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in TALK],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    output = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    return tuple(output[0, inputs["input_ids"].shape[1] :].tolist())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own
@pytest.mark.parametrize("template", ["model", "compact"])
@pytest.mark.parametrize("adapter", [None, lora()], ids=["full", "lora"])
def test_a_trained_model_answers_in_plain_transformers_as_here(
    template: str, adapter: LoraConfig | None, run_options: dict[str, Any]
) -> None:
    tiny = policy()
    args = DMPOConfig(**run_options, max_steps=3, learning_rate=1e-2, chat_template=template)
    train_preference(tiny, pairs(4), args, peft_config=adapter)
    folder = Path(run_options["output_dir"]) / "model"
    assert plain_answer(folder) == answer_of_agent(tiny, template)
    assert answer_of_agent(load_policy(str(folder)), "model") == answer_of_agent(tiny, template)
    if adapter:
        whole = AutoModelForCausalLM.from_pretrained(str(folder))
        adapted: Any = PeftModel.from_pretrained(policy().model, str(folder.with_name("model-adapter")))
        assert plain_answer(folder, adapted) == plain_answer(folder, whole)


def test_save_model_of_a_trainer_saves_the_trainings_template(run_options: dict[str, Any]) -> None:
    tiny = policy()
    own = tiny.tokenizer.chat_template
    args = SFTConfig(**run_options, max_steps=2, learning_rate=1e-2, chat_template="compact")
    trainer = SFTTrainer(tiny.model, args, train_dataset=trajectories(4), processing_class=tiny.tokenizer)
    trainer.train()
    folder = Path(run_options["output_dir"]) / "saved"
    trainer.save_model(str(folder))
    saved: Any = AutoTokenizer.from_pretrained(str(folder))
    assert saved.chat_template == Renderer(tiny.tokenizer, chat_template="compact").template_source != own
    assert tiny.tokenizer.chat_template == own
    assert plain_answer(folder) == answer_of_agent(tiny, "compact")
    assert "| chat template | compact |" in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own
def test_save_model_of_an_adapter(tmp_path: Path, run_options: dict[str, Any]) -> None:
    """The base has the name that it was loaded from, also where that is an adapter's folder."""
    save_policy(policy(), tmp_path / "base")
    args = DMPOConfig(**run_options, max_steps=2, learning_rate=1e-2)
    trainer = DMPOTrainer(str(tmp_path / "base"), args, train_dataset=pairs(2), peft_config=lora())
    trainer.train()
    trainer.save_model(str(tmp_path / "adapter"))
    assert "library_name: peft" in (tmp_path / "adapter" / "README.md").read_text(encoding="utf-8")
    plain: Any = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "adapter"))
    ours = load_policy(str(tmp_path / "adapter"))
    ids = torch.tensor([[5, 7, 11, 13]])
    with torch.no_grad():
        expected = plain.merge_and_unload()(input_ids=ids).logits
        assert torch.allclose(ours.model(input_ids=ids).logits, expected, atol=1e-6)
    further = DMPOTrainer(
        str(tmp_path / "adapter"), args, train_dataset=pairs(2), peft_config=lora(init_lora_weights=False)
    )
    further.save_model(str(tmp_path / "further"))
    config = json.loads((tmp_path / "further" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "adapter")
    model: Any = further.model
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        assert torch.allclose(
            load_policy(str(tmp_path / "further")).model(input_ids=ids).logits, expected, atol=1e-5
        )


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own
def test_a_card_tells_of_an_adapter_that_was_merged_before(tmp_path: Path) -> None:
    """Such an adapter belongs to weights that are nowhere on the disk."""
    tiny = policy()
    adapted: Any = get_peft_model(tiny.model, lora())
    args = DMPOConfig(output_dir=str(tmp_path))
    trainer = DMPOTrainer(adapted, args, train_dataset=pairs(2), processing_class=tiny.tokenizer)
    assert "merged into it in memory" in trainer.card(adapter=True)
    assert "its adapter merged" in trainer.card()


def test_generation_stops_where_turns_end(tmp_path: Path) -> None:
    tiny = policy()
    model: Any = tiny.model
    with as_trained(model, tiny.tokenizer, stop_ids=(2, 7)):
        assert model.generation_config.eos_token_id == [2, 7]
        model.save_pretrained(tmp_path)
    assert model.generation_config.eos_token_id == 2
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == [2, 7]
    model.generation_config.eos_token_id = None
    with as_trained(model, None, chat_template="ignored", stop_ids=(2,)):
        assert model.generation_config.eos_token_id == 2
    with as_trained(model, None):
        assert model.generation_config.eos_token_id is None


def test_a_saved_folder_has_what_servers_look_for(run_options: dict[str, Any]) -> None:
    """vLLM reads the architecture, safetensors, the tokenizer, its template and what stops generation."""
    tiny = policy()
    train_preference(tiny, pairs(2), DMPOConfig(**run_options, max_steps=1, chat_template="compact"))
    folder = Path(run_options["output_dir"]) / "model"
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert "quantization_config" not in config
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 2
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (folder / name).stat().st_size > 0, name
    assert not list(folder.glob("*.bin"))
    assert not list(folder.glob("*.pt"))
