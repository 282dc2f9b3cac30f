"""Measurements as Markdown."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from multiturn.bench.variants import CLASSIC, OURS, VARIANTS

if TYPE_CHECKING:
    from multiturn.bench.measuring import Bench, Measured

__all__ = ["markdown"]

_HEAD = (
    "| variant | step, s | pairs/s | tokens/s | peak memory, GiB | MFU | speed | memory |",
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
)


def markdown(bench: Bench) -> str:
    """A table for each workload.

    ``tokens/s`` counts the tokens of both sides of every pair, shared or not, without padding. ``speed`` and
    ``memory`` are this engine's figures against the variant's: 4.0x is four times as fast, 0.30x takes three
    tenths of the memory.
    """
    machine, settings = bench.machine, bench.settings
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    ceiling = statistics.median(bench.ceiling)
    header = (
        f"{machine['processor']}, {machine['cores']} cores, device {machine['device']}; {versions}. "
        f"Model {settings['model']}, {settings['precision']}, {settings['rounds']} rounds of "
        f"{settings['steps']} steps; medians. Matrix products here reach {ceiling / 1e12:.2f} TFLOP/s "
        f"(median of {len(bench.ceiling)})."
    )
    lines = [header]
    for name, facts in bench.workloads.items():
        shared = 1.0 - facts["unique_tokens"] / facts["total_tokens"]
        about = (
            f"**{name}**: {facts['pairs']} pairs, {facts['total_tokens']:,} tokens of which "
            f"{facts['unique_tokens']:,} are unique ({shared:.0%} shared) and "
            f"{facts['scored_tokens'] / facts['total_tokens']:.0%} scored, longest {facts['longest']:,}, "
            f"{facts['mean_turns']:.1f} turns; budget {facts['max_tokens']:,} tokens, otherwise "
            f"{facts['pairs_per_pass']} pairs a pass."
        )
        lines += ["", about, "", *_HEAD]
        measured = [m for m in bench.measured if m.workload == name]
        ours = next((m for m in measured if m.variant == OURS and not m.error), None)
        lines += [_row(m, ours, facts, ceiling) for m in measured]
    lines += ["", *(f"- *{name}*: {VARIANTS[name].meaning}" for name in _named(bench))]
    return "\n".join(lines) + "\n"


def _row(measured: Measured, ours: Measured | None, facts: dict[str, float], ceiling: float) -> str:
    if measured.error:
        return f"| {measured.variant} | failed: {measured.error[:90].replace('|', '/')} | | | | | | |"
    step = measured.median
    speed = memory = ""
    if ours is not None:
        speed = f"{step / ours.median:.2f}x"
        memory = f"{ours.peak_memory_bytes / measured.peak_memory_bytes:.2f}x"
    mfu = f"{measured.useful_flops / step / ceiling:.0%}" if ceiling else ""
    return (
        f"| {measured.variant} | {step:.2f} | {facts['pairs'] / step:.2f} | "
        f"{facts['total_tokens'] / step:,.0f} | {measured.peak_memory_bytes / 2**30:.2f} | {mfu} | "
        f"{speed} | {memory} |"
    )


def _named(bench: Bench) -> list[str]:
    """The variants that were measured, the engine itself and the classic way first."""
    names = list(dict.fromkeys(m.variant for m in bench.measured))
    return sorted(names, key=lambda name: (name != OURS, name != CLASSIC))
