"""The checks that measure nothing: the folder, packages, tasks, the template, lengths, pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from multiturn.doctor.finding import note, ok, problem, warning
from multiturn.errors import DataError, MultiturnError, RunStateError
from multiturn.pairs.balance import length_warnings
from multiturn.pipeline import operations, trainings
from multiturn.pipeline.run import check_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from multiturn.doctor.finding import Finding
    from multiturn.doctor.patient import Patient
    from multiturn.pipeline.config import Config
    from multiturn.pipeline.train_settings import TrainSettings

__all__ = ["folder", "lengths", "packages", "pairs", "tasks", "template"]


def folder(patient: Patient) -> Iterator[Finding]:
    """Whether the run's folder takes this configuration."""
    where = patient.directory.root
    try:
        done = check_folder(patient.config)
    except RunStateError as error:
        yield problem(str(error), "give this run another folder with --set output=..., or its old settings")
        return
    if done:
        yield note(f"{where}: {len(done)} stages are done; the run goes on after {done[-1]}")
    else:
        yield ok(f"{where}: a new run")


def packages(patient: Patient) -> Iterator[Finding]:
    """What this machine must have: trackers, quantization, and what computes."""
    trainings.require_what_it_takes([patient.config.sft, *patient.config.trainings()])
    if torch.cuda.is_available():
        yield ok(f"computes on {torch.cuda.get_device_name()}")
    else:
        yield note(f"no GPU: computes on the CPU with {torch.get_num_threads()} threads")


def tasks(patient: Patient) -> Iterator[Finding]:
    """Whether the environment can be made and has the tasks that are asked for."""
    config = patient.config
    environment = config.environment
    wanted = [(environment.train_split, config.expert.tasks)]
    wanted += [(split, config.evaluate.tasks) for split in environment.test_splits]
    seen: dict[str, str] = {}
    for split, count in wanted:
        found = operations.list_tasks(environment, split, count)
        if not found:
            yield problem(f"split {split!r} of {environment.name} has no tasks", "choose another split")
            continue
        yield ok(f"{environment.name}: {len(found)} tasks of split {split!r}")
        both = [task.id for task in found if seen.get(task.id, split) != split]
        if both:
            yield warning(
                f"{len(both)} tasks of {split!r} are in {seen[both[0]]!r} as well, such as {both[0]!r}",
                "results on them say little about new tasks; choose splits without them",
            )
        seen |= {task.id: split for task in found}


def template(patient: Patient) -> Iterator[Finding]:
    """Whether the chat template takes the run's conversations, with every turn where it belongs."""
    refused: list[str] = []
    for trajectory in patient.trajectories:
        try:
            patient.renderer.render(trajectory.messages, where=trajectory.id)
        except MultiturnError as error:
            refused.append(str(error))
    count = len(patient.trajectories)
    if refused:
        yield problem(
            f"the chat template refuses {len(refused)} of {count} trajectories: {refused[0]}",
            "set prompt.chat_template to one that takes them",
        )
    elif count:
        yield ok(f"the chat template takes {count} of {count} trajectories")
    good = len(patient.demonstrations)
    if not good:
        yield problem(
            f"none of the expert's {count} trajectories reaches expert.min_reward "
            f"{patient.config.expert.min_reward}",
            "lower expert.min_reward",
        )


def lengths(patient: Patient) -> Iterator[Finding]:
    """Whether conversations fit into the model and the limits that are set."""
    tokens = [_length(patient, trajectory.messages) for trajectory in patient.demonstrations]
    if not tokens:
        return
    longest = max(tokens)
    yield ok(f"demonstrations have {sum(tokens) / len(tokens):.0f} tokens on average, {longest} at most")
    limits: list[tuple[str, TrainSettings]] = [("sft", patient.config.sft)]
    limits += [("preference", settings) for settings in patient.config.trainings()]
    for name, settings in dict(limits).items():
        limit = settings.max_length
        over = sum(length > limit for length in tokens) if limit is not None else 0
        if not over:
            continue
        said = f"{over} of {len(tokens)} demonstrations are longer than {name}.max_length {limit}"
        if settings.overlong == "error":
            yield problem(said, f"raise it, or set {name}.overlong to cut or drop")
        else:
            yield warning(f"{said}: overlong is {settings.overlong!r}", "raise it if memory allows")
    context = patient.tokenizer.model_max_length
    if longest > context:
        yield problem(
            f"the longest demonstration has {longest} tokens, and the model's context {context}",
            "set max_length to that and overlong to cut, or choose another model",
        )


def pairs(patient: Patient) -> Iterator[Finding]:
    """Whether the pairs, where there are some, are enough and balanced."""
    if not patient.pairs:
        yield note("no pairs yet; run this again once exploration is done")
        return
    count, most = len(patient.pairs), _largest_batch(patient.config)
    if most > count:
        yield warning(
            f"{count} pairs are fewer than a batch of {most}: an epoch is one step",
            "lower batch_size, or explore more tasks",
        )
    else:
        yield ok(f"{count} pairs")
    for said in length_warnings(patient.pairs):
        yield warning(said, "pairs.strategy: length-matched pairs sides of like length")


def _largest_batch(config: Config) -> int:
    return max((settings.batch_size for settings in config.trainings()), default=1)


def _length(patient: Patient, messages: Any) -> int:
    try:
        return len(patient.renderer.render(messages).token_ids)
    except DataError:
        return 0  # the template's check has said so
