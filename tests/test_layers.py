"""Imports go downward only: an earlier layer never imports a later one."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import multiturn

# From the bottom to the top; `progress` is a leaf that every layer that works long may use.
LAYERS = (
    "errors",
    "files",
    "cache",
    "memory",
    "launch",
    "precision",
    "fields",
    "trajectory",
    "jsonl",
    "progress",
    "formats",
    "objective",
    "tokens",
    "models",
    "training",
    "envs",
    "agents",
    "rollouts",
    "pairs",
    "evaluation",
    "reports",
    "inspection",
    "pipeline",
    "doctor",
    "bench",
    "cli",
    "__main__",
)
PACKAGE = Path(multiturn.__file__).parent
PURE = ("objective", "pairs", "evaluation")
"""Layers that are functions of values: no torch devices to choose, no files, no clock."""
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def layer_of(module: str) -> str:
    return module.split(".")[1]


def imported_modules(tree: ast.AST) -> list[str]:
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, "relative imports hide the layer"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_its_own_layer_and_lower_ones(path: Path) -> None:
    module = ".".join(["multiturn", *path.relative_to(PACKAGE).with_suffix("").parts])
    own = LAYERS.index(layer_of(module))
    for name in imported_modules(ast.parse(path.read_text(encoding="utf-8"))):
        if name.startswith("multiturn.") and name.split(".")[1] in LAYERS:
            other = LAYERS.index(layer_of(name))
            assert other <= own, f"{module} imports {name}, which lies above it"


@pytest.mark.parametrize("layer", PURE)
def test_pure_layers_touch_no_files_and_no_clock(layer: str) -> None:
    forbidden = {"os", "io", "time", "datetime", "random", "pathlib", "subprocess", "transformers"}
    for path in (PACKAGE / layer).rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        used = {name.split(".")[0] for name in imported_modules(tree)}
        assert not used & forbidden, f"{path.name} imports {sorted(used & forbidden)}"


def test_every_module_belongs_to_a_layer() -> None:
    for path in MODULES:
        assert path.relative_to(PACKAGE).parts[0].removesuffix(".py") in LAYERS
