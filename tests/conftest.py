"""Shared fixtures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import torch

# Before torch is imported anywhere: spinning OpenMP threads starve a busy two-core machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# As on the command line: the only progress and warnings shown are our own.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real benchmark data and recordings; tests that need it skip where it is missing."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MULTITURN_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"benchmark data not found in {folder}; set MULTITURN_TEST_DATA to its folder")
    return folder


@pytest.fixture
def double_throughout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models go through float32 in their norms, and Gemma in its softmax; for these tests they do not.

    A float64 mask value would even overflow there: rows of nothing but padding would become NaN.
    """
    import torch

    softmax, to_float, to = torch.nn.functional.softmax, torch.Tensor.float, torch.Tensor.to

    def exact_softmax(scores: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return softmax(scores, dim=dim, dtype=torch.promote_types(dtype or scores.dtype, scores.dtype))

    def exact_float(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():  # positions, which meet the frequencies of a float64 model
            return tensor.double()
        return tensor if tensor.dtype == torch.float64 else to_float(tensor)

    def exact_to(tensor: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        if tensor.dtype == torch.float64 and torch.float32 in (*args, options.get("dtype")):
            return tensor
        return to(tensor, *args, **options)

    monkeypatch.setattr(torch.Tensor, "to", exact_to)
    monkeypatch.setattr(torch.nn.functional, "softmax", exact_softmax)
    monkeypatch.setattr(torch.Tensor, "float", exact_float)
