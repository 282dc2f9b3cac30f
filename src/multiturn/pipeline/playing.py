"""The stages of a run in which a policy plays: exploration of training tasks, evaluation on held-out ones."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from multiturn.pairs.selection import reaches
from multiturn.pipeline import operations
from multiturn.pipeline.methods import BEST_OF_N, SFT
from multiturn.pipeline.rounds import begins_with, left_out
from multiturn.rollouts.store import read_rollouts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from multiturn.envs.base import Task
    from multiturn.pipeline.methods import MethodRound
    from multiturn.pipeline.stages import Run
    from multiturn.rollouts.jobs import Job
    from multiturn.trajectory import Trajectory

__all__ = ["demonstrations", "evaluate", "evaluate_sft", "explore", "explore_again"]


def explore(run: Run) -> dict[str, Any]:
    """Stage 3: the SFT policy acts on training tasks."""
    tasks = _tasks_to_explore(run)
    jobs = operations.jobs_for(tasks, samples=run.config.explore.samples)
    path = run.directory.exploration
    return _explore(run, run.directory.model(SFT), jobs, path, title="explore", tasks=len(tasks))


def explore_again(run: Run, entry: MethodRound) -> dict[str, Any]:
    """A later round begins: a method's policy acts on the tasks that SFT's did, with other reply seeds."""
    if ended := left_out(run.manifest, entry):
        return ended
    tasks, samples = _tasks_to_explore(run), run.config.explore.samples
    # Samples are numbered on from the rounds before: that is what reply seeds and ids depend on.
    jobs = [
        dataclasses.replace(job, sample=job.sample + (entry.number - 1) * samples)
        for job in operations.jobs_for(tasks, samples=samples)
    ]
    path = run.directory.round(entry).exploration
    title = f"{entry.method} explores (round {entry.number})"
    return _explore(run, begins_with(run.directory, entry), jobs, path, title=title, tasks=len(tasks))


def evaluate_sft(run: Run, split: str) -> dict[str, Any]:
    """Stage 6: the SFT policy plays held-out tasks, greedily."""
    return _evaluate(run, SFT, run.directory.model(SFT), split)


def evaluate(run: Run, entry: MethodRound, split: str) -> dict[str, Any]:
    """Stage 6: a method's policy plays held-out tasks, greedily; or SFT's does, several times each."""
    if ended := left_out(run.manifest, entry):
        return ended
    if run.config.kind(entry.method) == BEST_OF_N:
        settings = run.config.best_of_n(entry.method)
        return _evaluate(
            run,
            entry.name,
            run.directory.model(SFT),
            split,
            samples=settings.samples,
            temperature=settings.temperature,
            top_p=settings.top_p,
        )
    return _evaluate(run, entry.name, run.directory.model(entry.name), split)


def demonstrations(run: Run) -> list[Trajectory]:
    """The expert's trajectories that are good enough to be imitated."""
    least = run.config.expert.min_reward
    return [t for t in read_rollouts(run.directory.expert) if reaches(t.reward, least)]


def _evaluate(
    run: Run,
    name: str,
    model: Path,
    split: str,
    *,
    samples: int = 1,
    temperature: float = 0.0,
    top_p: float = 1.0,
) -> dict[str, Any]:
    config, settings = run.config, run.config.evaluate
    tasks = operations.list_tasks(config.environment, split, settings.tasks)
    report = operations.roll_out(
        model,
        environment=config.environment,
        prompt=config.prompt,
        decoding=settings,
        jobs=operations.jobs_for(tasks, samples=samples),
        path=run.directory.evaluation(name, split),
        seed=config.seed,
        title=f"{name} on {split}",
        temperature=temperature,
        top_p=top_p,
    )
    return {"says": report.describe(), "tasks": len(tasks), "collect": report.to_json()}


def _explore(
    run: Run, model: Path, jobs: Sequence[Job], path: Path, *, title: str, tasks: int
) -> dict[str, Any]:
    config, settings = run.config, run.config.explore
    report = operations.roll_out(
        model,
        environment=config.environment,
        prompt=config.prompt,
        decoding=settings,
        jobs=jobs,
        path=path,
        seed=config.seed,
        title=title,
        temperature=settings.temperature,
        top_p=settings.top_p,
    )
    return {"says": report.describe(), "tasks": tasks, "collect": report.to_json()}


def _tasks_to_explore(run: Run) -> list[Task]:
    config, settings = run.config, run.config.explore
    # The tasks the expert solved: without a demonstration there is nothing to prefer over a rollout.
    solved = {trajectory.task_id for trajectory in demonstrations(run)}
    tasks = operations.list_tasks(config.environment, config.environment.train_split, config.expert.tasks)
    return [task for task in tasks if task.id in solved][settings.skip :][: settings.tasks]
