"""``multiturn pairs``: preference pairs from trajectories."""

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from multiturn.cli import options, reading
from multiturn.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiturn.formats import ReadOptions
    from multiturn.trajectory import Trajectory

__all__ = ["pairs"]

_LOG = logging.getLogger(__name__)


def pairs(
    trajectories: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", help="Scored trajectories in any format: `docs/data.md`."),
    ] = None,
    *,
    experts: Annotated[Path | None, typer.Option(help="The expert's trajectories, in any format.")] = None,
    rollouts: Annotated[
        Path | None, typer.Option(help="A policy's trajectories on the same tasks; the same as FILE.")
    ] = None,
    output: options.Output,
    strategy: Annotated[
        str | None,
        typer.Option(
            help="expert-vs-rollout (with --experts), best-vs-worst (without), all-above-margin, "
            "length-matched or first-divergence."
        ),
    ] = None,
    shared_turns: Annotated[
        str,
        typer.Option(help="Turns that both sides share: score them, or make them context (the prompt)."),
    ] = "score",
    min_gap: Annotated[float, typer.Option(min=0.0, help="The least difference of returns in a pair.")] = 0.0,
    max_pairs_per_task: Annotated[
        int | None, typer.Option(min=1, help="Keep so many pairs of a task.")
    ] = None,
    noise: Annotated[
        str, typer.Option(help="keep, or drop pairs whose dispreferred side is repetitive or meaningless.")
    ] = "keep",
    expert_reward: Annotated[
        float | None, typer.Option(help="The return of expert trajectories that say none.")
    ] = None,
    held_out: Annotated[
        list[Path] | None,
        typer.Option(help="Trajectories of tasks for evaluation; a warning names tasks that are in both."),
    ] = None,
    given_format: reading.Source = None,
    skip_bad: reading.SkipBad = False,
    reward_field: reading.RewardField = None,
    dataset_split: reading.DatasetSplit = None,
    seed: options.Seed = 0,
) -> None:
    """Prefer the expert over a worse rollout of the same task, and the rollout where it is the better one.

    Without `--experts` the trajectories of a task are paired among themselves, by their returns. Attempts
    are at the same task where their `task_id` is the same or, where they have none, their prompt. Ties and
    everything else that makes no pair are counted by reason; a warning says where one side is longer by
    much.

    Example: `multiturn pairs --experts expert.jsonl --rollouts rollouts.jsonl --output pairs.jsonl`

    Example: `multiturn pairs logs.jsonl --strategy length-matched --min-gap 0.2 --output pairs.jsonl`
    """
    from multiturn.formats import ReadOptions
    from multiturn.pairs.balance import overlap_warnings
    from multiturn.pipeline.config import PairsSettings
    from multiturn.pipeline.pairing import describe_selection, write_pairs

    files = [*(trajectories or ()), *([] if rollouts is None else [rollouts])]
    chosen = {
        "strategy": _strategy(strategy, experts, files),
        "shared_turns": shared_turns,
        "min_gap": min_gap,
        "max_pairs_per_task": max_pairs_per_task,
        "noise": noise,
    }
    settings = options.settings_from(PairsSettings, (), chosen)
    given = ReadOptions(
        source=given_format, skip_bad=skip_bad, reward_field=reward_field, split=dataset_split
    )
    ours = _read_all(files, given)
    theirs = [] if experts is None else _experts(experts, given, expert_reward)
    others = {str(path): reading.read_trajectories(path, given) for path in held_out or ()}
    selection = write_pairs(theirs, ours, output, settings=settings, seed=seed)
    for warning in overlap_warnings([*theirs, *ours], others):
        _LOG.warning("%s: %s", output, warning)
    typer.echo(f"{output}: {describe_selection(selection)}")


def _strategy(strategy: str | None, experts: Path | None, files: "Sequence[Path]") -> str:
    """The strategy that is meant.

    Raises:
        ConfigError: There is nothing to pair.
    """
    if not files and experts is None:
        raise ConfigError("there is nothing to pair; name files of trajectories, or --experts and --rollouts")
    if strategy is None:
        strategy = "best-vs-worst" if experts is None else "expert-vs-rollout"
    if strategy == "expert-vs-rollout" and (experts is None or not files):
        raise ConfigError(
            "--strategy expert-vs-rollout pairs a rollout with an expert's trajectory; give both --experts "
            "and --rollouts"
        )
    return strategy


def _experts(path: Path, given: "ReadOptions", reward: float | None) -> "list[Trajectory]":
    import dataclasses

    if reward is not None and not math.isfinite(reward):
        raise ConfigError(f"--expert-reward is {reward}; give a finite number")
    return [
        dataclasses.replace(expert, reward=reward) if expert.reward is None else expert
        for expert in reading.read_trajectories(path, given)
    ]


def _read_all(files: "Sequence[Path]", given: "ReadOptions") -> "list[Trajectory]":
    """The trajectories of all files. Where two files have the same id, ids get their file's name in front."""
    import dataclasses

    read = {path: reading.read_trajectories(path, given) for path in dict.fromkeys(files)}
    ids = [name for found in read.values() for name in {t.id for t in found}]
    if len(set(ids)) == len(ids):
        return [t for found in read.values() for t in found]
    return [dataclasses.replace(t, id=f"{path}:{t.id}") for path, found in read.items() for t in found]
