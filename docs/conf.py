"""The documentation site, which `make docs` builds. Pages lie where a reader of the repository looks for them, so the
repository's root is the source folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import convbert

project = "convbert"
author = "the convbert authors"
release = convbert.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

root_doc = "docs/index"
include_patterns = [
    "docs/**",
    "benchmarks/**",
    "src/convbert/models/english/README.md",
    "src/convbert/models/sentences/README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 3

default_role = "code"  # docstrings mark code with single backticks
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = "convbert"
html_copy_source = False
html_show_copyright = False


def setup(app: Any) -> None:
    app.connect("build-finished", _point_to_home)


def _point_to_home(app: Any, error: Exception | None) -> None:
    """The site's own address leads to its first page."""
    if error is None and app.builder.format == "html":
        page = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=docs/index.html">'
        (Path(app.outdir) / "index.html").write_text(page + "<title>convbert</title>\n", encoding="utf-8")
