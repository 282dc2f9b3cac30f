"""Running variants in turns, each in a process of its own, and adding up what they took."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multiturn.bench.variants import VARIANTS
from multiturn.bench.workloads import write_workload
from multiturn.errors import ConfigError, MultiturnError
from multiturn.progress import progress
from multiturn.reports.untrusted import reveal
from multiturn.tokens import plant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from multiturn.bench.workloads import Workload

__all__ = ["Bench", "Measured", "measure", "require_figures"]

_PACKAGES = ("multiturn", "torch", "transformers", "trl")
_WORKLOAD = "workload.json"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One variant on one workload.

    Attributes:
        workload: The workload's name.
        variant: The variant's name.
        seconds: Every timed step, over all rounds.
        peak_memory_bytes: The most memory any of its processes held.
        setup_seconds: The median time from the loaded model to the end of the first step: checks, the
            reference's cache, warm-up.
        useful_flops: Floating-point operations that a step needs if every unique token is computed once.
        error: Why there are no figures; empty if there are.
    """

    workload: str
    variant: str
    seconds: tuple[float, ...] = ()
    peak_memory_bytes: int = 0
    setup_seconds: float = 0.0
    useful_flops: float = 0.0
    error: str = ""

    @property
    def median(self) -> float:
        """The median step, in seconds."""
        return statistics.median(self.seconds)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The result of a measurement.

    Attributes:
        machine: What it ran on, and the versions of what matters.
        settings: Model, precision, rounds and so on.
        workloads: The facts of each workload by name.
        measured: Every variant on every workload.
        ceiling: The fastest matrix product of each round, in FLOP/s; the median is the ceiling.
    """

    machine: dict[str, Any]
    settings: dict[str, Any]
    workloads: dict[str, dict[str, Any]]
    measured: tuple[Measured, ...]
    ceiling: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """This as JSON."""
        return dataclasses.asdict(self)


def measure(
    workloads: Sequence[Workload],
    variants: Sequence[str],
    *,
    model: str,
    precision: str = "bf16",
    rounds: int = 3,
    steps: int = 2,
    threads: int | None = None,
    gradient_checkpointing: bool = False,
    timeout: float | None = None,
    on_round: Callable[[Bench], None] | None = None,
) -> Bench:
    """Measure variants on workloads, side by side.

    Each round runs every variant once, in an order that turns from round to round, so that what changes on
    the machine meanwhile meets all alike. A variant that failed is not run again.

    Args:
        workloads: The workloads, of different names.
        variants: Names in `VARIANTS`.
        model: A model's name or path, or one with random weights (see `multiturn.bench.worker`).
        precision: ``bf16`` (autocast over float32 weights) or ``fp32``.
        rounds: How often each variant is run.
        steps: Steps that are timed in a run, after one that is not.
        threads: CPU threads; None leaves that to torch.
        gradient_checkpointing: Trades time for memory, in every variant.
        timeout: Seconds that one run may take; None sets no limit.
        on_round: Is given the figures of all finished rounds after each, so that an interruption costs no
            more than one round.

    Returns:
        The figures; a variant that failed carries its error.

    Raises:
        ConfigError: There is nothing to measure, or a variant is unknown.
    """
    if not workloads or not variants or rounds < 1:
        raise ConfigError("there is nothing to measure; give a workload, a variant and at least one round")
    unknown = [name for name in variants if name not in VARIANTS]
    if unknown:
        raise ConfigError(f"there is no variant {unknown[0]!r}; use some of {', '.join(VARIANTS)}")
    variants = list(dict.fromkeys(variants))
    settings = {
        "model": model,
        "precision": precision,
        "steps": steps,
        "threads": threads,
        "gradient_checkpointing": gradient_checkpointing,
    }
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    ceiling: list[float] = []
    total = rounds * (len(workloads) * len(variants) + 1)
    with tempfile.TemporaryDirectory() as name, progress("bench", total=total) as bar:
        folder = Path(name)
        for turn in range(rounds):
            products = _run({**settings, "variant": None}, folder, timeout)
            ceiling += [products["flops"]] if "flops" in products else []
            bar.advance(note="matrix products")
            for workload in workloads:
                write_workload(workload, folder / _WORKLOAD)
                shift = turn % len(variants)
                for variant in [*variants[shift:], *variants[:shift]]:
                    results = runs.setdefault((workload.name, variant), [])
                    if not any("error" in result for result in results):
                        job = {**settings, "variant": variant, "workload": str(folder / _WORKLOAD)}
                        results.append(_run(job, folder, timeout))
                    bar.advance(note=f"{reveal(workload.name)}, {variant}")
            bench = _so_far(workloads, variants, runs, {**settings, "rounds": turn + 1}, ceiling)
            if on_round is not None:
                on_round(bench)
    return bench


def _so_far(
    workloads: Sequence[Workload],
    variants: Sequence[str],
    runs: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]],
    settings: dict[str, Any],
    ceiling: Sequence[float],
) -> Bench:
    """The figures of the rounds that are finished."""
    return Bench(
        machine=_machine(runs),
        settings=settings,
        workloads={workload.name: workload.facts() for workload in workloads},
        measured=tuple(
            _merged(workload, variant, runs[workload.name, variant])
            for workload in workloads
            for variant in variants
        ),
        ceiling=tuple(ceiling),
    )


def _run(job: Mapping[str, Any], folder: Path, timeout: float | None) -> dict[str, Any]:
    """One job in a process of its own; its result, or its ``error``."""
    job_path, result_path = folder / "job.json", folder / "result.json"
    job_path.write_text(json.dumps(job), encoding="utf-8")
    result_path.unlink(missing_ok=True)
    environment = {**os.environ, "MULTITURN_PROGRESS": "off", "TRANSFORMERS_VERBOSITY": "error"}
    command = [sys.executable, "-m", "multiturn.bench.worker", str(job_path), str(result_path)]
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            command,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"was stopped after {timeout:g} s; allow more time, or fewer steps"}
    if done.returncode == 0 and result_path.is_file():
        result: dict[str, Any] = json.loads(result_path.read_text(encoding="utf-8"))
        return result
    if done.returncode < 0:
        return {
            "error": f"killed by signal {-done.returncode}; if memory ran out, lower the tokens of a pass"
        }
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return {"error": lines[-1] if lines else f"exit code {done.returncode}"}


def _merged(workload: Workload, variant: str, results: Sequence[Mapping[str, Any]]) -> Measured:
    """The runs of one variant on one workload as one record."""
    errors = [str(result["error"]) for result in results if "error" in result]
    if errors:  # it may quote what a model's or a data set's files say
        return Measured(workload=workload.name, variant=variant, error=reveal(" ".join(errors[0].split())))
    return Measured(
        workload=workload.name,
        variant=variant,
        seconds=tuple(seconds for result in results for seconds in result["seconds"]),
        peak_memory_bytes=max(result["peak_memory_bytes"] for result in results),
        setup_seconds=statistics.median(result["setup_seconds"] for result in results),
        useful_flops=_useful_flops(workload, results[0]),
    )


def _useful_flops(workload: Workload, result: Mapping[str, Any]) -> float:
    """Six for each weight and unique token, and attention's own products, forward and backward (M18)."""
    forest = plant(workload.sequences)
    seen = int((forest.positions + 1).sum())
    dense = 6.0 * int(result["weights"]) * len(forest.positions)
    return dense + 12.0 * int(result["layers"]) * int(result["width"]) * seen


def _machine(runs: Mapping[Any, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Processor, cores and versions."""
    devices = {result["device"] for results in runs.values() for result in results if "device" in result}
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line for line in cpuinfo.read_text(encoding="utf-8").splitlines() if "model name" in line]
        processor = names[0].partition(":")[2].strip() if names else processor
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "device": ", ".join(sorted(devices)) or "unknown",
        "python": platform.python_version(),
        "versions": versions,
    }


def require_figures(bench: Bench) -> None:
    """Refuse a measurement in which nothing was measured.

    Raises:
        MultiturnError: Every variant failed; the message holds the first reason.
    """
    if all(measured.error for measured in bench.measured):
        raise MultiturnError(f"nothing could be measured: {bench.measured[0].error}")
