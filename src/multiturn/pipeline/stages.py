"""The stages of a run: each reads what earlier ones left in the run's directory and leaves its own."""

from __future__ import annotations

import dataclasses
import gc
from typing import TYPE_CHECKING, Any

from multiturn.errors import ConfigError, DataError
from multiturn.jsonl import read_pairs
from multiturn.pipeline import operations, trainings
from multiturn.pipeline.config import SFT
from multiturn.pipeline.pair_scores import score_pairs
from multiturn.pipeline.pairing import describe_selection, write_pairs
from multiturn.pipeline.results import build_report
from multiturn.rollouts.store import read_rollouts

if TYPE_CHECKING:
    from multiturn.pipeline.config import Config
    from multiturn.pipeline.manifest import Manifest
    from multiturn.pipeline.run_directory import RunDirectory
    from multiturn.trajectory import Trajectory

__all__ = [
    "Run",
    "build_pairs",
    "evaluate",
    "explore",
    "fine_tune",
    "optimize",
    "play_expert",
    "report",
    "score_turns",
]


@dataclasses.dataclass(frozen=True)
class Run:
    """What every stage works with.

    Attributes:
        config: What to do.
        directory: Where everything lies.
        manifest: What is done already.
    """

    config: Config
    directory: RunDirectory
    manifest: Manifest


def play_expert(run: Run) -> dict[str, Any]:
    """Stage 1: the expert plays training tasks."""
    config = run.config
    for split in config.environment.test_splits:
        # Asked for now: that a test split is not there should not be found out after all training.
        operations.list_tasks(config.environment, split, config.evaluate.tasks)
    tasks = operations.list_tasks(config.environment, config.environment.train_split, config.expert.tasks)
    report = operations.roll_out_expert(
        environment=config.environment,
        prompt=config.prompt,
        jobs=operations.jobs_for(tasks),
        path=run.directory.expert,
        title="expert",
    )
    good = len(_demonstrations(run))
    if not good:
        raise DataError(
            f"none of the expert's {len(tasks)} trajectories reaches expert.min_reward "
            f"{config.expert.min_reward}; lower it",
            path=run.directory.expert,
        )
    return {
        "says": f"{good} of {len(tasks)} trajectories are demonstrations",
        "tasks": len(tasks),
        "demonstrations": good,
        "collect": report.to_json(),
    }


def fine_tune(run: Run) -> dict[str, Any]:
    """Stage 2: SFT on the expert's successful trajectories."""
    config = run.config
    trajectories = _demonstrations(run)
    wanted = config.sft.tasks
    if wanted is not None and wanted > len(trajectories):
        raise ConfigError(
            f"sft.tasks is {wanted}, but there are {len(trajectories)} demonstrations; raise expert.tasks"
        )
    history = trainings.train_on_demonstrations(
        config.model,
        trajectories[:wanted],
        settings=config.sft,
        prompt=config.prompt,
        precision=config.precision,
        seed=config.seed,
        output=run.directory.training(SFT),
    )
    gc.collect()
    return {"says": _training_line(history), "history": history}


def explore(run: Run) -> dict[str, Any]:
    """Stage 3: the SFT policy acts on training tasks."""
    config, settings = run.config, run.config.explore
    # The tasks the expert solved: without a demonstration there is nothing to prefer over a rollout.
    solved = {trajectory.task_id for trajectory in _demonstrations(run)}
    tasks = operations.list_tasks(config.environment, config.environment.train_split, config.expert.tasks)
    tasks = [task for task in tasks if task.id in solved][settings.skip :][: settings.tasks]
    if not tasks:
        raise ConfigError(
            f"explore.skip is {settings.skip}, which leaves none of {len(solved)} tasks; lower it"
        )
    report = operations.roll_out(
        run.directory.model(SFT),
        environment=config.environment,
        prompt=config.prompt,
        decoding=settings,
        jobs=operations.jobs_for(tasks, samples=settings.samples),
        path=run.directory.exploration,
        seed=config.seed,
        title="explore",
        temperature=settings.temperature,
        top_p=settings.top_p,
    )
    return {"says": report.describe(), "tasks": len(tasks), "collect": report.to_json()}


def build_pairs(run: Run) -> dict[str, Any]:
    """Stage 4: expert over worse rollout, the other way round where the rollout is better."""
    selection = write_pairs(
        _demonstrations(run),
        read_rollouts(run.directory.exploration),
        run.directory.pairs,
        settings=run.config.pairs,
        seed=run.config.seed,
    )
    return {
        "says": describe_selection(selection),
        "counts": selection.counts,
        "dropped": selection.dropped,
    }


def optimize(run: Run, method: str) -> dict[str, Any]:
    """Stage 5: a method trains on the pairs, from the SFT policy, which is also the frozen reference."""
    config = run.config
    history = trainings.train_on_pairs(
        str(run.directory.model(SFT)),
        read_pairs(run.directory.pairs),
        settings=config.method(method),
        prompt=config.prompt,
        precision=config.precision,
        seed=config.seed,
        output=run.directory.training(method),
        reference_cache=run.directory.reference,
    )
    gc.collect()
    return {"says": _training_line(history), "history": history}


def evaluate(run: Run, method: str, split: str) -> dict[str, Any]:
    """Stage 6: a policy plays held-out tasks, greedily."""
    config, settings = run.config, run.config.evaluate
    tasks = operations.list_tasks(config.environment, split, settings.tasks)
    report = operations.roll_out(
        run.directory.model(method),
        environment=config.environment,
        prompt=config.prompt,
        decoding=settings,
        jobs=operations.jobs_for(tasks),
        path=run.directory.evaluation(method, split),
        seed=config.seed,
        title=f"{method} on {split}",
    )
    return {"says": report.describe(), "tasks": len(tasks), "collect": report.to_json()}


def score_turns(run: Run) -> dict[str, Any]:
    """Stage 7: what every turn of some pairs is worth to the policies."""
    result = score_pairs(run.config, run.directory)
    run.manifest.stages.pop("report", None)  # one that was made without these figures is made again
    gc.collect()
    return result


def report(run: Run) -> dict[str, Any]:
    """Stage 8: the summary and the report."""
    build_report(run.config, run.directory, run.manifest)
    return {"says": str(run.directory.report)}


def _demonstrations(run: Run) -> list[Trajectory]:
    least = run.config.expert.min_reward
    return [t for t in read_rollouts(run.directory.expert) if t.reward is not None and t.reward >= least]


def _training_line(history: dict[str, Any]) -> str:
    last: dict[str, Any] = next((record for record in reversed(history["log"]) if "loss" in record), {})
    words = [f"loss {last['loss']:.3f}"] if last else []
    words += [f"accuracy {last['rewards/accuracies']:.2f}"] if "rewards/accuracies" in last else []
    return ", ".join([*words, *history.get("warnings", [])]) or "done"
