"""Run by each of several processes: trains as each of the named cases says, and saves what came of it.

Usage: torch.distributed.run --nproc_per_node 2 distributed_worker.py FOLDER CASE...

A case is named by what it is made of: ENGINE-TASK-WEIGHTS-LAYOUT[-PART...], for example
``fsdp2-dmpo-lora-forest-budget-cached``.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from accelerate_examples import environment
from training_samples import conversation, lora, pair, pairs, policy, trajectories
from transformers import TrainerCallback

from multiturn.launch import process_count, process_index
from multiturn.models import reference
from multiturn.models.reference_cache import conversation_key
from multiturn.training import DMPOConfig, DMPOTrainer, SFTConfig, SFTTrainer
from multiturn.training.run import train_to_end

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiturn.tokens import Rendered

GLOBAL_BATCH = 8
EXPERT = [pair(0, rejected=1 + i) | {"id": f"expert-{i}"} for i in range(4)]
"""Pairs of one task that share their chosen side."""
PAIRS = [*EXPERT, *pairs(9)[2:]]
"""Eleven pairs: an epoch has a step of 8 and one of 3, of which two processes get 2 and 1."""
COLLAPSING = [
    pair(i)
    | {"chosen": conversation(["drop 0", "drop 1"]), "rejected": conversation(["drop 0", "drop 1"] * 2)}
    for i in range(11)
]
"""Pairs that make the chosen side less likely: the rejected one begins alike, with more weight on turn 1."""


OPTIONS: dict[str, dict[str, Any]] = {
    "forest": {"layout": "forest"},
    "padded": {"layout": "padded"},
    "budget": {"max_tokens_per_batch": 60},
    "cached": {"reference": "cached"},
    "live": {"reference": "live"},
    "adapteroff": {"reference": "adapter-off"},
    "once": {"gradient_accumulation_steps": 1},
    "checkpoints": {"save_strategy": "steps", "save_steps": 3},
    "collapse": {"collapse_warning_nats": 0.01},
    "bf16": {"bf16": True},
}
"""What parts of a case's name stand for among the settings of a trainer."""
FSDP: dict[str, dict[str, Any]] = {
    "whole": {"state_dict_type": "FULL_STATE_DICT"},
    "sharded": {"state_dict_type": "SHARDED_STATE_DICT"},
    "recompute": {"activation_checkpointing": True},
    "efficient": {"cpu_ram_efficient_loading": True},
}
"""And among those of FSDP; without any its example's come from the environment, as from a launcher."""
EXAMPLES = {"fsdp2": "fsdp2-8gpu.yaml", "zero2": "zero2-8gpu.yaml", "zero3": "zero3-8gpu.yaml"}


class Case:
    """A case by its name: ``before`` evaluates before it trains, ``dropout`` has some in the adapter."""

    def __init__(self, name: str) -> None:
        self.engine, self.task, self.weights, *self._others = name.split("-")
        self.options: dict[str, Any] = {}
        self.fsdp: dict[str, Any] = {}
        for part in self._others:
            self.options |= OPTIONS.get(part, {})
            self.fsdp |= FSDP.get(part, {})

    def __contains__(self, part: str) -> bool:
        return part in self._others

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights; DeepSpeed knows no float64."""
        exact = self.engine in ("ddp", "fsdp2") and "bf16" not in self
        return torch.float64 if exact else torch.float32


class Gradients(TrainerCallback):
    """Keeps the gradients of every step; stops behind a step, if one is given."""

    def __init__(self, stop: int | None = None) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []
        self._stop = stop

    def on_pre_optimizer_step(self, *_: Any, model: Any = None, **__: Any) -> None:
        named = ((n.replace("_checkpoint_wrapped_module.", ""), p.grad) for n, p in model.named_parameters())
        self.steps.append({name: whole(grad) for name, grad in named if grad is not None})

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self._stop:
            raise KeyboardInterrupt


def whole(tensor: Any) -> torch.Tensor:
    """A copy of a tensor, put together from its parts in all processes."""
    full: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full.detach().clone()


def run(name: str, folder: Path) -> dict[str, Any]:
    """Train to the end as a case says.

    Returns:
        The records, the gradients of every step, the conversations that this process has scored under the
        reference, and what the history says. The trained model is in ``model`` in the folder.
    """
    case = Case(name)
    with pytest.MonkeyPatch.context() as patch:
        if case.dtype == torch.float64:
            double_throughout(patch)
        if "checkpoints" in case:
            stopped, _, _ = make(case, folder, stop=4)
            with pytest.raises(KeyboardInterrupt):
                stopped.train()
        scored = count_reference(patch)
        trainer, tiny, gradients = make(case, folder)
        dtypes = note_dtypes(patch, trainer)
        first = trainer.evaluate() if "before" in case else {}
        history = train_to_end(trainer, tiny, folder / "model")
    if trainer.is_fsdp_enabled:
        trainer.save_model(str(folder / "saved"))
    return {
        "first": first,
        "history": history,
        "gradients": gradients.steps,
        "scored": scored,
        "dtypes": dtypes,
        "reduces_every_pass": trainer.reduces_every_pass,
        "layout": trainer.forwards.layout,
        # Where the engine shards only the first process has it.
        "policy": {
            n: p.detach().clone() for n, p in tiny.model.named_parameters() if not hasattr(p, "full_tensor")
        },
    }


def make(case: Case, folder: Path, stop: int | None = None) -> tuple[Any, Any, Gradients]:
    """The trainer of a case, the policy that it trains, and what keeps its gradients."""
    processes = process_count()
    options: dict[str, Any] = {
        "output_dir": str(folder),
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 3,
        "learning_rate": 1e-2,
        "max_grad_norm": 0.5,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "eval_strategy": "epoch",
        "per_device_eval_batch_size": 2,
        **case.options,
    }
    options["per_device_train_batch_size"] = (
        GLOBAL_BATCH // processes // options["gradient_accumulation_steps"]
    )
    if case.fsdp and processes > 1:
        options |= {"fsdp": True, "fsdp_config": dict(case.fsdp)}
    enter(case)
    args = (SFTConfig if case.task == "sft" else DMPOConfig)(**options)
    tiny = policy(dtype=case.dtype)
    if case.engine != "ddp" and processes > 1:
        # accelerate turns FSDP on only for several GPUs or the like, though torch shards on CPUs as well.
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    gradients = Gradients(stop)
    adapter = lora(lora_dropout=0.1 if "dropout" in case else 0.0) if case.weights == "lora" else None
    rows: dict[str, Any] = {"train_dataset": PAIRS, "eval_dataset": pairs(5)}
    if "collapse" in case:
        rows["train_dataset"] = COLLAPSING
    if case.task == "sft":
        rows = {"train_dataset": trajectories(16)[:11], "eval_dataset": trajectories(16)[11:]}
    trainer: Any = (SFTTrainer if case.task == "sft" else DMPOTrainer)(
        tiny.model,
        args,  # type: ignore[arg-type]
        **rows,
        processing_class=tiny.tokenizer,
        callbacks=[gradients],
        peft_config=adapter,
    )
    return trainer, tiny, gradients


def enter(case: Case) -> None:
    """Set the environment as a launcher would for an engine's example; forget that of an earlier case."""
    for name in [name for name in os.environ if name.startswith(("ACCELERATE_", "FSDP_"))]:
        del os.environ[name]
    if case.engine in EXAMPLES and not case.fsdp and process_count() > 1:
        example = environment(EXAMPLES[case.engine])
        del example["ACCELERATE_MIXED_PRECISION"]
        if case.weights == "lora":  # as the example says
            example["FSDP_STATE_DICT_TYPE"] = "FULL_STATE_DICT"
        os.environ |= example


def count_reference(patch: pytest.MonkeyPatch) -> list[str]:
    """From now on the conversations that go through the reference to fill its cache are listed."""
    scored: list[str] = []
    compute = reference._compute

    def counting(model: Any, rows: Sequence[Rendered], *args: Any) -> Any:
        scored.extend(conversation_key(row) for row in rows)
        return compute(model, rows, *args)

    patch.setattr(reference, "_compute", counting)
    return scored


def note_dtypes(patch: pytest.MonkeyPatch, trainer: Any) -> set[torch.dtype]:
    """From now on the dtypes of all per-turn sums are in this set."""
    dtypes: set[torch.dtype] = set()
    logps = trainer.forwards.logps

    def noting(*args: Any) -> Any:
        sums = logps(*args)
        dtypes.add(sums.dtype)
        return sums

    patch.setattr(trainer.forwards, "logps", noting)
    return dtypes


def double_throughout(patch: pytest.MonkeyPatch) -> None:
    """The fixture of that name, which pytest alone could give."""
    path = Path(__file__).resolve().parents[1] / "conftest.py"
    spec: Any = importlib.util.spec_from_file_location("fixtures", path)
    fixtures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fixtures)
    inspect.unwrap(fixtures.double_throughout)(patch)


def main() -> None:
    warnings.simplefilter("error")
    if any(name.startswith("zero") for name in sys.argv[2:]):  # DeepSpeed uses what torch calls deprecated
        warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    for name in sys.argv[2:]:
        result = run(name, folder / name)
        torch.save(result, folder / f"{name}-{process_index()}.pt")


if __name__ == "__main__":
    main()
