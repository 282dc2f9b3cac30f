"""Formulas as MathML, which browsers draw themselves: no script, no font, no network."""

from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

__all__ = ["setup"]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer ``mathml``."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(_mathml(node.astext(), block=False))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="formula">{_mathml(node.astext(), block=True)}</div>\n')
    raise nodes.SkipNode


def _mathml(formula: str, *, block: bool) -> str:
    try:
        # The converter knows dots by their place only.
        return str(tex2mathml(formula.replace(r"\dots", r"\ldots"), as_block=block))
    except Exception as error:
        raise ExtensionError(f"the formula {formula!r} cannot be written as MathML: {error}") from error
