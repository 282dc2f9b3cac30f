"""Two processes train as one does: under DDP and FSDP 2, in float64, over gloo on CPUs."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed_worker import Case, run
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Trainer

HERE = Path(__file__).parent
RESUMES = 'device.type != "cpu"' in inspect.getsource(Trainer._load_optimizer_and_scheduler)
"""Older versions of transformers cannot load the optimizer that several DDP processes on CPUs have saved."""


def runnable(*names: str) -> tuple[str, ...]:
    """The cases that this version of transformers can run."""
    return tuple(n for n in names if RESUMES or not (n.startswith("ddp") and "checkpoints" in n))


QUICK = runnable(
    "ddp-dmpo-full-forest-budget-cached",
    "ddp-dmpo-lora-forest-adapteroff-checkpoints",
    "ddp-sft-lora-padded-before",
    "fsdp2-dmpo-full-forest-budget-cached-checkpoints",
    "fsdp2-dmpo-lora-padded-cached-whole",
    "fsdp2-sft-full-forest-before-whole",
)
ALL = tuple(
    f"{engine}-{task}-{weights}-{layout}{reference}"
    for engine in ("ddp", "fsdp2")
    for layout in ("forest", "forest-budget", "padded", "padded-budget")
    for task, weights, reference in (
        ("sft", "full", ""),
        ("sft", "lora", ""),
        ("dmpo", "full", "-cached"),
        ("dmpo", "full", "-live"),
        ("dmpo", "lora", "-cached"),
        ("dmpo", "lora", "-adapteroff"),
    )
)
MORE = runnable(
    "ddp-dmpo-full-forest-cached-checkpoints",
    "ddp-dmpo-full-forest-live-before-checkpoints",
    "ddp-sft-lora-forest-once",
    "ddp-dmpo-full-forest-cached-collapse",
    "ddp-dmpo-full-forest-cached-bf16",
    "fsdp2-dmpo-full-forest-cached-collapse",
    "fsdp2-dmpo-full-forest-cached-bf16",
    "fsdp2-dmpo-lora-padded-adapteroff-bf16-whole",
    "fsdp2-dmpo-full-forest-budget-live-checkpoints-sharded",
    "fsdp2-dmpo-full-padded-cached-checkpoints-whole",
    "fsdp2-dmpo-lora-forest-adapteroff-checkpoints-before",
    "fsdp2-dmpo-lora-padded-cached-checkpoints-whole",
    "fsdp2-dmpo-lora-forest-cached-checkpoints-sharded",
    "fsdp2-dmpo-full-forest-live-efficient",
    "fsdp2-sft-lora-forest-once-whole-recompute",
)
DEEPSPEED = (
    "zero2-dmpo-full-forest-budget-live-checkpoints",
    "zero2-dmpo-lora-padded-adapteroff",
    "zero2-sft-full-forest",
    "zero3-dmpo-full-forest-cached-checkpoints",
    "zero3-dmpo-lora-forest-budget-cached",
    "zero3-dmpo-lora-padded-adapteroff-checkpoints",
    "zero3-sft-full-padded-budget",
)
ONLY_TOGETHER = ("checkpoints", "whole", "sharded", "recompute", "efficient")
"""Parts of a case that must not change anything: one process trains without them."""
NOT_THE_SAME = ("runtime", "per_second", "seconds", "total_flos", "preparation_time", "train_loss")
"""Parts of the names of figures: of the clock, of fillers, and a mean over the steps since the last start."""


def launch(folder: Path, *arguments: str, timeout: float = 1200) -> subprocess.CompletedProcess[str]:
    """Run a program or module in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",  # never ask a name server where this machine is
        "MULTITURN_PROGRESS": "off",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    return subprocess.run(  # noqa: S603 - our own program
        [*command, *arguments],
        env=environment,
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def train_together(folder: Path, cases: tuple[str, ...]) -> Path:
    """Run cases in two processes, one after the other; results are in the folder."""
    done = launch(folder, str(HERE / "distributed_worker.py"), str(folder), *cases)
    assert done.returncode == 0, done.stderr[-6000:]
    return folder


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_together(tmp_path_factory.mktemp("quick"), QUICK)


@pytest.fixture(scope="module")
def thorough(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dropout = "ddp-dmpo-lora-forest-cached-dropout"
    cases = (*ALL, *MORE, *runnable(dropout, f"{dropout}-checkpoints"))
    return train_together(tmp_path_factory.mktemp("thorough"), cases)


def results(folder: Path, name: str) -> list[dict[str, Any]]:
    """What each of the two processes has saved of a case."""
    return [torch.load(folder / f"{name}-{rank}.pt", weights_only=False) for rank in range(2)]


def assert_as_one(name: str, folder: Path, alone: Path) -> None:
    """Train a case here, in one process, and compare."""
    one = run("-".join(part for part in name.split("-") if part not in ONLY_TOGETHER), alone)
    two = results(folder, name)
    case = Case(name)
    for each in two:
        assert each["layout"] == one["layout"]
        assert each["dtypes"] == one["dtypes"] == {case.dtype}
        assert each["reduces_every_pass"] == (case.engine != "ddp")
        assert_same_figures(case, [each["first"]], [one["first"]])
        assert_same_figures(case, each["history"]["log"], one["history"]["log"])
        assert each["history"]["warnings"] == one["history"]["warnings"]
        assert each["history"]["tokens"] == one["history"]["tokens"]
    assert_reference_scored_once(case, one, two)
    if "bf16" not in case:
        rough = 1e-8 if case.dtype == torch.float64 else 1e-3
        if not case.engine.startswith("zero"):  # which keeps gradients to itself
            assert_same_gradients(one["gradients"], [each["gradients"] for each in two], rough)
        # Where the engine shards only the first process has the trained model.
        for each in two if case.engine == "ddp" else two[:1]:
            assert_same_tensors(each["policy"], one["policy"], rough)
    assert_saved(case, folder / name, two[0]["policy"])


def assert_same_figures(case: Case, some: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    within = 1e-9 if case.dtype == torch.float64 else 1e-3
    for one, other in zip(some, others, strict=True):
        keys = [key for key in other if not any(part in key for part in NOT_THE_SAME)]
        assert set(keys) <= set(one)
        if "bf16" in case:
            keys, within = [key for key in keys if key in ("loss", "eval_loss")], 0.02
        if abs(other.get("rewards/margins", 1.0)) < within:  # at the first step rounding decides who is right
            keys = [key for key in keys if key != "rewards/accuracies"]
        for key in keys:
            # transformers adds losses up in float32.
            close = max(within, 1e-6) if key == "loss" else within
            assert one[key] == pytest.approx(other[key], abs=close, rel=close), key


def assert_same_gradients(
    alone: list[dict[str, torch.Tensor]], together: list[list[dict[str, torch.Tensor]]], rough: float
) -> None:
    """After an interruption only those of the steps that followed are there."""
    for steps in together:
        for mine, theirs in zip(steps, alone[-len(steps) :], strict=True):
            assert_same_tensors(mine, theirs, rough)
            assert any(bool(gradient.any()) for gradient in mine.values())
    for mine, theirs in zip(*together, strict=True):
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def assert_same_tensors(
    some: dict[str, torch.Tensor], others: dict[str, torch.Tensor], rough: float = 0.0
) -> None:
    assert some.keys() == others.keys()
    for name, tensor in some.items():
        torch.testing.assert_close(tensor, others[name], rtol=rough, atol=rough / 1000, msg=name)


def assert_reference_scored_once(case: Case, one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    """Each conversation by one of the processes, and by none where a training goes on."""
    first, second = (each["scored"] for each in two)
    if "cached" not in case or "checkpoints" in case:
        assert first == second == []
        return
    assert len(first) > 1
    assert len(second) > 1
    assert sorted([*first, *second]) == sorted(one["scored"])
    assert len(set(one["scored"])) == len(one["scored"])


def assert_saved(case: Case, folder: Path, trained: dict[str, torch.Tensor]) -> None:
    """One model that plain transformers loads."""

    def load(name: str) -> dict[str, torch.Tensor]:
        from_pretrained: Any = AutoModelForCausalLM.from_pretrained
        loaded = from_pretrained(folder / name, dtype=case.dtype)
        assert type(loaded).__name__ == "LlamaForCausalLM"
        return {key: parameter.detach() for key, parameter in loaded.named_parameters()}

    assert_same_tensors(load("model"), trained)
    assert (folder / "model-adapter").is_dir() == (case.weights == "lora")
    assert not list(folder.glob("checkpoint-*"))
    if case.engine == "fsdp2" and case.weights == "full":
        assert_same_tensors(load("saved"), trained)
    elif case.engine == "fsdp2":
        one, other = (folder / name / "adapter_model.safetensors" for name in ("saved", "model-adapter"))
        assert_same_tensors(load_file(one), load_file(other))


@pytest.mark.parametrize("name", QUICK)
def test_two_processes_train_as_one(name: str, quick: Path, tmp_path: Path) -> None:
    assert_as_one(name, quick, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ALL, *MORE])
def test_every_combination(name: str, thorough: Path, tmp_path: Path) -> None:
    assert_as_one(name, thorough, tmp_path)
    if "collapse" in name:
        assert len(results(thorough, name)[1]["history"]["warnings"]) == 1


@pytest.mark.slow
def test_deepspeed(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    folder = train_together(tmp_path, DEEPSPEED)
    for name in DEEPSPEED:
        assert_as_one(name, folder, tmp_path / f"{name}-alone")


@pytest.mark.slow
@pytest.mark.skipif(not RESUMES, reason="this version of transformers cannot resume DDP on CPUs")
def test_each_process_resumes_its_own_dropout(thorough: Path) -> None:
    """To the last bit, which only holds if every process gets its own random numbers back."""
    straight, resumed = (
        results(thorough, f"ddp-dmpo-lora-forest-cached-dropout{part}") for part in ("", "-checkpoints")
    )
    assert resumed[0]["history"]["resumed_from"] == 3
    for one, other in zip(straight, resumed, strict=True):
        assert all(torch.equal(tensor, other["policy"][key]) for key, tensor in one["policy"].items())
