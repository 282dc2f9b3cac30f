"""One run from beginning to end; each stage is done once, however often the run is killed and restarted."""

from __future__ import annotations

import contextlib
import fcntl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from multiturn.errors import RunStateError
from multiturn.pipeline import stages
from multiturn.pipeline.config import SFT, Config
from multiturn.pipeline.manifest import Manifest
from multiturn.pipeline.results import show_results
from multiturn.pipeline.run_directory import RunDirectory
from multiturn.progress import duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["directory_of", "open_run", "plan", "run_pipeline"]

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
    console = Console(stderr=True, highlight=False)
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
    """The run that a configuration describes, begun now or earlier.

    Raises:
        RunStateError: Its folder holds a run of another configuration.
    """
    directory = directory_of(config)
    settings = config.model_dump(mode="json", exclude={"output"})
    return stages.Run(config, directory, Manifest.open(directory.manifest, settings))


def plan(run: stages.Run) -> Iterator[Stage]:
    """The stages of a run in their order."""
    config = run.config
    where = config.environment.name
    yield "expert", f"Expert plays {where}", lambda: stages.play_expert(run)
    yield "sft", "SFT on expert trajectories", lambda: stages.fine_tune(run)
    yield "explore", "The SFT policy explores training tasks", lambda: stages.explore(run)
    yield "pairs", "Preference pairs", lambda: stages.build_pairs(run)
    for method in config.methods:
        objective = config.method(method).objective
        data = "the pairs' chosen sides" if objective == "sft" else "the pairs"
        title = f"{objective.upper()} on {data} ({method})"
        yield f"train:{method}", title, _bind(stages.optimize, run, method)
    for split in config.environment.test_splits:
        for method in (SFT, *config.methods):
            work = _bind(stages.evaluate, run, method, split)
            yield f"evaluate:{method}:{split}", f"Evaluate {method} on {split}", work
    yield "turns", "Turns of the pairs under each policy", lambda: stages.score_turns(run)
    yield "report", "Results and report", lambda: stages.report(run)


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
