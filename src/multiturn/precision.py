"""The precision that this machine trains fastest in."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Precision", "default_precision"]

Precision: TypeAlias = Literal["bf16", "fp32"]
"""bfloat16 by autocast over float32 weights, or float32 altogether."""


def default_precision() -> Precision:
    """The faster one of the two, going by what the hardware says of itself.

    Nothing is measured: a machine always gets the same answer, so a run that was killed goes on as it began.
    A launcher that mixes precisions (``accelerate launch --mixed_precision``) has decided already.
    """
    if os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no":
        return "bf16"
    import torch  # here, since settings are read and help is printed without it

    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if _gains_by_bfloat16(torch.cpu.get_capabilities()) else "fp32"


def _gains_by_bfloat16(processor: Mapping[str, Any]) -> bool:
    """Whether a processor multiplies bfloat16 faster than float32; many only know how to convert it."""
    if sys.platform == "darwin":
        return False  # torch's matrix products there are made for float32
    if processor.get("avx512_bf16") and not processor.get("amx_bf16"):
        # Measured: twice as fast on AMD's, 0.6 times as fast on Intel's whose matrix unit is hidden.
        return not str(processor.get("cpu_name", "")).startswith("Intel")
    return any(bool(processor.get(name)) for name in ("amx_bf16", "bf16", "sve_bf16"))
