"""The layer of the objectives stands on torch and the standard library alone."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
import torch
import torch.nn.functional
import multiturn
before = set(sys.modules)
import multiturn.objective
loaded = {name for name in set(sys.modules) - before}
foreign = {name for name in loaded if name.partition(".")[0] not in {*sys.stdlib_module_names, "multiturn"}}
layers = {name.split(".")[1] for name in loaded if name.startswith("multiturn.")}
print(sorted(foreign), sorted(layers))
"""


def test_importing_the_objectives_loads_torch_and_nothing_else() -> None:
    answer = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True)  # noqa: S603
    assert answer.stdout.strip() == "[] ['objective']"
