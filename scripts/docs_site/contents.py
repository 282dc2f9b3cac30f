"""The sidebar: what docs/index.md lists under its headings, and the generated pages."""

import re

from sphinx.application import Sphinx

__all__ = ["setup"]

REFERENCE = "Reference"
GENERATED = ("api/commands", "api/index")


def setup(app: Sphinx) -> dict[str, bool]:
    """Give the root page a table of contents."""
    app.connect("source-read", _add_contents)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _add_contents(app: Sphinx, docname: str, source: list[str]) -> None:
    if docname != app.config.root_doc:
        return
    text = source[0]
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        pages = re.findall(r"^- \[[^\]]+\]\(([^)#]+)\.md\)", body, flags=re.MULTILINE)
        if heading == REFERENCE:
            pages += GENERATED
        if pages:
            listed = "\n".join(pages)
            source[0] += f"\n\n```{{toctree}}\n:hidden:\n:caption: {heading}\n\n{listed}\n```\n"
