"""What is wrong with a module's docstrings: nothing said, or something said of what is not there."""

import dataclasses
import inspect
import re
from collections.abc import Iterator
from typing import Any

__all__ = ["complaints"]

SECTIONS = ("Args", "Attributes", "Raises", "Returns", "Yields", "Example", "Examples", "Note")


def complaints(module: Any) -> Iterator[str]:
    """What a module's docstrings lack.

    Args:
        module: An imported module of the package.

    Yields:
        A sentence for each public name without a docstring, each argument and field that is described but not
        there, and each that is there but not described where others are.
    """
    if not inspect.getdoc(module):
        yield f"{module.__name__} has no docstring"
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        if getattr(value, "__module__", None) != module.__name__:
            continue
        where = f"{module.__name__}.{name}"
        if inspect.isclass(value) and value.__qualname__ == name:
            yield from _of_class(where, value)
        elif inspect.isfunction(value):
            yield from _of_function(where, value, value)


def _of_class(where: str, value: type) -> Iterator[str]:
    yield from _of_function(where, value, value.__init__)  # type: ignore[misc]
    yield from _of_fields(where, value)
    for name, member in vars(value).items():
        if name.startswith("_"):
            continue
        function = getattr(member, "__func__", member)
        if isinstance(member, property) and not inspect.getdoc(member):
            yield f"{where}.{name} has no docstring"
        elif inspect.isfunction(function) and function.__module__ == value.__module__:
            yield from _of_function(f"{where}.{name}", getattr(value, name), function)


def _of_function(where: str, documented: Any, called: Any) -> Iterator[str]:
    text = inspect.getdoc(documented)
    if not text:
        yield f"{where} has no docstring"
        return
    described = _entries(text, "Args")
    if not described:
        return
    parameters = _parameters(documented, called)
    for name in described:
        if name not in parameters:
            yield f"{where} describes the argument {name}, which it does not have"
    for name in parameters:
        if name not in described:
            yield f"{where} does not describe its argument {name}"


def _parameters(documented: Any, called: Any) -> list[str]:
    if inspect.isclass(documented) and dataclasses.is_dataclass(documented):
        return [field.name for field in dataclasses.fields(documented) if field.init]
    names = [name for name in inspect.signature(called).parameters if name not in ("self", "cls")]
    return [name for name in names if not name.startswith("_")]


def _of_fields(where: str, value: type) -> Iterator[str]:
    own = [name for name in vars(value).get("__annotations__", {}) if not name.startswith("_")]
    inherited = {name for base in value.__mro__[1:] for name in vars(base).get("__annotations__", {})}
    said = inspect.getdoc(value) or ""
    described = _entries(said, "Attributes")
    for name in own if described else ():
        if name not in inherited and not re.search(rf"\b{name}\b", said) and not _has_text(value, name):
            yield f"{where} does not describe its field {name}"
    known = {*own, *inherited, *dir(value)}
    for name in described:
        if name not in known and f"self.{name}" not in inspect.getsource(value):
            yield f"{where} describes the field {name}, which it does not have"


def _has_text(value: type, name: str) -> bool:
    """Whether a field has a comment above it or a docstring below."""
    lines = inspect.getsource(value).splitlines()
    for above, line, below in zip(["", *lines], lines, [*lines[1:], ""], strict=False):
        if re.match(rf"\s+{name}\s*:", line):
            return above.strip().startswith("#") or below.strip().startswith(('"""', '"', "'"))
    return False


def _entries(text: str, section: str) -> list[str]:
    """The names that a section of a docstring describes."""
    body = re.search(rf"^{section}:\n((?:[ \t]+.*\n?|\n)*)", text, flags=re.MULTILINE)
    if body is None:
        return []
    found = re.findall(r"^    (\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \([^)]*\))?:", body[1], flags=re.MULTILINE)
    return [name.lstrip("*") for names in found for name in names.split(", ")]
