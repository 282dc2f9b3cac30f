"""Training on OpenAI's tool calls: the calls are turns, their results are not."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from training_samples import policy, weights

from multiturn.tokens import Renderer
from multiturn.training import DMPOConfig, DMPOTrainer
from multiturn.trajectory import Message

if TYPE_CHECKING:
    from multiturn.models import Policy

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


def call(number: str, arguments: Any) -> dict[str, Any]:
    """An assistant message as OpenAI returns it: no content, and JSON text for the arguments."""
    function = {"name": "look", "arguments": arguments}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": number, "type": "function", "function": function}],
    }


def result(number: str, content: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": number, "content": content}


def row(arguments: Any, worse: Any) -> dict[str, Any]:
    answer = {"role": "assistant", "content": "on the shelf"}
    return {
        "prompt": [{"role": "user", "content": "where is the cup?"}],
        "chosen": [call("a", arguments), result("a", "a cup"), answer],
        "rejected": [call("b", worse), result("b", "nothing"), call("c", worse), result("c", "nothing")],
        "tools": TOOLS,
    }


def train(tiny: Policy, rows: list[dict[str, Any]], options: dict[str, Any]) -> DMPOTrainer:
    args = DMPOConfig(**options, chat_template="qwen3-training", max_steps=1, learning_rate=1e-3)
    trainer = DMPOTrainer(tiny.model, args, processing_class=tiny.tokenizer, train_dataset=rows)
    trainer.train()
    return trainer


def test_one_step_on_calls(tiny: Policy, run_options: dict[str, Any]) -> None:
    """The logged log-probability of the chosen side is that of the call and of the answer, by hand."""
    data = row('{"at": "shelf"}', '{"at": "drawer"}')
    messages = [Message.from_json(m) for m in [*data["prompt"], *data["chosen"]]]
    rendered = Renderer(tiny.tokenizer, chat_template="qwen3-training").render(messages, tools=TOOLS)
    scored = [i for i, turn in zip(rendered.token_ids, rendered.turns, strict=True) if turn >= 0]
    assert tiny.tokenizer.decode(scored) == (
        '<tool_call>\n{"name": "look", "arguments": {"at": "shelf"}}\n</tool_call><|im_end|>'
        "on the shelf<|im_end|>"
    )
    with torch.no_grad():
        logits = tiny.model(input_ids=torch.tensor([rendered.token_ids])).logits[0].double().log_softmax(-1)
    by_hand = sum(
        float(logits[at - 1, token])
        for at, (token, turn) in enumerate(zip(rendered.token_ids, rendered.turns, strict=True))
        if turn >= 0
    )
    before = weights(tiny.model)
    trainer = train(tiny, [data], run_options)
    logged = trainer.state.log_history[0]
    assert logged["logps/chosen"] == pytest.approx(by_hand, rel=1e-4)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(tiny.model).items())


def test_arguments_as_text_and_as_objects_train_alike(run_options: dict[str, Any]) -> None:
    as_text = row('{"at":"shelf"}', '{"at":"drawer"}')
    as_objects = row({"at": "shelf"}, {"at": "drawer"})
    trained = []
    for data in (as_text, as_objects):
        tiny = policy()
        train(tiny, [copy.deepcopy(data)], run_options)
        trained.append(weights(tiny.model))
    assert all(torch.equal(tensor, trained[1][name]) for name, tensor in trained[0].items())
