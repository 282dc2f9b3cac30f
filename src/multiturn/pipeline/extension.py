"""What may still be changed of a run: the methods, rounds and test splits of which nothing is done yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from multiturn.pipeline.config import Config
from multiturn.pipeline.methods import PREFERENCE

if TYPE_CHECKING:
    from multiturn.pipeline.manifest import Manifest
    from multiturn.pipeline.methods import MethodRound
    from multiturn.pipeline.run_directory import RunDirectory

__all__ = ["completed", "extension", "settings_of"]


def settings_of(config: Config) -> dict[str, Any]:
    """What decides what a run does: all of its configuration but where it lies."""
    return config.model_dump(mode="json", exclude={"output"})


def completed(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that an older version wrote, with what it did not know at its defaults."""
    try:
        return settings_of(Config.model_validate(settings))
    except ValidationError:
        return settings  # then they differ, and each difference is shown


def extension(manifest: Manifest, directory: RunDirectory, settings: dict[str, Any]) -> set[str] | None:
    """Whether settings only change of a run what has not begun, and which stages have to be done again.

    Args:
        manifest: The run's manifest.
        directory: Its folder.
        settings: The `settings_of` another configuration.

    Returns:
        The stages that are done and tell of all that a run has; None where the settings are the run's own, or
        those of another run.
    """
    own = completed(manifest.config)
    if own == settings:
        return None
    try:
        old, new = Config.model_validate(own), Config.model_validate(settings)
    except ValidationError:
        return None
    splits = [split for split in old.environment.test_splits if _evaluated(directory, split)]
    begun = [entry for entry in old.method_rounds() if _begun(manifest, directory, entry, splits)]
    methods = {entry.method for entry in begun}
    rounds = max((entry.number for entry in begun), default=1)
    free = {"methods": settings["methods"], "rounds": settings["rounds"]}
    environment = {**own["environment"], "test_splits": settings["environment"]["test_splits"]}
    if (
        own | free | {"environment": environment} != settings
        or any(own["methods"][method] != settings["methods"].get(method) for method in methods)
        or not set(splits) <= set(new.environment.test_splits)
        or new.rounds < rounds
    ):
        return None
    same = old.of_kind(PREFERENCE) == new.of_kind(PREFERENCE)
    return {"report"} if same else {"report", "turns"}


def _begun(manifest: Manifest, directory: RunDirectory, entry: MethodRound, splits: list[str]) -> bool:
    """Whether a round of a method has left anything: a stage, a training, episodes."""
    files = [directory.training(entry.name), *(directory.evaluation(entry.name, split) for split in splits)]
    if entry.number > 1:
        files.append(directory.round(entry).exploration)
    return f"train:{entry.name}" in manifest.stages or any(file.exists() for file in files)


def _evaluated(directory: RunDirectory, split: str) -> bool:
    episodes = directory.evaluation("*", split)
    return any(episodes.parent.glob(episodes.name))
