"""The stages of a run: each reads what earlier ones left in the run's directory and leaves its own.

Those in which a policy plays are in `multiturn.pipeline.playing`.
"""

from __future__ import annotations

import dataclasses
import gc
from typing import TYPE_CHECKING, Any

from multiturn.errors import ConfigError, DataError
from multiturn.jsonl import read_pairs
from multiturn.pairs.successes import select_successes
from multiturn.pipeline import operations, trainings
from multiturn.pipeline.methods import PREFERENCE, RFT, SFT
from multiturn.pipeline.pair_scores import score_pairs
from multiturn.pipeline.pairing import describe_selection, write_pairs, write_pairs_if_any
from multiturn.pipeline.playing import demonstrations
from multiturn.pipeline.results import build_report
from multiturn.pipeline.rounds import begins_with, left_out
from multiturn.rollouts.store import read_rollouts
from multiturn.training.run import finished_history

if TYPE_CHECKING:
    from multiturn.pipeline.config import Config
    from multiturn.pipeline.manifest import Manifest
    from multiturn.pipeline.methods import MethodRound
    from multiturn.pipeline.run_directory import RunDirectory

__all__ = [
    "Run",
    "build_pairs",
    "fine_tune",
    "fine_tune_on_successes",
    "optimize",
    "pair_again",
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
    require_feasible(config)
    tasks = operations.list_tasks(config.environment, config.environment.train_split, config.expert.tasks)
    report = operations.roll_out_expert(
        environment=config.environment,
        prompt=config.prompt,
        jobs=operations.jobs_for(tasks),
        path=run.directory.expert,
        title="expert",
    )
    good = len(demonstrations(run))
    if not good:
        raise DataError(
            f"none of the expert's {len(tasks)} trajectories reaches expert.min_reward "
            f"{config.expert.min_reward}; lower it",
            path=run.directory.expert,
        )
    require_enough(config, good)
    return {
        "says": f"{good} of {len(tasks)} trajectories are demonstrations",
        "tasks": len(tasks),
        "demonstrations": good,
        "collect": report.to_json(),
    }


def fine_tune(run: Run) -> dict[str, Any]:
    """Stage 2: SFT on the expert's successful trajectories."""
    config, output = run.config, run.directory.training(SFT)
    history = finished_history(output) or trainings.train_on_demonstrations(
        config.model,
        demonstrations(run)[: config.sft.tasks],
        settings=config.sft,
        prompt=config.prompt,
        precision=config.precision,
        seed=config.seed,
        output=output,
    )
    gc.collect()
    return {"says": trainings.describe_training(history), "history": history}


def build_pairs(run: Run) -> dict[str, Any]:
    """Stage 4: expert over worse rollout, the other way round where the rollout is better."""
    selection = write_pairs(
        demonstrations(run),
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


def optimize(run: Run, entry: MethodRound) -> dict[str, Any]:
    """Stage 5: a method trains on its round's pairs.

    It starts from the SFT policy, or from what it was after the round before; that is the frozen reference
    too.
    """
    config, files = run.config, run.directory.round(entry)
    if ended := left_out(run.manifest, entry):
        return ended
    output = run.directory.training(entry.name)
    history = finished_history(output) or trainings.train_on_pairs(
        str(begins_with(run.directory, entry)),
        read_pairs(files.pairs),
        settings=config.method(entry.method),
        prompt=config.prompt,
        precision=config.precision,
        seed=config.seed,
        output=output,
        reference_cache=files.reference,
    )
    gc.collect()
    return {"says": trainings.describe_training(history), "history": history}


def fine_tune_on_successes(run: Run, method: str) -> dict[str, Any]:
    """Stage 5 of rejection fine-tuning: SFT on demonstrations and exploration's successes together."""
    config, settings = run.config, run.config.rft(method)
    shown = demonstrations(run)[: settings.tasks]
    successes = select_successes(
        read_rollouts(run.directory.exploration),
        shown,
        min_reward=config.expert.min_reward if settings.min_reward is None else settings.min_reward,
        max_per_task=settings.max_per_task,
    )
    output = run.directory.training(method)
    history = finished_history(output) or trainings.train_on_demonstrations(
        config.model if settings.start == "base" else str(run.directory.model(SFT)),
        [*shown, *successes.trajectories],
        settings=settings,
        prompt=config.prompt,
        precision=config.precision,
        seed=config.seed,
        output=output,
    )
    gc.collect()
    added = len(successes.trajectories)
    learned = f"{added} successes beside {len(shown)} demonstrations"
    return {
        "says": f"{learned}, {trainings.describe_training(history)}",
        "demonstrations": len(shown),
        "successes": added,
        "dropped": successes.dropped,
        "history": history,
    }


def pair_again(run: Run, entry: MethodRound) -> dict[str, Any]:
    """Pairs of a later round: as in the first, from the rollouts of the method's own policy.

    A policy that leaves nothing to prefer is no error: the method then ends with the round before.
    """
    if ended := left_out(run.manifest, entry):
        return ended
    files = run.directory.round(entry)
    selection = write_pairs_if_any(
        demonstrations(run),
        read_rollouts(files.exploration),
        files.pairs,
        settings=run.config.pairs,
        seed=run.config.seed,
    )
    says = describe_selection(selection)
    if not selection.pairs:
        says += f"; {entry.method} ends with round {entry.number - 1}"
    return {"says": says, "counts": selection.counts, "dropped": selection.dropped}


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


def require_feasible(config: Config) -> None:
    """Find out before any work whether a later stage would lack a package or a test split.

    Raises:
        MultiturnError: It would.
    """
    trainings.require_what_it_takes([config.sft, *config.trainings()])
    for split in config.environment.test_splits:
        operations.list_tasks(config.environment, split, config.evaluate.tasks)


def require_enough(config: Config, demonstrations: int) -> None:
    """Find out before any training whether a later stage would lack demonstrations.

    Raises:
        ConfigError: It would.
    """
    asked = {"sft.tasks": config.sft.tasks}
    asked |= {f"methods.{method}.tasks": config.rft(method).tasks for method in config.of_kind(RFT)}
    for key, wanted in asked.items():
        if wanted is not None and wanted > demonstrations:
            raise ConfigError(
                f"{key} is {wanted}, but there are {demonstrations} demonstrations; raise expert.tasks"
            )
    if config.explore.skip >= demonstrations and any(config.of_kind(kind) for kind in (PREFERENCE, RFT)):
        raise ConfigError(
            f"explore.skip is {config.explore.skip}, which leaves none of {demonstrations} tasks; lower it"
        )
