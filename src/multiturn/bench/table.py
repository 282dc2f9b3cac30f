"""Measurements as Markdown, and as files."""

from __future__ import annotations

import json
import statistics
from typing import TYPE_CHECKING, Any, Final

from multiturn.bench.variants import OURS, VARIANTS
from multiturn.files import whole_file
from multiturn.reports.untrusted import reveal

if TYPE_CHECKING:
    from pathlib import Path

    from multiturn.bench.measuring import Bench, Measured

__all__ = ["markdown", "write_figures"]

_HEAD: Final = (
    "| variant | setup, s | step, s | pairs/s | tokens/s | peak memory, GiB | MFU | speed | memory |",
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
)
_MEANINGS: Final = (
    "Setup ends with the first step: checks, a reference that is computed once, warm-up. The steps after it "
    "are timed; each trains on all pairs. Tokens are those of both sides of every pair, shared or not, "
    "without padding. MFU is the speed of useful operations (each unique token computed once) against that "
    f"of matrix products. The last two columns are the figures of {OURS} against the variant's: 4.00x is "
    "four times as fast, 0.30x takes three tenths of the memory."
)
_ERROR_WIDTH: Final = 160


def markdown(bench: Bench) -> str:
    """A table for each workload, and what its columns and rows mean."""
    machine, settings = bench.machine, bench.settings
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    ceiling = statistics.median(bench.ceiling) if bench.ceiling else None
    header = (
        f"{machine['processor']}, {machine['cores']} cores, device {machine['device']}; {versions}. "
        f"Model {reveal(settings['model'])}, {settings['precision']}, {settings['rounds']} rounds of "
        f"{settings['steps']} steps; medians."
    )
    if ceiling is not None:
        header += (
            f" Matrix products here reach {ceiling / 1e12:.2f} TFLOP/s (median of {len(bench.ceiling)})."
        )
    lines = [header]
    for name, facts in bench.workloads.items():
        shared = 1.0 - facts["unique_tokens"] / facts["total_tokens"]
        about = (
            f"**{reveal(name)}**: {facts['pairs']} pairs, {facts['total_tokens']:,} tokens of which "
            f"{facts['unique_tokens']:,} are unique ({shared:.0%} shared) and "
            f"{facts['scored_tokens'] / facts['total_tokens']:.0%} scored, longest {facts['longest']:,}, "
            f"{facts['mean_turns']:.1f} turns; budget {facts['max_tokens']:,} tokens, otherwise "
            f"{facts['pairs_per_pass']} pairs a pass."
        )
        lines += ["", about, "", *_HEAD]
        measured = [m for m in bench.measured if m.workload == name]
        ours = next((m for m in measured if m.variant == OURS and not m.error), None)
        lines += [_row(m, ours, facts, ceiling) for m in measured]
    variants = dict.fromkeys(m.variant for m in bench.measured)
    lines += ["", _MEANINGS, "", *(f"- *{name}*: {VARIANTS[name].meaning}" for name in variants)]
    return "\n".join(lines) + "\n"


def write_figures(bench: Bench, output: Path) -> None:
    """Write ``OUTPUT.json`` (all figures) and ``OUTPUT.md`` (the tables)."""
    with whole_file(output.with_name(f"{output.name}.json")) as file:
        json.dump(bench.to_json(), file, indent=1)
    with whole_file(output.with_name(f"{output.name}.md")) as file:
        file.write(markdown(bench))


def _row(measured: Measured, ours: Measured | None, facts: dict[str, Any], ceiling: float | None) -> str:
    if measured.error:
        error = measured.error.replace("|", "/")
        clipped = error if len(error) <= _ERROR_WIDTH else f"{error[:_ERROR_WIDTH]} ..."
        return f"| {measured.variant} | failed: {clipped} | | | | | | | |"
    step = measured.median
    speed = memory = ""
    if ours is not None:
        speed = f"{step / ours.median:.2f}x"
        memory = f"{ours.peak_memory_bytes / measured.peak_memory_bytes:.2f}x"
    mfu = f"{measured.useful_flops / step / ceiling:.0%}" if ceiling else ""
    return (
        f"| {measured.variant} | {measured.setup_seconds:.1f} | {step:.2f} | {facts['pairs'] / step:.2f} | "
        f"{facts['total_tokens'] / step:,.0f} | {measured.peak_memory_bytes / 2**30:.2f} | {mfu} | "
        f"{speed} | {memory} |"
    )
