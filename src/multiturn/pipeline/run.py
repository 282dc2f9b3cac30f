"""One run from beginning to end; each stage is done once, however often the run is killed and restarted."""

from __future__ import annotations

import contextlib
import fcntl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from multiturn.errors import RunStateError
from multiturn.pipeline import playing, stages
from multiturn.pipeline.extension import completed, extension, settings_of
from multiturn.pipeline.manifest import Manifest
from multiturn.pipeline.methods import BEST_OF_N, PREFERENCE, RFT, SFT, MethodRound
from multiturn.pipeline.results import show_results
from multiturn.pipeline.run_directory import RunDirectory
from multiturn.progress import duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from multiturn.pipeline.config import Config

__all__ = ["check_folder", "directory_of", "open_run", "plan", "run_pipeline"]

Stage = tuple[str, str, "Callable[[], dict[str, Any]]"]
"""A stage's name, what it says it does, and the work itself."""


def run_pipeline(config: Config) -> Path:
    """Do whatever of a run is not done yet.

    Args:
        config: The run's configuration.

    Returns:
        The report's path.

    Raises:
        RunStateError: The folder holds a run of another configuration, or another process works in it.
    """
    console = Console(stderr=True, highlight=False, emoji=False)
    # The lock comes first: what another process has done meanwhile stands in the manifest that is read then.
    with _only_one(directory_of(config)):
        run = open_run(config)
        todo = list(plan(run))
        for number, (name, description, work) in enumerate(todo, start=1):
            label = f"[{number}/{len(todo)}] {description}"
            if name in run.manifest.stages:
                console.print(f"{label}: done before", style="dim", markup=False)
                continue
            console.print(label, style="bold", markup=False)
            began = time.monotonic()
            result = work()
            run.manifest.finish(name, seconds=time.monotonic() - began, result=result)
            seconds = run.manifest.stages[name]["seconds"]
            console.print(
                f"    {result.get('says', 'done')} ({duration(seconds)})", style="dim", markup=False
            )
    show_results(run.directory)
    return run.directory.report


def directory_of(config: Config) -> RunDirectory:
    """Where a configuration's run lies."""
    return RunDirectory(Path(config.output or f"runs/{config.name}-seed{config.seed}"))


def open_run(config: Config) -> stages.Run:
    """The run that a configuration describes, begun now or earlier; one that it adds to is extended.

    Raises:
        RunStateError: Its folder holds a run of another configuration.
    """
    directory, settings = directory_of(config), settings_of(config)
    if directory.manifest.exists():
        manifest = Manifest.read(directory.manifest)
        if (again := extension(manifest, directory, settings)) is not None:
            # Before anything is written: what cannot be done should not become the run's.
            stages.require_feasible(config)
            if "expert" in manifest.stages:
                stages.require_enough(config, manifest.stages["expert"]["result"]["demonstrations"])
            manifest.extend(settings, again=again)
    manifest = Manifest.open(directory.manifest, settings, complete=completed)
    return stages.Run(config, directory, manifest)


def check_folder(config: Config) -> list[str] | None:
    """The stages that are done in a configuration's folder; None where no run has begun. Nothing is written.

    Raises:
        RunStateError: It holds a run of another configuration.
    """
    directory, settings = directory_of(config), settings_of(config)
    if not directory.manifest.exists():
        return None
    manifest = Manifest.read(directory.manifest)
    again = extension(manifest, directory, settings)
    if again is None:
        manifest.takes(settings, complete=completed)
    return [name for name in manifest.stages if name not in (again or ())]


def plan(run: stages.Run) -> Iterator[Stage]:
    """The stages of a run in their order."""
    config = run.config
    where = config.environment.name
    yield "expert", f"Expert plays {where}", lambda: stages.play_expert(run)
    yield "sft", "SFT on expert trajectories", lambda: stages.fine_tune(run)
    on_pairs = config.of_kind(PREFERENCE)
    if on_pairs or config.of_kind(RFT):
        yield "explore", "The SFT policy explores training tasks", lambda: playing.explore(run)
    if on_pairs:
        yield "pairs", "Preference pairs", lambda: stages.build_pairs(run)
    for method in config.methods:
        if config.kind(method) == PREFERENCE:
            yield _training(run, MethodRound(method))
        elif config.kind(method) == RFT:
            title = f"SFT on demonstrations and exploration's successes ({method})"
            yield f"train:{method}", title, _bind(stages.fine_tune_on_successes, run, method)
    for number in range(2, config.rounds + 1):
        for method in on_pairs:
            yield from _round(run, MethodRound(method, number))
    for split in config.environment.test_splits:
        yield f"evaluate:{SFT}:{split}", f"Evaluate {SFT} on {split}", _bind(playing.evaluate_sft, run, split)
        for entry in config.method_rounds():
            title = f"Evaluate {entry.name} on {split}"
            if config.kind(entry.method) == BEST_OF_N:
                title += f" ({config.best_of_n(entry.method).samples} samples a task)"
            yield f"evaluate:{entry.name}:{split}", title, _bind(playing.evaluate, run, entry, split)
    if on_pairs:
        yield "turns", "Turns of the pairs under each policy", lambda: stages.score_turns(run)
    yield "report", "Results and report", lambda: stages.report(run)


def _training(run: stages.Run, entry: MethodRound) -> Stage:
    objective = run.config.method(entry.method).objective
    data = "the pairs' chosen sides" if objective == "sft" else "the pairs"
    title = f"{objective.upper()} on {data} ({entry.name})"
    return f"train:{entry.name}", title, _bind(stages.optimize, run, entry)


def _round(run: stages.Run, entry: MethodRound) -> Iterator[Stage]:
    """The stages of a later round of a method, but for its evaluation."""
    before = MethodRound(entry.method, entry.number - 1).name
    title = f"Round {entry.number}: {before} explores training tasks"
    yield f"explore:{entry.name}", title, _bind(playing.explore_again, run, entry)
    title = f"Preference pairs of round {entry.number} ({entry.method})"
    yield f"pairs:{entry.name}", title, _bind(stages.pair_again, run, entry)
    yield _training(run, entry)


def _bind(work: Callable[..., dict[str, Any]], *arguments: Any) -> Callable[[], dict[str, Any]]:
    return lambda: work(*arguments)


@contextlib.contextmanager
def _only_one(directory: RunDirectory) -> Iterator[None]:
    """Keep two processes from working on one run; the lock goes when the process does."""
    directory.root.mkdir(parents=True, exist_ok=True)
    with directory.lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunStateError(
                f"{directory.root}: another process is working on this run; wait for it, or stop it"
            ) from None
        yield
