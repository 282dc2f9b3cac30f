"""Finding the checkpoint to go on from, whatever moment an earlier run was killed at."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from transformers import TrainerState
from transformers.utils import logging as transformers_logging

from multiturn.errors import ConfigError, RunStateError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from multiturn.trajectory import Json

__all__ = [
    "check_identity",
    "checkpoint_to_resume",
    "is_complete",
    "latest_checkpoint",
    "no_shard_bars",
    "note_identity",
    "recorded_seconds",
    "remove_checkpoints",
    "remove_stale",
]

STATE_FILE: Final = "trainer_state.json"
IDENTITY_FILE: Final = "training.json"
NEEDED: Final = ("optimizer.pt", "scheduler.pt")
"""Files without which a checkpoint cannot be resumed exactly; engines that shard write others."""
SHARDED_STATES: Final = ("optimizer.bin", "optimizer_*", "global_step*")

_NAME: Final = re.compile(r"checkpoint-(\d+)")


def latest_checkpoint(output_dir: Path | str) -> Path | None:
    """The complete checkpoint with the most steps, or None.

    Args:
        output_dir: The folder a trainer saves in.
    """
    found = [(step, path) for step, path in _checkpoints(Path(output_dir)) if is_complete(path)]
    return max(found)[1] if found else None


def is_complete(checkpoint: Path | str) -> bool:
    """Whether a checkpoint was written to its end.

    The trainer writes the state file last, so a readable state file that names the folder's own step says
    that everything before it is there.
    """
    checkpoint = Path(checkpoint)
    match = _NAME.fullmatch(checkpoint.name)
    try:
        state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(state, dict) or (match and state.get("global_step") != int(match[1])):
        return False
    sharded = any(True for pattern in SHARDED_STATES for _ in checkpoint.glob(pattern))
    return sharded or all((checkpoint / name).is_file() for name in NEEDED)


def checkpoint_to_resume(output_dir: Path, *, requested: str | bool | None) -> Path | None:
    """The checkpoint that a trainer's `resume_from_checkpoint` means.

    Args:
        output_dir: The folder the trainer saves in.
        requested: None or False for none, True for the latest complete one, or a path.

    Raises:
        ConfigError: There is no complete checkpoint there.
    """
    if not requested:
        return None
    if isinstance(requested, str):
        if not is_complete(requested):
            raise ConfigError(
                f"{requested} is not a complete checkpoint (it may have been killed while it was written); "
                "resume_from_checkpoint=True takes the latest complete one"
            )
        return Path(requested)
    found = latest_checkpoint(output_dir)
    if found is None:
        raise ConfigError(
            f"there is no complete checkpoint in {output_dir} to resume from; start anew with "
            "resume_from_checkpoint=None"
        )
    return found


def note_identity(checkpoint: Path, identity: Mapping[str, Json]) -> None:
    """Write into a checkpoint that is about to be saved which training it belongs to.

    Args:
        checkpoint: Its folder; made if it is not there.
        identity: What must be the same for the checkpoint to be gone on from.
    """
    checkpoint.mkdir(parents=True, exist_ok=True)
    (checkpoint / IDENTITY_FILE).write_text(json.dumps(identity, indent=1), encoding="utf-8")


def check_identity(checkpoint: Path, identity: Mapping[str, Json]) -> None:
    """Refuse to go on from a checkpoint of another training.

    Every checkpoint says itself what it belongs to: trainings that share a folder may have left some each.

    Args:
        checkpoint: Its folder.
        identity: What must be the same.

    Raises:
        RunStateError: Something differs; the message says what.
    """
    path = checkpoint / IDENTITY_FILE
    if not path.is_file():
        return
    earlier = json.loads(path.read_text(encoding="utf-8"))
    changed = [key for key, value in identity.items() if earlier.get(key) != value]
    if changed:
        differences = "; ".join(f"{key}: {earlier.get(key)} then, {identity[key]} now" for key in changed)
        raise RunStateError(
            f"{checkpoint} belongs to another training ({differences}); give the same initial model, data "
            "and settings again, or use another output_dir"
        )


def recorded_seconds(checkpoint: Path) -> float:
    """The seconds of training up to a checkpoint, as its last record says."""
    state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
    return max((float(record["seconds"]) for record in state.log_history if "seconds" in record), default=0.0)


def remove_checkpoints(output_dir: Path | str) -> None:
    """Delete every checkpoint, complete or not; done when a training has reached its end."""
    for _, path in _checkpoints(Path(output_dir)):
        _remove(path)


def remove_stale(output_dir: Path, step: int) -> None:
    """Delete what an earlier run left in the place of the checkpoint that is about to be written.

    A checkpoint counts as complete by the file that is written last; an old one would vouch for a
    half-written successor.
    """
    _remove(output_dir / f"checkpoint-{step}")


@contextlib.contextmanager
def no_shard_bars() -> Iterator[None]:
    """Keep transformers' bars for writing weights out of our own bar."""
    bars: Any = transformers_logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


def _remove(checkpoint: Path) -> None:
    """Delete a checkpoint; killed on the way, it leaves one that does not count as complete."""
    if checkpoint.is_dir():
        (checkpoint / STATE_FILE).unlink(missing_ok=True)
        shutil.rmtree(checkpoint)


def _checkpoints(output_dir: Path) -> list[tuple[int, Path]]:
    if not output_dir.is_dir():
        return []
    matches = [(_NAME.fullmatch(path.name), path) for path in output_dir.iterdir() if path.is_dir()]
    return [(int(match[1]), path) for match, path in matches if match]
