"""Runs one variant on one workload in a process of its own, so that its peak memory is its own.

Called as ``python -m multiturn.bench.worker JOB RESULT`` with two paths of JSON files.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, TrainerCallback

from multiturn.bench.variants import VARIANTS
from multiturn.bench.workloads import Workload, read_workload
from multiturn.errors import ConfigError, MultiturnError
from multiturn.memory import peak_host_memory
from multiturn.models import load_policy, scratch_policy
from multiturn.tokens import NO_TURN
from multiturn.training import DataReport, DMPOConfig, DMPOTrainer, RenderedRows
from multiturn.training.forwards import Forwards

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from multiturn.bench.variants import Variant
    from multiturn.training.batch import MicroBatch
    from multiturn.training.data import RenderedPair

__all__ = ["RANDOM_MODELS", "matmul_ceiling", "run_job"]

RANDOM_MODELS: Final = {
    "random-0.5b": {"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14}
    | {"num_key_value_heads": 2, "intermediate_size": 4864},
    "random-1.5b": {"hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12}
    | {"num_key_value_heads": 2, "intermediate_size": 8960},
    "random-tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    | {"num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 512},
}
"""Architectures with random weights, by name: those of Qwen2.5-0.5B and 1.5B, and a tiny one for tests."""


class _StepEnds(TrainerCallback):
    """Notes when each optimizer step ends."""

    def __init__(self, synchronize: Callable[[], None]) -> None:
        self._synchronize = synchronize
        self.times: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """After the optimizer."""
        self._synchronize()
        self.times.append(time.perf_counter())


class _ClassicForwards(Forwards):
    """The textbook way: pad to the longest, make all logits, take their log-softmax, pick."""

    def logps(self, model: Any, micro: MicroBatch) -> Tensor:
        """The per-turn sums ``[S, T]``."""
        batch: Any = micro.batch
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, :-1]
        targets, turns = batch.input_ids[:, 1:], batch.turns[:, 1:]
        logps = logits.float().log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        sums: Tensor = logps.new_zeros(len(logps), int(micro.num_turns.max()))
        return sums.scatter_add(1, turns.clamp(min=0), logps * (turns >= 0))


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Train for a few steps and say how long each took.

    Args:
        job: ``variant`` (a name in `VARIANTS`), ``workload`` (a path), ``model`` (a name that `load_policy`
            knows, or one of `RANDOM_MODELS`), ``precision`` (``bf16`` or ``fp32``), ``steps`` that are timed
            after one that is not, ``threads`` (or null), ``gradient_checkpointing``.

    Returns:
        ``seconds`` of each timed step, ``setup_seconds`` from the loaded model to the end of the first step,
        ``peak_memory_bytes``, ``device``, and ``weights``, ``layers``, ``width`` of the model.

    Raises:
        ConfigError: The workload's pairs cannot be split into passes of its size.
        MultiturnError: TRL is to be measured and not installed.
    """
    if job.get("threads"):
        torch.set_num_threads(job["threads"])
    variant = VARIANTS[job["variant"]]
    model, tokenizer = _model(job["model"])
    workload = read_workload(Path(job["workload"])).within(len(model.get_input_embeddings().weight))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    ends = _StepEnds(synchronize)
    with tempfile.TemporaryDirectory() as folder:
        options = _options(job, variant, workload, folder)
        make = _trl_maker() if variant.engine == "trl" else _own_trainer
        # TRL runs its reference while its trainer is made, this project's when it trains: both count.
        started = time.perf_counter()
        make(variant, workload, model, tokenizer, options, [ends]).train()
    on_gpu = device.type == "cuda"
    config = model.config.get_text_config()
    return {
        "seconds": [after - before for before, after in itertools.pairwise(ends.times)],
        "setup_seconds": ends.times[0] - started,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if on_gpu else peak_host_memory(),
        "weights": sum(p.numel() for p in model.parameters()),
        "layers": config.num_hidden_layers,
        "width": config.num_attention_heads * _head_dim(config),
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
    }


def matmul_ceiling(precision: str, *, size: int | None = None, repeats: int = 5) -> float:
    """The fastest of a few large matrix products here, in FLOP/s.

    Args:
        precision: ``bf16`` or ``fp32``.
        size: Rows and columns of the factors; None takes enough to keep the device busy.
        repeats: How many products are timed, after one that is not.
    """
    on_gpu = torch.cuda.is_available()
    if size is None:  # on a large GPU 2048 take hardly longer than the launch
        size = 8192 if on_gpu else 2048
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    factor = torch.randn(size, size, dtype=dtype, device="cuda" if on_gpu else "cpu")
    best = float("inf")
    for _ in range(repeats + 1):
        started = time.perf_counter()
        torch.mm(factor, factor)
        if on_gpu:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


def _model(name: str) -> tuple[Any, Any]:
    """A model with its tokenizer; one with random weights gets a tokenizer that is never used."""
    if name not in RANDOM_MODELS:
        policy = load_policy(name)
        return policy.model, policy.tokenizer
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 151936, "max_position_embeddings": 32768, **RANDOM_MODELS[name]}
    config = Qwen2Config(tie_word_embeddings=True, **sizes)
    return Qwen2ForCausalLM(config), scratch_policy(vocab_size=300, hidden_size=32, layers=1).tokenizer


def _options(job: dict[str, Any], variant: Variant, workload: Workload, folder: str) -> dict[str, Any]:
    """Settings that every engine gets; an optimizer step trains on all pairs."""
    count = len(workload.pairs)
    each = count if variant.budget else min(variant.pairs_per_pass or workload.pairs_per_pass, count)
    if count % each:
        raise ConfigError(f"{count} pairs cannot be run {each} at a time; choose another number of pairs")
    return {
        "output_dir": folder,
        "max_steps": 1 + job["steps"],
        "per_device_train_batch_size": each,
        "gradient_accumulation_steps": count // each,
        "bf16": job["precision"] == "bf16",
        "use_cpu": not torch.cuda.is_available(),
        "learning_rate": 1e-6,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "gradient_checkpointing": job.get("gradient_checkpointing", False),
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
    }


def _own_trainer(
    variant: Variant, workload: Workload, model: Any, tokenizer: Any, options: dict[str, Any], callbacks: Any
) -> Any:
    """This project's trainer, or the classic computation in it."""
    budget = workload.max_tokens if variant.budget else None
    args = DMPOConfig(**{**options, **variant.settings}, max_tokens_per_batch=budget)
    rows: Any = RenderedRows(workload.pairs, DataReport())
    trainer = DMPOTrainer(model, args, train_dataset=rows, processing_class=tokenizer, callbacks=callbacks)
    if variant.engine == "classic":
        trainer.forwards = _ClassicForwards("padded", "logits", None, trainer.accelerator)
    return trainer


def _trl_maker() -> Callable[..., Any]:
    """Makes TRL's trainer on the same tokens; what stands after the prompt counts, as it does there."""
    try:
        from datasets import Dataset
        from trl.trainer.dpo_config import DPOConfig
        from trl.trainer.dpo_trainer import DPOTrainer
    except ImportError:
        raise MultiturnError("TRL cannot be measured without it: pip install trl datasets") from None

    class PretokenizedTrainer(DPOTrainer):
        """Takes rows of token ids."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    def make(
        variant: Variant,
        workload: Workload,
        model: Any,
        tokenizer: Any,
        options: dict[str, Any],
        callbacks: Any,
    ) -> Any:
        args = DPOConfig(**options, **variant.settings, precompute_ref_log_probs=True, max_length=None)
        return PretokenizedTrainer(
            model,
            args=args,
            train_dataset=Dataset.from_list([_trl_row(pair) for pair in workload.pairs]),
            processing_class=tokenizer,
            callbacks=callbacks,
        )

    return make


def _trl_row(pair: RenderedPair) -> dict[str, list[int]]:
    start = next(i for i, turn in enumerate(pair.chosen.turns) if turn != NO_TURN)
    return {
        "prompt_ids": list(pair.chosen.token_ids[:start]),
        "chosen_ids": list(pair.chosen.token_ids[start:]),
        "rejected_ids": list(pair.rejected.token_ids[start:]),
    }


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def main(arguments: list[str]) -> None:
    """Read the job, run it, write the result or why there is none."""
    job_path, result_path = map(Path, arguments)
    job = json.loads(job_path.read_text(encoding="utf-8"))
    run = _ceiling_job if job["variant"] is None else run_job
    try:
        with contextlib.redirect_stdout(sys.stderr):
            result = run(job)
    except MultiturnError as error:
        result = {"error": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever stops a trainer is this variant's result
        result = {"error": f"{type(error).__name__}: {error}"}
    result_path.write_text(json.dumps(result), encoding="utf-8")


def _ceiling_job(job: dict[str, Any]) -> dict[str, Any]:
    if job.get("threads"):
        torch.set_num_threads(job["threads"])
    return {"flops": matmul_ceiling(job["precision"])}


if __name__ == "__main__":
    main(sys.argv[1:])
