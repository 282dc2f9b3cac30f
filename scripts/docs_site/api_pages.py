"""The API reference: a page for each package, with every public name of its modules."""

import ast
import enum
import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docstrings import complaints
from references import import_for_types
from sphinx.application import Sphinx
from sphinx.util import logging

__all__ = ["setup", "write_when_changed"]

_LOG = logging.getLogger(__name__)
ROOT = "multiturn"
ORDER = (
    "objective",
    "tokens",
    "models",
    "training",
    "envs",
    "agents",
    "rollouts",
    "formats",
    "pairs",
    "evaluation",
    "reports",
    "pipeline",
    "bench",
)
LEFT_OUT = ("cli",)
"""The command line has a page of its own."""
LONGEST_VALUE = 70


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A package: its modules, and the packages in it."""

    name: str
    modules: tuple[str, ...]
    packages: tuple[str, ...]


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages before Sphinx looks for its sources."""
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write_when_changed(path: Path, text: str) -> None:
    """Write a file unless it says the same already, so that Sphinx reads again only what has changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def _write(app: Sphinx) -> None:
    folder = Path(app.srcdir) / "docs" / "api"
    pages = _pages(ROOT)
    modules = {name: importlib.import_module(name) for page in pages for name in (page.name, *page.modules)}
    for module in modules.values():
        import_for_types(module)
        for complaint in complaints(module):
            _LOG.warning("%s", complaint, type="docstring")
    for page in pages:
        write_when_changed(folder / f"{page.name}.rst", _page(page, modules))
    write_when_changed(folder / "index.rst", _index([page.name for page in pages]))
    written = {f"{page.name}.rst" for page in pages} | {"index.rst", "commands.rst"}
    for stale in folder.glob("*.rst"):
        if stale.name not in written:
            stale.unlink()


def _pages(package: str) -> list[Page]:
    """A package's page, and those of the packages in it."""
    path = importlib.import_module(package).__path__
    inside = [module for module in pkgutil.iter_modules(path) if not module.name.startswith("_")]
    if package == ROOT:
        inside = [module for module in inside if module.name not in LEFT_OUT]
    packages = tuple(f"{package}.{module.name}" for module in inside if module.ispkg)
    modules = tuple(f"{package}.{module.name}" for module in inside if not module.ispkg)
    own = Page(name=package, modules=modules, packages=() if package == ROOT else packages)
    return [own, *(page for name in packages for page in _pages(name))]


def _index(pages: list[str]) -> str:
    """The list of the packages: those of `ORDER` first, then others."""
    top = [name.removeprefix(f"{ROOT}.") for name in pages if name.count(".") == 1]
    ordered = [*ORDER, *(name for name in top if name not in ORDER)]
    names = "\n".join(f"   {name}" for name in (ROOT, *(f"{ROOT}.{name}" for name in ordered)))
    return f"{_title('API reference', '=')}\n.. toctree::\n   :maxdepth: 1\n\n{names}\n"


def _page(page: Page, modules: dict[str, Any]) -> str:
    package = modules[page.name]
    parts = [_title(page.name, "="), f".. automodule:: {page.name}\n", *_members(package)]
    handed_on = [name for name in getattr(package, "__all__", ()) if name not in _definitions(package)]
    if handed_on:
        names = ", ".join(f":py:obj:`~{page.name}.{name}`" for name in handed_on)
        parts.append(f"To be imported from ``{page.name}``: {names}.\n")
    if page.packages:
        parts.append(".. toctree::\n   :maxdepth: 1\n\n" + "".join(f"   {name}\n" for name in page.packages))
    for name in page.modules:
        parts += [_title(name.removeprefix(f"{page.name}."), "-"), f".. automodule:: {name}\n"]
        parts += _members(modules[name])
    return "\n".join(parts)


def _title(text: str, line: str) -> str:
    return f"{text}\n{line * len(text)}\n"


def _members(module: Any) -> list[str]:
    """A directive for each public name that the module itself defines."""
    defined = _definitions(module)
    names = [name for name in defined if name in getattr(module, "__all__", ())]
    return [_directive(module, name, defined[name]) for name in names]


def _directive(module: Any, name: str, comment: str) -> str:
    value = getattr(module, name)
    if isinstance(value, type) and value.__qualname__ == name:
        undocumented = "   :undoc-members:\n" if issubclass(value, enum.Enum) else ""
        bases = "" if value.__bases__ == (object,) else "   :show-inheritance:\n"
        return f".. autoclass:: {module.__name__}.{name}\n   :members:\n{bases}{undocumented}"
    if callable(value) and getattr(value, "__name__", "") == name:
        return f".. autofunction:: {module.__name__}.{name}\n"
    hidden = "" if _is_plain(value) else "   :no-value:\n"
    said = f"\n   {comment}\n" if comment else ""
    return f".. autodata:: {module.__name__}.{name}\n{hidden}{said}"


def _is_plain(value: object) -> bool:
    """Whether a constant's value says something to a reader."""
    parts = value if isinstance(value, tuple | frozenset) else (value,)
    return all(isinstance(part, str | int | float) for part in parts) and len(repr(value)) <= LONGEST_VALUE


def _definitions(module: Any) -> dict[str, str]:
    """The names that a module defines at its top level, each with the comment right above it."""
    text = Path(module.__file__).read_text(encoding="utf-8")
    lines = text.splitlines()
    found: dict[str, str] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = ""
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    found[target.id] = _comment_above(lines, node.lineno - 1)
    return found


def _comment_above(lines: list[str], index: int) -> str:
    comment: list[str] = []
    while index > 0 and lines[index - 1].startswith("# "):
        index -= 1
        comment.insert(0, lines[index].removeprefix("# "))
    return " ".join(comment)
