"""Sphinx's configuration: `make docs` builds the site in build/docs, with every warning an error.

The pages are the Markdown files as they stand in the repository, whose root is the source folder: so
their links are the same on the site as in a checkout. The API reference is written into docs/api from the
docstrings first.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "multiturn"
author = "The multiturn authors"
project_copyright = author
language = "en"
root_doc = "docs/index"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**.md", "docs/api/**.rst"]
exclude_patterns = [".*", "build", "dist", "runs", "scripts", "src", "tests", "shared"]
nitpicky = True
smartquotes = False  # an option keeps its two hyphens
highlight_language = "none"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "api_pages",
    "command_pages",
    "contents",
    "formulas",
    "references",
]
myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # a changelog's headings may skip a level

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 90
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"
napoleon_use_ivar = True
napoleon_numpy_docstring = False
default_role = "code-or-name"

html_theme = "furo"
html_title = "multiturn"
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_extra_path = ["extra"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
