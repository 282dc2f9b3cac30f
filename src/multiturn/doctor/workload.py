"""How much a run has to do and to keep, by its configuration alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from multiturn.pipeline.methods import BEST_OF_N, PREFERENCE, RFT, SFT
from multiturn.pipeline.train_settings import PreferenceSettings
from multiturn.training.objectives import find_objective

if TYPE_CHECKING:
    from multiturn.models import ModelFacts
    from multiturn.pipeline.config import Config, DecodingSettings
    from multiturn.pipeline.run_directory import RunDirectory
    from multiturn.pipeline.train_settings import TrainSettings

__all__ = [
    "TRAINED",
    "bytes_to_save",
    "demonstrations",
    "episodes_evaluated",
    "episodes_explored",
    "explorations",
    "least_memory",
    "most_pairs",
    "named_trainings",
    "played_stages",
    "reads_reference",
    "trained_weights",
]

_WEIGHT: Final = 4
"""Bytes of a weight in float32, in which models are loaded and saved."""
_QUANTIZED: Final = 0.6
"""Bytes of a weight in 4 bits, its share of the scales counted."""
TRAINED: Final = 12
"""Bytes of the gradient and the optimizer's two moments of a trained weight."""
_CHECKPOINT: Final = 12
"""Bytes that a trained weight takes in a checkpoint: itself and the two moments."""


def named_trainings(config: Config) -> dict[str, TrainSettings]:
    """The settings of every training, by the key of the configuration that they are changed with."""
    named: dict[str, TrainSettings] = {"sft": config.sft}
    for name in config.methods:
        if config.kind(name) == PREFERENCE:
            named[f"methods.{name}"] = config.method(name)
        elif config.kind(name) != BEST_OF_N:
            named[f"methods.{name}"] = config.rft(name)
    return named


def played_stages(config: Config) -> dict[str, DecodingSettings]:
    """How the policy answers in each stage of a run in which it plays, by the stage's key."""
    stages: dict[str, DecodingSettings] = {"explore": config.explore} if explorations(config) else {}
    return stages | {"evaluate": config.evaluate}


def explorations(config: Config) -> int:
    """How often training tasks are explored.

    Once by the SFT policy, for pairs and for rejection fine-tuning; in each later round by every method that
    is trained on pairs, with its own policy. The best of several samples needs none.
    """
    on_pairs = len(config.of_kind(PREFERENCE))
    first = 1 if on_pairs or config.of_kind(RFT) else 0
    return first + (config.rounds - 1) * on_pairs


def reads_reference(settings: TrainSettings) -> bool:
    """Whether a training needs the reference's log-probabilities.

    Raises:
        ConfigError: Its objective is somebody's own, and cannot be imported.
    """
    if not isinstance(settings, PreferenceSettings) or settings.objective == SFT:
        return False
    return find_objective(settings.objective).reads_reference


def trained_weights(settings: TrainSettings, facts: ModelFacts) -> int:
    """How many weights a training changes; an adapter's where it has one (as if on all linear layers)."""
    return facts.weights if settings.lora is None else settings.lora.rank * facts.linear_sides


def least_memory(config: Config, facts: ModelFacts) -> float:
    """The bytes that weights, gradients and optimizer take in the training that takes most of them."""
    return max(_held(settings, facts) for settings in named_trainings(config).values())


def _held(settings: TrainSettings, facts: ModelFacts) -> float:
    quantized = settings.lora is not None and settings.lora.quantization is not None
    held = facts.weights * (_QUANTIZED if quantized else _WEIGHT)
    trained = trained_weights(settings, facts)
    if settings.lora is not None:
        held += trained * _WEIGHT
    live = isinstance(settings, PreferenceSettings) and settings.reference == "live"
    if live and settings.lora is None and reads_reference(settings):
        held += facts.weights * _WEIGHT  # a frozen copy
    return held + trained * TRAINED


def bytes_to_save(config: Config, directory: RunDirectory, facts: ModelFacts) -> tuple[float, int]:
    """What the models that a run has not saved yet take, and how many they are.

    Checkpoints are removed when a training ends; while it runs there may be two for a moment.

    Args:
        config: The run's configuration.
        directory: Where it lies; models that are there already take no more room.
        facts: How large the model is.
    """
    trainings = named_trainings(config)
    names = [SFT, *(entry.name for entry in config.method_rounds() if config.kind(entry.method) != BEST_OF_N)]
    missing = [name for name in names if not directory.model(name).exists()]
    if not missing:
        return 0.0, 0
    kept = [trained_weights(settings, facts) for settings in trainings.values() if settings.checkpoints]
    checkpoint = _CHECKPOINT * max(kept, default=0)
    return len(missing) * facts.weights * _WEIGHT + 2.0 * checkpoint, len(missing)


def demonstrations(config: Config, tasks: int) -> int:
    """The demonstrations that SFT learns at most.

    Args:
        config: The run's configuration.
        tasks: Tasks of the split that is trained on.
    """
    return min(count for count in (config.sft.tasks, config.expert.tasks, tasks) if count is not None)


def episodes_explored(config: Config, tasks: int) -> int:
    """The episodes of one exploration at most (see `explorations`); `tasks` as for `demonstrations`."""
    left = max(0, min(config.expert.tasks or tasks, tasks) - config.explore.skip)
    return min(config.explore.tasks or left, left) * config.explore.samples


def most_pairs(config: Config, tasks: int) -> int:
    """The pairs of one exploration at most; `tasks` as for `demonstrations`.

    Of a task each attempt makes a pair with the expert's; or any two of them and the expert's do; or the
    strategy takes one pair.
    """
    samples = config.explore.samples
    each = {"expert-vs-rollout": samples, "all-above-margin": math.comb(samples + 1, 2)}
    of_a_task = min(each.get(config.pairs.strategy, 1), config.pairs.max_pairs_per_task or math.inf)
    return int(of_a_task) * (episodes_explored(config, tasks) // samples)


def episodes_evaluated(config: Config, tasks: dict[str, int]) -> int:
    """The episodes of all evaluations.

    Args:
        config: The run's configuration.
        tasks: Tasks of each test split.
    """
    each = sum(min(config.evaluate.tasks or count, count) for count in tasks.values())
    policies = 1 + sum(
        config.best_of_n(entry.method).samples if config.kind(entry.method) == BEST_OF_N else 1
        for entry in config.method_rounds()
    )
    return each * policies
