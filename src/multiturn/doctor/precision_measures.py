"""The check that multiplies matrices: whether the precision of the trainings is the faster one here."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import torch

from multiturn.doctor.finding import note, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from multiturn.doctor.finding import Finding
    from multiturn.doctor.patient import Patient

__all__ = ["MATTERS", "precision"]

MATTERS: Final = 1.25
"""How many times as fast the other precision must be to be worth a word."""
_TRIES: Final = 7
"""Products of each kind, in turns; the fastest counts, since other work only ever slows one down."""
_KINDS: Final = {"bf16": torch.bfloat16, "fp32": torch.float32}


def precision(patient: Patient) -> Iterator[Finding]:
    """Whether trainings would be faster in the other precision.

    A processor may know bfloat16 and be slower in it, where its matrix unit is missing or switched off.
    """
    chosen = patient.config.precision
    if torch.cuda.is_available():
        if chosen == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            yield warning("precision is bf16, which this GPU only emulates", "set precision to fp32")
        return
    seconds = _product_seconds()
    other = "fp32" if chosen == "bf16" else "bf16"
    gain = seconds[chosen] / seconds[other]
    if gain <= MATTERS:
        yield ok(
            f"precision is {chosen}; products of matrices are {1 / gain:.1f} times as fast as in {other}"
        )
        return
    said = (
        f"precision is {chosen}, but this processor multiplies matrices {gain:.1f} times as fast in {other}"
    )
    if other == "fp32":
        yield warning(said, "set precision to fp32: faster, and more exact", gain=gain)
    else:
        yield note(f"{said}; it takes less memory as well, and is less exact", gain=gain)


def _product_seconds() -> dict[str, float]:
    """The seconds of a product such as a layer of a small model has, by precision."""
    fastest = dict.fromkeys(_KINDS, float("inf"))
    factors = {
        name: (torch.ones(512, 768).to(kind), torch.ones(768, 3072).to(kind)) for name, kind in _KINDS.items()
    }
    with torch.inference_mode():
        for _ in range(_TRIES):
            for name, (rows, weights) in factors.items():
                began = time.perf_counter()
                rows @ weights
                fastest[name] = min(fastest[name], time.perf_counter() - began)
    return fastest
