"""From a run's files to its summary, its report and the table on the terminal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.console import Console

from multiturn.errors import RunStateError
from multiturn.evaluation.compare import compare
from multiturn.evaluation.evaluate import summarize
from multiturn.jsonl import read_pairs
from multiturn.models.policy import CARD
from multiturn.pipeline.config import Config
from multiturn.pipeline.evaluations import evaluated
from multiturn.pipeline.load import validated
from multiturn.pipeline.manifest import Manifest, write_json
from multiturn.pipeline.methods import BEST_OF_N, PREFERENCE, RFT, SFT, MethodRound
from multiturn.pipeline.pair_scores import models_without_weights, read_pair_scores, score_pairs
from multiturn.pipeline.rounds import describe_rounds, left_out_warnings, reached
from multiturn.pipeline.run_directory import RunDirectory
from multiturn.reports.html import write_report
from multiturn.reports.summary import build_summary, describe_pairs
from multiturn.reports.table import format_table
from multiturn.training.model_card import add_results

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from multiturn.trajectory import PreferencePair, Trajectory

__all__ = ["build_report", "rebuild_report", "show_evaluation", "show_results"]


def build_report(config: Config, directory: RunDirectory, manifest: Manifest) -> None:
    """Write ``summary.json``, ``report.html`` and the figures in the models' cards from what stages left."""
    entries = reached(config, manifest)
    results = {
        split: {name: evaluated(config, directory, name, split) for name in (SFT, *(e.name for e in entries))}
        for split in config.environment.test_splits
    }
    episodes = {
        split: {name: found.episodes for name, found in by_name.items()} for split, by_name in results.items()
    }
    pairs = read_pairs(directory.pairs) if config.of_kind(PREFERENCE) else []
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
            split: {name: found.summary for name, found in by_name.items()}
            for split, by_name in results.items()
        },
        comparisons={
            split: [
                compare(found[ours], found[theirs], names=(ours, theirs))
                for ours, theirs in _compared(config, entries)
            ]
            for split, found in episodes.items()
        },
        baseline=SFT,
        pairs=_described(manifest, pairs) if config.of_kind(PREFERENCE) else None,
        rounds=describe_rounds(config, manifest),
        trainings=_trainings(config, manifest, entries),
        stages={name: facts for name, facts in manifest.stages.items() if name != "report"},
        warnings=left_out_warnings(config, manifest),
    )
    write_json(directory.summary, summary)
    _on_cards(directory, summary)
    write_report(
        summary,
        directory.report,
        episodes=episodes,
        pairs=pairs,
        pair_scores=read_pair_scores(directory.pair_scores, pairs),
    )


def _on_cards(directory: RunDirectory, summary: Mapping[str, Any]) -> None:
    """Show each policy's results in the card of its model."""
    environment = summary["run"]["environment"]
    rows: dict[str, list[dict[str, object]]] = {}
    for split, evaluations in summary["splits"].items():
        for name, figures in evaluations["methods"].items():
            reward = figures["reward"]
            rows.setdefault(name, []).append(
                {
                    "environment": environment,
                    "split": split,
                    "tasks": figures["tasks"],
                    "average reward": f"{reward['mean']:.3f}",
                    "95% interval": f"[{reward['low']:.3f}, {reward['high']:.3f}]",
                    "turns": f"{figures['turns']['mean']:.1f}",
                }
            )
    for name, results in rows.items():
        note = "Greedy replies; intervals by bootstrap over tasks."
        add_results(directory.model(name) / CARD, results, note=note)


def rebuild_report(root: Path, *, score: int | None = None) -> RunDirectory:
    """Make the summary and the report of a finished run again.

    Args:
        root: The run's folder.
        score: Score the turns of so many pairs first; None takes the scores that are there.

    Raises:
        RunStateError: The folder holds no run, or one whose stages are not all done; or weights are gone that
            the scores need.
    """
    directory = RunDirectory(root)
    if not directory.manifest.is_file():
        raise RunStateError(f"{root}: holds no run (no {directory.manifest.name}); check the path")
    manifest = Manifest.read(directory.manifest)
    config = validated(Config, manifest.config, where=str(directory.manifest))
    policies = [SFT, *(entry.name for entry in config.method_rounds())]
    needed = ["pairs"] if config.of_kind(PREFERENCE) else []
    needed += [f"evaluate:{name}:{split}" for split in config.environment.test_splits for name in policies]
    missing = [stage for stage in needed if stage not in manifest.stages]
    if missing:
        raise RunStateError(
            f"{root}: is not finished (missing: {', '.join(missing)}); "
            "run it again with its configuration first"
        )
    if score is not None:
        gone = models_without_weights(config, directory)
        if gone:
            raise RunStateError(
                f"{root}: pairs cannot be scored, the weights of {', '.join(gone)} are gone; leave "
                "--score-pairs out, and the scores that are there are shown"
            )
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
    console = Console(highlight=False, emoji=False)
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
    Console(highlight=False, emoji=False).print(format_table(summary))


def _environment(episodes: dict[str, dict[str, list[Trajectory]]]) -> str:
    """The environment's fingerprint, as the episodes carry it."""
    found = {t.environment for by_method in episodes.values() for ts in by_method.values() for t in ts}
    return ", ".join(sorted(found))


def _described(manifest: Manifest, pairs: Sequence[PreferencePair]) -> dict[str, Any]:
    made = manifest.stages["pairs"]["result"]
    return describe_pairs(pairs, counts=made["counts"], dropped=made["dropped"])


def _compared(config: Config, entries: Sequence[MethodRound]) -> list[tuple[str, str]]:
    """Who is compared with whom: all with SFT, the first method with the others, each round with the last.

    The first method is the first that is trained on pairs, where there is one.
    """
    against_sft = [(entry.name, SFT) for entry in entries]
    first = [*config.of_kind(PREFERENCE), *config.methods][0]
    between = [
        (MethodRound(first, entry.number).name, entry.name)
        for entry in entries
        if entry.method != first and MethodRound(first, entry.number) in entries
    ]
    rounds = [
        (entry.name, MethodRound(entry.method, entry.number - 1).name)
        for entry in entries
        if entry.number > 1
    ]
    return [*against_sft, *between, *rounds]


def _trainings(config: Config, manifest: Manifest, entries: Sequence[MethodRound]) -> dict[str, Any]:
    trainings = {SFT: {"objective": SFT, **manifest.stages[SFT]["result"]["history"]}}
    for entry in entries:
        kind = config.kind(entry.method)
        if kind == BEST_OF_N:
            continue
        history = manifest.stages[f"train:{entry.name}"]["result"]["history"]
        if kind == RFT:
            trainings[entry.name] = {"objective": SFT, **history}
            continue
        settings = config.method(entry.method)
        trainings[entry.name] = {
            "objective": settings.objective,
            "beta": None if settings.objective == "sft" else settings.beta,
            "gamma": settings.gamma if settings.objective == "dmpo" or settings.weighting else None,
            "weighting": settings.weighting,
            **history,
        }
    return trainings
