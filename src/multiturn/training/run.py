"""One call that trains a policy to the end, whatever interrupted an earlier call, and saves it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from peft import PeftModel

from multiturn.files import whole_file
from multiturn.memory import peak_host_memory
from multiturn.models import Policy, save_policy
from multiturn.models.quantized import merged
from multiturn.models.quiet import quiet
from multiturn.training.checkpoints import latest_checkpoint, remove_checkpoints

if TYPE_CHECKING:
    from multiturn.training.trainer import TurnTrainer
    from multiturn.trajectory import Json

__all__ = ["finished_history", "train_to_end"]

_HISTORY: Final = "history.json"
"""Written once the model is; then the checkpoints go."""


def train_to_end(trainer: TurnTrainer, policy: Policy, save_to: Path | str | None) -> dict[str, Json]:
    """Train (from the latest complete checkpoint, if there is one), save the model, remove the checkpoints.

    Args:
        trainer: Trains `policy`, which has its initial weights.
        policy: Has the trained weights afterwards, an adapter merged into them. Where an engine shards the
            model that is so in process 0 alone; in others it is of no more use.
        save_to: The model's folder; None takes ``<output_dir>/model``.

    Returns:
        The history; see `multiturn.training.sft.train_sft`.
    """
    output_dir = Path(str(trainer.args.output_dir))
    checkpoint = latest_checkpoint(output_dir)
    on_gpu = trainer.args.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    try:
        result = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finally:
        trainer.finish_tracking()
    history: dict[str, Json] = {
        "task": trainer.task.name,
        "log": [r for r in trainer.state.log_history if "warning" not in r],
        "data": trainer.data_report.to_json(),
        "warnings": [str(record["warning"]) for record in trainer.warnings_seen],
        "steps": result.global_step,
        "seconds": round(trainer.seconds, 3),
        "tokens": int(trainer.state.num_input_tokens_seen),
        "timing": trainer.timing,
        # On a GPU what this training held there; elsewhere what the process has held so far.
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if on_gpu else peak_host_memory(),
        "resumed_from": None if checkpoint is None else int(checkpoint.name.rpartition("-")[2]),
    }
    _save(trainer, policy, output_dir / "model" if save_to is None else Path(save_to))
    if trainer.is_world_process_zero():
        with whole_file(output_dir / _HISTORY, errors="backslashreplace") as file:
            json.dump(history, file)
        remove_checkpoints(output_dir)
    trainer.accelerator.wait_for_everyone()
    return history


def finished_history(output_dir: Path) -> dict[str, Any] | None:
    """The history of a training that has come to its end in a folder; None where none has.

    For those who note elsewhere what is done, and may be killed before they do.
    """
    if not (output_dir / "model" / "config.json").is_file():
        return None
    try:
        history = json.loads((output_dir / _HISTORY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return history if isinstance(history, dict) else None


def _save(trainer: TurnTrainer, policy: Policy, save_to: Path) -> None:
    """Save the trained model as plain transformers weights, and its adapter, if it has one, beside it."""
    model = trainer.whole_model()
    if model is None:
        return
    writes = trainer.is_world_process_zero()
    card = trainer.card()  # with what it says of the adapter, which is gone once it is merged
    if isinstance(model, PeftModel):
        if writes:
            adapter = save_to.with_name(f"{save_to.name}-adapter")
            shutil.rmtree(adapter, ignore_errors=True)
            with quiet():
                model.save_pretrained(str(adapter))
            trainer.save_card(adapter)
        model = merged(model)
    policy.model = model.eval()
    policy.weights_changed()
    if writes:
        save_policy(
            policy, save_to, chat_template=trainer.chat_template, stop_ids=trainer.stop_ids, card=card
        )
