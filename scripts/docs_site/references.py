"""Names in docstrings and signatures: one of multiturn becomes a link or fails the build; others are code."""

import ast
import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any, TypeVar

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx.environment import BuildEnvironment
from sphinx.ext.napoleon.docstring import GoogleDocstring

__all__ = ["import_for_types", "setup"]

NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
OWN = "multiturn"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the role of single backticks, and what becomes of names that are not found."""
    app.add_role("code-or-name", _code_or_name)
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    app.connect("missing-reference", _resolve)
    app.connect("autodoc-process-signature", _shorten)
    app.connect("autodoc-process-docstring", _drop_words_of_the_type)
    app.connect("autodoc-process-docstring", _prepare, priority=400)  # before napoleon, whose is 500
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def import_for_types(module: Any) -> None:
    """Give a module the names that it imports for its types alone, so that annotations can be evaluated."""
    source = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    for node in source.body:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for statement in node.body:
                code = compile(ast.Module([statement], []), module.__file__, "exec")
                exec(code, vars(module))  # noqa: S102 - our own imports


def _code_or_name(
    role: str, rawtext: str, text: str, line: int, inliner: Any, *_: Any
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """What stands in single backticks: a Python name, or else code."""
    del role, line
    if NAME.fullmatch(text) is None:
        return [nodes.literal(rawtext, text)], []
    environment = inliner.document.settings.env
    within = {key: environment.ref_context.get(key) for key in ("py:module", "py:class")}
    reference = addnodes.pending_xref(
        rawtext,
        nodes.literal(rawtext, text, classes=["xref"]),
        refdomain="py",
        reftype="obj",
        reftarget=text,
        refdoc=environment.docname,
        refwarn=True,
        **within,
    )
    return [reference], []


def _resolve(
    app: Sphinx, environment: BuildEnvironment, reference: addnodes.pending_xref, content: nodes.Element
) -> nodes.Node | None:
    """Find what the Python domain did not: re-exported names, and names that other modules define."""
    if reference.get("refdomain") != "py":
        return None
    target = reference["reftarget"]
    known = environment.domains["py"].objects  # type: ignore[attr-defined]
    own = target.startswith(f"{OWN}.")
    found = _home(target) if own else _by_last_part(target, known)
    if found in known:
        entry = known[found]
        uri = app.builder.get_relative_uri(reference["refdoc"], entry.docname)
        return nodes.reference(
            "", "", content, internal=True, refuri=f"{uri}#{entry.node_id}", reftitle=found
        )
    return None if own and not _is_nobodys_business(found) else content


def _by_last_part(target: str, known: Any) -> str:
    """The one documented name that ends in the target; nothing where there are several or none."""
    ends = [name for name in known if name.endswith(f".{target}")]
    return ends[0] if len(ends) == 1 else ""


def _home(target: str) -> str:
    """Where a name is defined that a module may only hand on."""
    module, _, name = target.rpartition(".")
    try:
        source = importlib.import_module(module).__file__
    except ImportError:
        return target
    for node in ast.walk(ast.parse(Path(str(source)).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            return _home(f"{node.module}.{name}")
    return target


def _is_nobodys_business(target: str) -> bool:
    """Whether a name is private, or a type variable: a signature may show it, and no page describes it."""
    if any(part.startswith("_") for part in target.split(".")):
        return True
    module, _, name = target.rpartition(".")
    return isinstance(getattr(sys.modules.get(module), name, None), TypeVar)


def _drop_words_of_the_type(
    app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]
) -> None:
    """A constant without a docstring is not described by that of its type."""
    del app, name, options
    if what == "data" and lines and inspect.getdoc(type(value)) == "\n".join(lines).strip():
        lines.clear()


def _prepare(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Keep napoleon from taking what stands before a colon for a type where the text is a sentence."""
    for index, line in enumerate(lines[:-1]):
        if line in ("Returns:", "Yields:"):
            lines[index] = f":{line[:-1].lower()}: {lines.pop(index + 1).strip()}"
            break
    if what in ("attribute", "data", "property"):
        # It reads their first line as "type: text", and none of their sections.
        text = GoogleDocstring(lines, app.config, app, "method", name, value, options)
        lines[:] = ["", *text.lines()]


def _shorten(
    app: Sphinx, what: str, name: str, value: Any, options: Any, *signature: str | None
) -> tuple[str | None, ...]:
    """Protocols and enumerations are not called: what Python would say of their arguments tells nothing."""
    del app, name, options
    if what == "class" and (getattr(value, "_is_protocol", False) or hasattr(value, "__members__")):
        return "", None
    return signature
