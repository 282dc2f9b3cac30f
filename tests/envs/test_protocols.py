"""The paper's protocols: what they say, and that their examples are true."""

from __future__ import annotations

import importlib.util

import pytest

import multiturn
from multiturn.agents.formats import FORMATS
from multiturn.envs.protocols import BENCHMARKS, Protocol, protocol_for
from multiturn.envs.scienceworld.paper import PAPER_SPLITS, paper_tasks
from multiturn.errors import ConfigError


@pytest.fixture(params=BENCHMARKS)
def protocol(request: pytest.FixtureRequest) -> Protocol:
    return protocol_for(request.param)


def replay(protocol: Protocol) -> float:
    """Play the example; the return."""
    example = protocol.example
    env = multiturn.make(example.environment, **example.options)
    try:
        step = env.reset(example.task)
        assert step.observation == example.first
        total = 0.0
        for number, turn in enumerate(example.steps):
            assert not step.terminated
            step = env.step(turn.action)
            assert step.valid
            assert step.observation == turn.observation, f"turn {number}"
            total += step.reward
        assert step.terminated
        return total
    finally:
        env.close()


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name != "scienceworld"])
def test_the_example_is_what_the_environment_answers(name: str) -> None:
    assert replay(protocol_for(name)) == 1.0


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("scienceworld") is None, reason="scienceworld is not installed")
def test_the_example_of_scienceworld_is_what_the_simulator_answers() -> None:
    assert replay(protocol_for("scienceworld")) == pytest.approx(1.0)


def test_the_example_is_no_test_task(protocol: Protocol) -> None:
    """It is a game or a shop that was made up, or a task to train on."""
    if protocol.example.environment == protocol.environments[0] == "scienceworld":
        lists = {split: [f"{kind}/{n}" for kind, n in paper_tasks(split)] for split in PAPER_SPLITS}
        assert protocol.example.task in lists[protocol.train_split]
        assert not any(protocol.example.task in lists[split] for split in protocol.test_splits)
    else:
        assert protocol.example.environment in {"household", "webshop-generated"}
    assert protocol.test_splits
    assert set(protocol.tasks) >= {protocol.train_split, *protocol.test_splits}


def test_the_prompt_holds_instructions_format_and_example(protocol: Protocol) -> None:
    form = FORMATS["react"]
    prompt = protocol.preamble(form.instructions, form.compose)
    assert prompt.startswith(protocol.instructions.strip())
    assert form.instructions in prompt
    places = [prompt.index(protocol.example.first)]
    for turn in protocol.example.steps:
        written = form.compose(turn.thought, turn.action)
        assert form.parse(written) == turn.action
        places.append(prompt.index(f"{written}\n\nObservation: {turn.observation}", places[-1]))
    assert places == sorted(places)


def test_bare_actions_have_no_thoughts(protocol: Protocol) -> None:
    form = FORMATS["action"]
    prompt = protocol.preamble("", form.compose)
    assert "Thought" not in prompt.partition("An example:")[2]
    assert f"\n\n{protocol.example.steps[0].action}\n\nObservation: " in prompt


def test_other_environments_have_none() -> None:
    with pytest.raises(
        ConfigError, match=r"no protocol for the environment .guess.; there is one for .*alfworld"
    ):
        protocol_for("guess")
    assert protocol_for("household") is protocol_for("alfworld")
