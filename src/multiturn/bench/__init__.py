"""Measuring training side by side: this engine, parts of it switched off, the classic way, and TRL."""

from multiturn.bench.measuring import Bench, measure, require_figures
from multiturn.bench.table import markdown, write_figures
from multiturn.bench.variants import VARIANTS, Variant, installed_variants
from multiturn.bench.workloads import USUAL, WORKLOADS, Workload, from_pairs, generate

__all__ = [
    "USUAL",
    "VARIANTS",
    "WORKLOADS",
    "Bench",
    "Variant",
    "Workload",
    "from_pairs",
    "generate",
    "installed_variants",
    "markdown",
    "measure",
    "require_figures",
    "write_figures",
]
