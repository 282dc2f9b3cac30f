"""Two runs side by side: one method of each, on the tasks that both evaluated."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING

from multiturn.errors import ConfigError, DataError, RunStateError
from multiturn.evaluation.compare import Comparison, compare
from multiturn.evaluation.evaluate import score_tasks
from multiturn.evaluation.power import Power, tasks_needed
from multiturn.pipeline.config import Config
from multiturn.pipeline.evaluations import is_best_of_n, read_evaluation
from multiturn.pipeline.load import validated
from multiturn.pipeline.manifest import Manifest
from multiturn.pipeline.methods import SFT
from multiturn.pipeline.run_directory import RunDirectory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from multiturn.trajectory import Trajectory

__all__ = ["RunComparison", "compare_episodes", "compare_runs"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunComparison:
    """How one policy differs from another on the tasks of a split that both evaluated.

    Attributes:
        split: The split.
        comparison: The paired difference, the first policy less the second.
        power: How many tasks would tell the two apart; None with fewer than two tasks.
        gained: Tasks that the first policy solved and the second did not; where success is not known, those
            with a higher reward.
        lost: The other way round.
        only_first: How many tasks only the first policy evaluated.
        only_second: How many only the second did.
        oracles: Which of the two is a best of several samples, chosen by the test's own reward.
        unfinished: Whose evaluation is not at its end. Its short episodes came first, so a comparison is of
            tasks that are no fair choice.
    """

    split: str
    comparison: Comparison
    power: Power | None
    gained: tuple[str, ...]
    lost: tuple[str, ...]
    only_first: int
    only_second: int
    oracles: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()


def compare_runs(
    first: Path,
    second: Path,
    *,
    methods: tuple[str | None, str | None] = (None, None),
    level: float = 0.95,
) -> list[RunComparison]:
    """Compare two runs, or two methods of one, split by split.

    Args:
        first: The folder of a run.
        second: The folder of the run it is compared with; it may be the same.
        methods: Which method of each, by its name in results; None takes the first one of its configuration.
        level: The confidence level of intervals.

    Raises:
        RunStateError: A folder holds no run, or one that has not evaluated the method.
        ConfigError: A run has no such method, or both are the same.
        DataError: The environments differ, or no task was evaluated by both.
    """
    runs = [_open(root) for root in (first, second)]
    chosen = [_method(run, method) for run, method in zip(runs, methods, strict=True)]
    if first.resolve() == second.resolve() and chosen[0] == chosen[1]:
        raise ConfigError(
            f"{first}: {chosen[0]} would be compared with itself; choose with --method-a and --method-b"
        )
    names = _names(runs, chosen)
    played = [config.environment.name for _, config in runs]
    if played[0] != played[1]:
        raise _other_environment(names, {played[0]}, {played[1]})
    shared = [split for split in runs[0][1].environment.test_splits if _evaluated(runs, chosen, split)]
    if not shared:
        raise RunStateError(
            f"{names[0]} and {names[1]} have evaluated no test split in common "
            f"({', '.join(runs[0][1].environment.test_splits)}; "
            f"{', '.join(runs[1][1].environment.test_splits)}); finish both runs with: multiturn run"
        )
    oracles = tuple(
        name
        for name, (_, config), method in zip(names, runs, chosen, strict=True)
        if is_best_of_n(config, method)
    )
    found = []
    for split in shared:
        sides = [
            read_evaluation(config, directory, method, split)
            for (directory, config), method in zip(runs, chosen, strict=True)
        ]
        compared = compare_episodes(sides[0], sides[1], names=names, split=split, level=level)
        unfinished = tuple(
            name
            for name, (directory, _), method in zip(names, runs, chosen, strict=True)
            if f"evaluate:{method}:{split}" not in Manifest.read(directory.manifest).stages
        )
        found.append(dataclasses.replace(compared, oracles=oracles, unfinished=unfinished))
    return found


def compare_episodes(
    first: Sequence[Trajectory],
    second: Sequence[Trajectory],
    *,
    names: tuple[str, str],
    split: str,
    level: float = 0.95,
) -> RunComparison:
    """Compare two policies on the tasks that both attempted.

    Args:
        first: The episodes of one policy.
        second: Those of the other.
        names: What the two are called.
        split: What the tasks are called together.
        level: The confidence level of intervals.

    Raises:
        DataError: The environments differ, or no task is left that both attempted.
    """
    environments = [{t.environment for t in side if t.environment} for side in (first, second)]
    if environments[0] != environments[1]:
        raise _other_environment(names, *environments)
    ours, theirs = ({t.task_id for t in side} for side in (first, second))
    both = ours & theirs
    if not both:
        raise DataError(f"{names[0]} and {names[1]} evaluated no task of {split} in common")
    sides = [[t for t in side if t.task_id in both] for side in (first, second)]
    comparison = compare(sides[0], sides[1], names=names, level=level)
    gained, lost = _flipped(sides[0], sides[1], comparison)
    differences = list(comparison.differences.values())
    return RunComparison(
        split=split,
        comparison=comparison,
        power=tasks_needed(differences, level=level) if len(differences) > 1 else None,
        gained=gained,
        lost=lost,
        only_first=len(ours - theirs),
        only_second=len(theirs - ours),
    )


def _flipped(
    first: Sequence[Trajectory], second: Sequence[Trajectory], comparison: Comparison
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Tasks that one side solved and the other did not."""
    ours, theirs = score_tasks(first), score_tasks(second)
    tasks = list(comparison.differences)
    if comparison.success is None:
        gains = comparison.differences
    else:
        gains = {task: (ours[task].success or 0.0) - (theirs[task].success or 0.0) for task in tasks}
    return (
        tuple(task for task in tasks if gains[task] > 0),
        tuple(task for task in tasks if gains[task] < 0),
    )


def _open(root: Path) -> tuple[RunDirectory, Config]:
    directory = RunDirectory(root)
    if not directory.manifest.is_file():
        raise RunStateError(f"{root}: holds no run (no {directory.manifest.name}); check the path")
    manifest = Manifest.read(directory.manifest)
    return directory, validated(Config, manifest.config, where=str(directory.manifest))


def _method(run: tuple[RunDirectory, Config], wanted: str | None) -> str:
    directory, config = run
    known = [*(entry.name for entry in config.method_rounds()), SFT]
    if wanted is not None and wanted not in known:
        raise ConfigError(f"{directory.root} has no method {wanted!r}; it has {', '.join(known)}")
    return wanted or known[0]


def _names(runs: Sequence[tuple[RunDirectory, Config]], methods: Sequence[str]) -> tuple[str, str]:
    """What the two are called: by their methods within a run, by their folders too across runs."""
    roots = [directory.root.resolve() for directory, _ in runs]
    if roots[0] == roots[1]:
        return methods[0], methods[1]
    depth = next(
        (n for n in itertools.count(1) if roots[0].parts[-n:] != roots[1].parts[-n:]),
        1,
    )
    first, second = (
        f"{'/'.join(root.parts[-depth:])}:{method}" for root, method in zip(roots, methods, strict=True)
    )
    return first, second


def _evaluated(runs: Sequence[tuple[RunDirectory, Config]], methods: Sequence[str], split: str) -> bool:
    return all(
        directory.evaluation(method, split).is_file()
        for (directory, _), method in zip(runs, methods, strict=True)
    )


def _other_environment(names: tuple[str, str], first: set[str], second: set[str]) -> DataError:
    ours, theirs = (", ".join(sorted(found)) or "an unnamed environment" for found in (first, second))
    return DataError(
        f"{names[0]} was evaluated in {ours} and {names[1]} in {theirs}; rewards of different environments "
        "do not compare: evaluate both in the same one"
    )
