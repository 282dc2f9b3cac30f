"""From a run's files to its summary, its report and the table on the terminal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.console import Console

from multiturn.errors import RunStateError
from multiturn.evaluation.compare import compare
from multiturn.evaluation.evaluate import summarize
from multiturn.jsonl import read_pairs
from multiturn.pipeline.config import SFT, Config
from multiturn.pipeline.load import validated
from multiturn.pipeline.manifest import Manifest, write_json
from multiturn.pipeline.pair_scores import read_pair_scores, score_pairs
from multiturn.pipeline.run_directory import RunDirectory
from multiturn.reports.html import write_report
from multiturn.reports.summary import build_summary, describe_pairs
from multiturn.reports.table import format_table
from multiturn.rollouts.store import read_rollouts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from multiturn.trajectory import Trajectory

__all__ = ["build_report", "rebuild_report", "show_evaluation", "show_results"]


def build_report(config: Config, directory: RunDirectory, manifest: Manifest) -> None:
    """Write ``summary.json`` and ``report.html`` from what the stages left."""
    methods = [SFT, *config.methods]
    episodes = {
        split: {method: read_rollouts(directory.evaluation(method, split)) for method in methods}
        for split in config.environment.test_splits
    }
    pairs = read_pairs(directory.pairs)
    made = manifest.stages["pairs"]["result"]
    summary = build_summary(
        run={
            "name": config.name,
            "environment": _environment(episodes),
            "model": config.model if isinstance(config.model, str) else "scratch",
            "seed": config.seed,
            "config": manifest.config,
            "versions": manifest.versions,
            "git_commit": manifest.git_commit,
            "created": manifest.created,
        },
        evaluations={
            split: {method: summarize(found) for method, found in by_method.items()}
            for split, by_method in episodes.items()
        },
        comparisons={
            split: [
                *(compare(found[method], found[SFT], names=(method, SFT)) for method in config.methods),
                *_between(list(config.methods), found),
            ]
            for split, found in episodes.items()
        },
        baseline=SFT,
        pairs=describe_pairs(pairs, counts=made["counts"], dropped=made["dropped"]),
        trainings=_trainings(config, manifest),
        stages={name: facts for name, facts in manifest.stages.items() if name != "report"},
    )
    write_json(directory.summary, summary)
    write_report(
        summary,
        directory.report,
        episodes=episodes,
        pairs=pairs,
        pair_scores=read_pair_scores(directory.pair_scores, pairs),
    )


def rebuild_report(root: Path, *, score: int | None = None) -> RunDirectory:
    """Make the summary and the report of a finished run again.

    Args:
        root: The run's folder.
        score: Score the turns of so many pairs first; None takes the scores that are there.

    Raises:
        RunStateError: The folder holds no run, or one whose stages are not all done.
    """
    directory = RunDirectory(root)
    if not directory.manifest.is_file():
        raise RunStateError(f"{root}: holds no run (no {directory.manifest.name}); check the path")
    manifest = Manifest.read(directory.manifest)
    config = validated(Config, manifest.config, where=str(directory.manifest))
    missing = [
        stage
        for split in config.environment.test_splits
        for stage in ("pairs", *(f"evaluate:{method}:{split}" for method in (SFT, *config.methods)))
        if stage not in manifest.stages
    ]
    if missing:
        raise RunStateError(
            f"{root}: is not finished (missing: {', '.join(dict.fromkeys(missing))}); "
            "run it again with its configuration first"
        )
    if score is not None:
        score_pairs(config, directory, limit=score)
    build_report(config, directory, manifest)
    return directory


def show_results(directory: RunDirectory) -> None:
    """Print the table of a finished run and where its report lies.

    Raises:
        RunStateError: The summary was deleted.
    """
    if not directory.summary.is_file():
        raise RunStateError(
            f"{directory.summary}: is missing; make it again with: multiturn report {directory.root}"
        )
    summary = json.loads(directory.summary.read_text(encoding="utf-8"))
    console = Console(highlight=False)
    console.print()
    console.print(format_table(summary))
    console.print(summary["headline"], markup=False)
    for warning in summary["warnings"]:
        console.print(f"warning: {warning}", style="yellow", markup=False)
    console.print(f"report: {directory.report}", markup=False, soft_wrap=True)


def show_evaluation(name: str, trajectories: Sequence[Trajectory]) -> None:
    """Print the figures of one policy's evaluation.

    Args:
        name: What the policy is called.
        trajectories: Its episodes.

    Raises:
        DataError: They cannot be averaged: there are none, for example.
    """
    figures = summarize(trajectories)
    split = trajectories[0].split or "tasks"
    summary = build_summary(run={"name": name}, evaluations={split: {name: figures}}, baseline=name)
    Console(highlight=False).print(format_table(summary))


def _environment(episodes: dict[str, dict[str, list[Trajectory]]]) -> str:
    """The environment's fingerprint, as the episodes carry it."""
    found = {t.environment for by_method in episodes.values() for ts in by_method.values() for t in ts}
    return ", ".join(sorted(found))


def _between(methods: list[str], episodes: dict[str, list[Trajectory]]) -> list[Any]:
    """The first method against each of the others."""
    first, *others = methods
    return [compare(episodes[first], episodes[other], names=(first, other)) for other in others]


def _trainings(config: Config, manifest: Manifest) -> dict[str, Any]:
    trainings = {SFT: {"objective": SFT, **manifest.stages[SFT]["result"]["history"]}}
    for name in config.methods:
        settings = config.method(name)
        trainings[name] = {
            "objective": settings.objective,
            "beta": None if settings.objective == "sft" else settings.beta,
            "gamma": settings.gamma if settings.objective == "dmpo" or settings.weighting else None,
            "weighting": settings.weighting,
            **manifest.stages[f"train:{name}"]["result"]["history"],
        }
    return trainings
