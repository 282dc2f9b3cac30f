"""Which rounds of a run there are, and what its manifest knows of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from multiturn.pipeline.methods import SFT, MethodRound

if TYPE_CHECKING:
    from pathlib import Path

    from multiturn.pipeline.config import Config
    from multiturn.pipeline.manifest import Manifest
    from multiturn.pipeline.run_directory import RunDirectory

__all__ = ["begins_with", "describe_rounds", "left_out", "left_out_warnings", "reached"]


def begins_with(directory: RunDirectory, entry: MethodRound) -> Path:
    """The model that a round of a method begins with: the SFT policy, then its own of the round before."""
    if entry.number == 1:
        return directory.model(SFT)
    return directory.model(MethodRound(entry.method, entry.number - 1).name)


def left_out(manifest: Manifest, entry: MethodRound) -> dict[str, Any] | None:
    """What a stage of a round leaves that there is not, because one before it made no pair; else None."""
    number = _ended_in(manifest, entry)
    return None if number is None else {"says": f"left out: round {number} made no pair"}


def reached(config: Config, manifest: Manifest) -> list[MethodRound]:
    """The policies that a finished run has beside SFT's, in the order of its results."""
    return [entry for entry in config.method_rounds() if _ended_in(manifest, entry) is None]


def describe_rounds(config: Config, manifest: Manifest) -> list[dict[str, Any]]:
    """What the later rounds worked with.

    Returns:
        For each round from the second on of each method, up to one that made no pair: ``name``, ``method``,
        ``round``, ``counts`` and ``dropped`` (see `multiturn.pairs.selection.Selection`).
    """
    found = []
    for entry in config.method_rounds():
        before = MethodRound(entry.method, entry.number - 1)
        if entry.number > 1 and _ended_in(manifest, before) is None:
            made = manifest.stages[f"pairs:{entry.name}"]["result"]
            found.append(
                {
                    "name": entry.name,
                    "method": entry.method,
                    "round": entry.number,
                    "counts": made["counts"],
                    "dropped": made["dropped"],
                }
            )
    return found


def left_out_warnings(config: Config, manifest: Manifest) -> list[str]:
    """What whoever reads the results must know of rounds that there are not."""
    warnings = []
    for method in config.methods:
        number = _ended_in(manifest, MethodRound(method, config.rounds))
        if number is not None:
            only = number == config.rounds
            missing = f"round {number} is" if only else f"rounds {number} to {config.rounds} are"
            warnings.append(
                f"{method}: no rollout of round {number} made a preference pair, so {missing} left out."
            )
    return warnings


def _ended_in(manifest: Manifest, entry: MethodRound) -> int | None:
    """The round whose exploration made no pair, where it is this one or one before; None where there is none.

    Args:
        manifest: What is done already.
        entry: A method and a round.
    """
    for number in range(2, entry.number + 1):
        stage = manifest.stages.get(f"pairs:{MethodRound(entry.method, number).name}")
        counts = {} if stage is None else stage["result"].get("counts", {})
        if counts.get("pairs") == 0:
            return number
    return None
