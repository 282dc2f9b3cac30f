"""The checks of what a run needs around it: its folder, packages, the machine, the environment."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from multiturn.doctor import workload
from multiturn.doctor.finding import note, ok, problem, warning
from multiturn.doctor.machine_memory import GIB
from multiturn.envs import registry
from multiturn.envs.isolation import START_SECONDS
from multiturn.errors import MultiturnError, RunStateError
from multiturn.memory import available_host_memory
from multiturn.pipeline import trainings
from multiturn.pipeline.run import check_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from multiturn.doctor.finding import Finding
    from multiturn.doctor.patient import Patient

__all__ = ["disk", "environment", "expert", "folder", "java", "machine", "packages"]

_SLOW_ON_CPU: Final = 10**9
"""Weights from which on nobody wants to train on a CPU."""
_JAVA_BYTES: Final = 600 * 2**20
"""What one ScienceWorld takes, roughly."""
_NEAR: Final = 0.5
"""A share of a deadline that is near it: other machines are slower, and so is this one at times."""
_DRIVER: Final = Path("/proc/driver/nvidia/version")


def folder(patient: Patient) -> Iterator[Finding]:
    """Whether the run's folder takes this configuration."""
    where = patient.directory.root
    there = _nearest(where)
    if not there.is_dir():
        lies = "is that file" if there == where else f"would lie below it ({where})"
        yield problem(
            f"{there}: is a file, and the run's folder {lies}",
            "set output to a folder, or move the file out of the way",
        )
        return
    if not os.access(there, os.W_OK | os.X_OK):
        yield problem(f"{there}: cannot be written to", "set output to a folder of your own")
        return
    if _locked(patient.directory.lock):
        yield warning(f"{where}: another process is working on this run", "wait for it, or stop it")
    try:
        done = check_folder(patient.config)
    except RunStateError as error:
        yield problem(str(error), "give this run another folder with --set output=..., or its old settings")
        return
    if done is None:
        yield ok(f"{where}: a new run")
    elif "report" in done:
        yield note(f"{where}: this run is finished; `multiturn run` shows its results again")
    else:
        yield note(
            f"{where}: {len(done)} stages are done; the run goes on after {done[-1] if done else 'none'}"
        )


def packages(patient: Patient) -> Iterator[Finding]:
    """Whether the packages that trainings ask for are there: trackers, quantization."""
    said = []
    for settings in (patient.config.sft, *patient.config.trainings()):
        try:
            trainings.require_what_it_takes([settings])
        except MultiturnError as error:
            said.append(str(error))
    for message in dict.fromkeys(said):
        yield problem(message, "install it, or leave the setting out")
    if not said:
        yield ok("the packages that the trainings ask for are there")


def machine(patient: Patient) -> Iterator[Finding]:
    """What computes, and whether the weights alone fit."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        yield ok(f"computes on {torch.cuda.get_device_name()}")
    elif _DRIVER.exists():
        yield warning(
            "this machine has an NVIDIA driver, but torch sees no GPU",
            "install a build of torch for CUDA, or look at CUDA_VISIBLE_DEVICES",
        )
    else:
        yield note(f"no GPU: computes on the CPU with {torch.get_num_threads()} threads")
    weights = patient.facts.weights
    if not on_gpu and weights > _SLOW_ON_CPU:
        yield warning(
            f"the model has {weights / 1e9:.1f} billion weights, and there is no GPU",
            "take a smaller model, or run this where there is one",
        )
    least = workload.least_memory(patient.config, patient.facts)
    free = torch.cuda.mem_get_info()[0] if on_gpu else available_host_memory()
    if free is None:
        yield note(f"training takes {least / GIB:.2f} GiB and more", least_bytes=least)
        return
    said = f"weights, gradients and optimizer take {least / GIB:.2f} GiB of {free / GIB:.1f} that are free"
    if least > free:
        yield problem(
            f"{said}, before any activation",
            "train an adapter (lora.rank), take a smaller model, or free memory",
            least_bytes=least,
            free_bytes=free,
        )
    else:
        yield ok(f"{said}; activations come on top", least_bytes=least, free_bytes=free)


def environment(patient: Patient) -> Iterator[Finding]:
    """Whether the environment can be made, in time, and has the tasks that are asked for."""
    config = patient.config
    settings = config.environment
    began = time.perf_counter()
    wanted = {settings.train_split: config.expert.tasks}
    wanted |= {split: config.evaluate.tasks for split in settings.test_splits if split not in wanted}
    seen: dict[str, str] = {}
    for split, count in wanted.items():
        try:
            found = patient.tasks(split)
        except MultiturnError as error:
            yield problem(str(error), "see the message; the run would end with it")
            continue
        yield from _enough(settings.name, split, len(found), count)
        both = [task.id for task in found if task.id in seen]
        if both:
            yield warning(
                f"{len(both)} tasks of {split!r} are in {seen[both[0]]!r} as well, such as {both[0]!r}",
                "results on them say little about new tasks; choose splits without them",
            )
        seen |= {task.id: split for task in found}
    seconds = (time.perf_counter() - began) / len(wanted)
    if settings.train_split in settings.test_splits:
        yield warning(
            f"{settings.train_split!r} is trained on and tested on",
            "results on it say little about new tasks; take it out of environment.test_splits",
        )
    if settings.train_split in wanted and seen:
        yield from _planned(patient)
    yield from _deadline(patient, seconds)


def expert(patient: Patient) -> Iterator[Finding]:
    """Whether the expert can play: a run begins with its episodes."""
    episodes = patient.expert
    if episodes.unplayed:
        yield problem(
            f"the expert cannot play: {episodes.unplayed}",
            "repair what the message names, or choose an environment with an expert; until then the other "
            "checks look at made-up conversations",
        )
        return
    looked = patient.trajectories
    partly = f", {looked.partly}: the longest, and others spread over all" if looked.partly else ""
    yield ok(f"the expert plays: {looked.total} trajectories ({episodes.source}{partly})")
    if episodes.failed:
        yield warning(
            f"the environment failed in {episodes.failed} of the expert's episodes, lastly: {episodes.fault}",
            "see the message; such episodes are neither demonstrations nor in any mean",
        )


def java(patient: Patient) -> Iterator[Finding]:
    """Whether ScienceWorld has its Java, and the memory for as many as are wanted."""
    settings = patient.config.environment
    if settings.name != "scienceworld":
        return
    from multiturn.envs.scienceworld.java import package_version, require_java

    version = package_version()
    path = require_java(str(settings.options.get("java", "bundled")))
    yield ok(f"scienceworld {version} with {path}")
    stages = workload.played_stages(patient.config).values()
    count = settings.workers or max(stage.slots for stage in stages)
    needed, free = count * _JAVA_BYTES, available_host_memory()
    if free is not None and needed > free:
        yield warning(
            f"{count} of them side by side take about {needed / GIB:.1f} GiB, and {free / GIB:.1f} are free",
            "set environment.workers lower",
        )


def disk(patient: Patient) -> Iterator[Finding]:
    """Whether the disk holds what the run still has to save."""
    needed, models = workload.bytes_to_save(patient.config, patient.directory, patient.facts)
    free = shutil.disk_usage(_nearest(patient.directory.root)).free
    said = f"{models} models and checkpoints take about {needed / GIB:.2f} GiB; {free / GIB:.1f} are free"
    figures = {"needed_bytes": needed, "free_bytes": free}
    if needed > free:
        yield problem(said, "make room, set output to another disk, or checkpoints to 0", **figures)
    else:
        yield ok(said, **figures)


def _enough(name: str, split: str, there: int, wanted: int | None) -> Iterator[Finding]:
    if not there:
        yield problem(f"split {split!r} of {name} has no tasks", "choose another split")
    elif wanted is not None and wanted > there:
        yield problem(
            f"{wanted} tasks asked for, but split {split!r} of {name} has {there}",
            "lower the number, or enlarge the split",
        )
    else:
        yield ok(f"{name}: {there} tasks of split {split!r}", tasks=there)


def _planned(patient: Patient) -> Iterator[Finding]:
    """Whether SFT and exploration have as many tasks as they ask for."""
    config = patient.config
    there = len(patient.tasks(config.environment.train_split))
    played = min(config.expert.tasks or there, there)
    asked = {"sft.tasks": config.sft.tasks} | {
        f"methods.{name}.tasks": config.rft(name).tasks for name in config.of_kind("rft")
    }
    for key, count in asked.items():
        if count is not None and count > played:
            yield problem(f"{key} is {count}, but the expert plays {played} tasks", f"lower {key}")
    if not workload.explorations(config):
        return
    left = played - config.explore.skip
    if left < 1:
        yield problem(
            f"explore.skip is {config.explore.skip}, which leaves none of {played} tasks", "lower it"
        )
    elif config.explore.tasks is not None and config.explore.tasks > left:
        yield warning(
            f"explore.tasks is {config.explore.tasks}, but {left} tasks are left to explore",
            "lower it, or raise expert.tasks",
        )


def _deadline(patient: Patient, seconds: float) -> Iterator[Finding]:
    settings = patient.config.environment
    if settings.ray is None and not registry.find(settings.name).isolated(settings.options):
        if "deadline" in settings.model_fields_set:
            yield note("environment.deadline has no effect: this environment lives in the run's own process")
        return
    granted = max(START_SECONDS, settings.deadline)
    said = f"making the environment and listing a split took {seconds:.1f} s"
    if seconds > _NEAR * granted:
        yield warning(
            f"{said}, and {granted:g} s are granted for making it",
            f"set environment.deadline above {granted:g}: several at once are slower, and what is late "
            "counts as hung",
            seconds=seconds,
        )
    else:
        yield ok(f"{said}, well below the {granted:g} s that are granted for making it", seconds=seconds)


def _locked(lock: Path) -> bool:
    """Whether a process holds a lock; nothing is left changed."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _nearest(path: Path) -> Path:
    """The path, or the folder above it that is there."""
    return next(each for each in (path, *path.absolute().parents) if each.exists())
