"""Shared fixtures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
