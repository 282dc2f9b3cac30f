"""Fixtures of the training tests: tiny random models and toy data."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import pytest
import torch
from training_samples import policy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from multiturn.models import Policy


@pytest.fixture(autouse=True, scope="session")
def _light_collections() -> Iterator[None]:
    """Every training collects garbage once; what the imports left needs no looking at again."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tiny models are slower on two threads than on one; results do not depend on how busy the machine is."""
    monkeypatch.setenv("MULTITURN_PROGRESS", "off")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny() -> Policy:
    """A random policy; equal weights every time."""
    return policy()


@pytest.fixture
def run_options(tmp_path: Any) -> dict[str, Any]:
    """Arguments that every config of these tests starts from."""
    return {"output_dir": str(tmp_path / "out"), "logging_steps": 1, "save_strategy": "no", "warmup_steps": 0}
