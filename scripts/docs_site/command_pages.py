"""The command-line reference, written from the commands themselves."""

import re
from pathlib import Path
from typing import Any

import typer
from api_pages import write_when_changed
from sphinx.application import Sphinx

__all__ = ["setup"]


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the page before Sphinx looks for its sources."""
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _write(app: Sphinx) -> None:
    from multiturn.cli.app import app as application

    title = "Commands"
    parts = [f"{title}\n{'=' * len(title)}\n"]
    root = typer.main.get_command(application)
    for name, command in _commands(root, "multiturn"):
        parts += [f"{name}\n{'-' * len(name)}\n", _description(command), _table(command)]
    write_when_changed(Path(app.srcdir) / "docs" / "api" / "commands.rst", "\n".join(parts))


def _commands(group: Any, prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, command in group.commands.items():
        full = f"{prefix} {name}"
        found += _commands(command, full) if hasattr(command, "commands") else [(full, command)]
    return found


def _description(command: Any) -> str:
    """The help text; paragraphs with a command line are code."""
    paragraphs = []
    for paragraph in (command.help or "").split("\n\n"):
        text = " ".join(paragraph.split())
        label, _, line = text.partition(": ")
        if label == "Example" and line.strip("`").startswith("multiturn "):
            paragraphs.append(f"::\n\n   {line.strip('`')}")
        else:
            paragraphs.append(_escape(text))
    return "\n\n".join(paragraphs) + "\n"


def _table(command: Any) -> str:
    rows = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    options = ".. list-table::\n   :widths: 30 55 15\n   :header-rows: 1\n"
    lines = [options, "   * - argument\n     - meaning\n     - default"]
    for parameter in rows:
        names = ", ".join(parameter.opts)
        if parameter.param_type_name != "option":
            names = (parameter.metavar or parameter.name).strip("{}[]. ").upper()
        about = _list_or_text(parameter.help or "")
        lines.append(f"   * - ``{names}``\n     - {about}\n     - {_default(parameter)}")
    return "\n".join(lines) + "\n"


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if callable(parameter.default) or parameter.default in (None, False, ()):
        return ""
    return f"``{parameter.default}``"


def _list_or_text(text: str) -> str:
    """A help text; the lines of a list in it stay apart."""
    lines = [_escape(" ".join(line.split())) for line in text.splitlines() if line.strip()]
    return "\n\n       ".join(lines)


def _escape(text: str) -> str:
    """Plain text but for code: help texts are Markdown, of which nothing else is used."""
    parts = text.split("`")
    plain = [re.sub(r"([\\*|_])", r"\\\1", part) for part in parts[::2]]
    code = [f"``{part}``" for part in parts[1::2]]
    return "".join(part for both in zip(plain, [*code, ""], strict=False) for part in both)
