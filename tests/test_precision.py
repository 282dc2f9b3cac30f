"""The precision that a machine trains in, unless it is told."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

from multiturn.pipeline.load import load_config
from multiturn.precision import default_precision

if TYPE_CHECKING:
    from pathlib import Path

XEON = {"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": False}
EPYC = {"cpu_name": "AMD EPYC", "avx512_bf16": True, "amx_bf16": False}


def on_a(monkeypatch: pytest.MonkeyPatch, processor: dict[str, Any], system: str = "linux") -> None:
    """Another machine, without a GPU."""
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor)
    monkeypatch.setattr(sys, "platform", system)


@pytest.mark.parametrize(
    ("processor", "precision"),
    [
        (EPYC, "bf16"),
        (XEON, "fp32"),
        (XEON | {"amx_bf16": True}, "bf16"),
        ({"cpu_name": "Intel Core i7", "avx2": True}, "fp32"),
        ({"bf16": True}, "bf16"),
        ({}, "fp32"),
    ],
)
def test_processors(monkeypatch: pytest.MonkeyPatch, processor: dict[str, Any], precision: str) -> None:
    on_a(monkeypatch, processor)
    assert default_precision() == precision


def test_macs(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a(monkeypatch, {"bf16": True}, "darwin")
    assert default_precision() == "fp32"


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16"), (False, "fp32")])
def test_gpus(monkeypatch: pytest.MonkeyPatch, *, native: bool, precision: str) -> None:
    """One that only emulates bfloat16 is slower in it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert default_precision() == precision


def test_a_launcher_has_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a(monkeypatch, XEON)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert default_precision() == "bf16"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert default_precision() == "fp32"


@pytest.mark.parametrize(("processor", "precision"), [(EPYC, "bf16"), (XEON, "fp32")])
def test_a_run_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processor: dict[str, Any], precision: str
) -> None:
    """What is written down is never ``auto``."""
    on_a(monkeypatch, processor)
    path = tmp_path / "run.yaml"
    path.write_text("name: a\nenvironment: {name: household}\nmethods: [dmpo]\n", encoding="utf-8")
    assert load_config(path, ()).precision == precision
    assert load_config(path, ["precision=auto"]).model_dump()["precision"] == precision
    assert load_config(path, ["precision=fp32"]).precision == "fp32"


def test_help_is_printed_without_torch() -> None:
    code = (
        "import sys; from multiturn.cli import options; from multiturn.cli.train import train; "
        "print('torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - ours
    assert said.stdout.strip() == "False"
