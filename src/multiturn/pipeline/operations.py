"""What a stage does, apart from which run it belongs to: the same code serves `run` and the single verbs."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from typing import TYPE_CHECKING, Any

from multiturn.agents.formats import action_format
from multiturn.agents.server import ServerAgent
from multiturn.envs import registry
from multiturn.envs.protocols import PROTOCOL, protocol_for
from multiturn.envs.slots import make_slots
from multiturn.errors import ConfigError
from multiturn.models.load import ModelSpec, Policy, load_policy
from multiturn.pipeline.agents import make_agent
from multiturn.rollouts.collect import CollectReport, CollectSettings, collect
from multiturn.rollouts.expert import collect_expert
from multiturn.rollouts.jobs import Job

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from multiturn.envs.base import Task
    from multiturn.envs.slots import EnvironmentSlot
    from multiturn.pipeline.agents import ServerSettings
    from multiturn.pipeline.config import DecodingSettings, EnvironmentSettings, PromptSettings

__all__ = ["jobs_for", "list_tasks", "load_model", "roll_out", "roll_out_expert"]


def load_model(spec: str | Mapping[str, Any]) -> Policy:
    """Load a model as configurations name it.

    Args:
        spec: A name, path or hub id, or ``{"scratch": {...}}`` for a tiny random model.

    Raises:
        ConfigError: The model cannot be found, or the mapping is not a ``scratch`` one.
    """
    if isinstance(spec, str):
        return load_policy(spec)
    if set(spec) != {"scratch"} or not isinstance(spec["scratch"], dict):
        raise ConfigError(f"model: {dict(spec)!r} is neither a name nor {{scratch: {{...}}}}")
    return load_policy(ModelSpec(scratch=spec["scratch"]))


def list_tasks(environment: EnvironmentSettings, split: str, count: int | None) -> list[Task]:
    """The first ``count`` tasks of a split.

    Raises:
        ConfigError: The split has fewer tasks, or there is no such split.
    """
    tasks = _all_tasks(environment, split)
    if count is not None and count > len(tasks):
        raise ConfigError(
            f"{count} tasks asked for, but split {split!r} of {environment.name} has {len(tasks)}; "
            "lower the number or enlarge the split"
        )
    return tasks[:count]


_listed: dict[tuple[str, str, str], list[Task]] = {}
"""What isolated environments listed, by factory, options and split. Every list costs a process, and a Java
machine in it for ScienceWorld; stages ask for the same ones again, and the protocol keeps them the same."""


def _all_tasks(environment: EnvironmentSettings, split: str) -> list[Task]:
    entry = registry.find(environment.name)
    if not entry.isolated(environment.options):
        with _slots(environment, 1) as (slot,):
            return slot.tasks(split)
    key = (entry.importable(), json.dumps(environment.options, default=repr), split)
    if key not in _listed:
        with _slots(environment, 1) as (slot,):
            _listed[key] = slot.tasks(split)
    return _listed[key]


def jobs_for(tasks: Sequence[Task], *, samples: int = 1) -> list[Job]:
    """One job for each task and sample, the first samples of all tasks first."""
    return [
        Job(task_id=task.id, task_type=task.type, split=task.split, sample=sample)
        for sample in range(samples)
        for task in tasks
    ]


def roll_out(
    model: Path | str | None,
    *,
    environment: EnvironmentSettings,
    prompt: PromptSettings,
    decoding: DecodingSettings,
    jobs: Sequence[Job],
    path: Path,
    seed: int,
    title: str,
    temperature: float = 0.0,
    top_p: float = 1.0,
    server: ServerSettings | None = None,
) -> CollectReport:
    """Let a model act; episodes already in the file are kept and not played again.

    Args:
        model: The model's folder or name, or its name as the server knows it; None takes the only one that
            the server has.
        environment: Where it acts.
        prompt: How conversations are put to it.
        decoding: How it answers.
        jobs: What it shall play.
        path: The JSONL file of episodes.
        seed: Seeds the sampling.
        title: What the progress bar says.
        temperature: 0 is greedy.
        top_p: Nucleus sampling.
        server: Where the model runs; None for this process.

    Raises:
        RunStateError: The file holds episodes of another model, environment or setting.
        AgentFaultError: The server could not be asked; episodes that it concerns are not in the file.
    """
    agent = make_agent(
        model,
        server=server,
        prompt=prompt,
        decoding=decoding,
        capacity=min(decoding.slots, max(1, len(jobs))),
        temperature=temperature,
        top_p=top_p,
    )
    settings = _collect_settings(environment, prompt, seed)
    with contextlib.closing(agent), _slots(environment, min(agent.capacity, len(jobs))) as slots:
        report = collect(agent, slots, jobs, path, settings, title=title)
        usage = agent.usage.to_json() if isinstance(agent, ServerAgent) else {}
    return dataclasses.replace(report, usage=usage)


def roll_out_expert(
    *,
    environment: EnvironmentSettings,
    prompt: PromptSettings,
    jobs: Sequence[Job],
    path: Path,
    title: str,
) -> CollectReport:
    """Let the environment's expert act; episodes already in the file are kept and not played again."""
    with _slots(environment, min(os.cpu_count() or 1, len(jobs))) as slots:
        return collect_expert(slots, jobs, path, _collect_settings(environment, prompt, 0), title=title)


@contextlib.contextmanager
def _slots(environment: EnvironmentSettings, wanted: int) -> Iterator[list[EnvironmentSlot]]:
    count = max(1, min(wanted, environment.workers or wanted))
    slots = make_slots(
        environment.name, environment.options, count, deadline=environment.deadline, ray=environment.ray
    )
    with contextlib.ExitStack() as stack:
        for slot in slots:
            stack.callback(slot.close)  # each of them, even where another's raises
        yield slots


def _collect_settings(environment: EnvironmentSettings, prompt: PromptSettings, seed: int) -> CollectSettings:
    form = action_format(prompt.format)
    instructions = prompt.instructions
    if instructions == PROTOCOL:
        instructions = protocol_for(environment.name).preamble(form.instructions, form.compose)
    return CollectSettings(
        format=form,
        max_turns=environment.max_turns,
        instructions=instructions,
        instructions_role=prompt.instructions_role,
        seed=seed,
    )
