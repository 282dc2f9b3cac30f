"""The DMPO paper's protocol for each benchmark, in one place: prompt, example, limits, splits and reward.

The prompts say what the paper's code tells its agents, in our words, and show one task that is done. A run
uses them by ``prompt.instructions: protocol``; the recipes in ``examples/`` set the rest as it is said here.
"""

from __future__ import annotations

import dataclasses
import functools
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

import yaml

from multiturn.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["BENCHMARKS", "PROTOCOL", "Example", "ExampleStep", "Protocol", "protocol_for"]

BENCHMARKS: Final = ("webshop", "scienceworld", "alfworld")
"""The benchmarks of the paper."""

PROTOCOL: Final = "protocol"
"""How a configuration asks for a protocol's prompt."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExampleStep:
    """One turn of an example.

    Attributes:
        thought: Why.
        action: What is done.
        observation: What the environment answers.
    """

    thought: str
    action: str
    observation: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A task that is done, to be shown in the prompt.

    Attributes:
        environment: The environment it was played in. Not the benchmark itself where that takes files.
        options: Its options.
        task: The task's id.
        first: The first observation.
        steps: The turns.
    """

    environment: str
    options: Mapping[str, Any]
    task: str
    first: str
    steps: tuple[ExampleStep, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How the paper plays a benchmark.

    Attributes:
        environments: The environments that its prompt is right for; the first is the benchmark.
        options: The environment's options where they are not the default.
        train_split: The split for expert trajectories and exploration.
        test_splits: The splits that are evaluated.
        max_turns: The turn limit; None where it depends on the task, and the environment knows it.
        tasks: How many tasks the splits have.
        reward: What an episode's reward is, in words.
        instructions: What the agent is told.
        example: What it is shown.
    """

    environments: tuple[str, ...]
    options: Mapping[str, Any]
    train_split: str
    test_splits: tuple[str, ...]
    max_turns: int | None
    tasks: Mapping[str, int]
    reward: str
    instructions: str
    example: Example

    def preamble(self, format_instructions: str, compose: Callable[[str, str], str]) -> str:
        """What an agent reads before its first observation.

        Args:
            format_instructions: What it is told about how actions are written; may be empty.
            compose: From a thought and an action to what the agent is to write.
        """
        parts = [self.instructions.strip(), format_instructions, "An example:", self.example.first]
        for step in self.example.steps:
            parts += [compose(step.thought, step.action), f"Observation: {step.observation}"]
        return "\n\n".join([part for part in parts if part] + ["That task is done. Yours is another one."])


def protocol_for(environment: str) -> Protocol:
    """The protocol whose prompt is right for an environment.

    Args:
        environment: The environment's registered name.

    Raises:
        ConfigError: There is none.
    """
    found = _by_environment().get(environment)
    if found is None:
        raise ConfigError(
            f"the paper has no protocol for the environment {environment!r}; there is one for "
            f"{', '.join(sorted(_by_environment()))}. Use `environment`, `none`, or a text of your own"
        )
    return found


@functools.cache
def _by_environment() -> dict[str, Protocol]:
    protocols = [_read(name) for name in BENCHMARKS]
    return {environment: each for each in protocols for environment in each.environments}


def _read(name: str) -> Protocol:
    fields = yaml.safe_load(resources.files(__package__).joinpath(f"{name}.yaml").read_text(encoding="utf-8"))
    example = fields.pop("example")
    steps = tuple(ExampleStep(**step) for step in example.pop("steps"))
    for key in ("environments", "test_splits"):
        fields[key] = tuple(fields[key])
    return Protocol(**fields, example=Example(**example, steps=steps))
