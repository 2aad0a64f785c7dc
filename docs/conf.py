"""Sphinx: the Markdown of the repository as a site. `make docs` builds it.

The same files are read on a code host, so none has markup of Sphinx's: the table of
contents is added here. The site loads nothing from elsewhere.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from patientsite import __version__

project = "Patient Profile"
version = release = __version__
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = ["*.md", "docs/**.md", "benchmarks/*.md"]
exclude_patterns = ["var", ".venv*"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = project
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
nitpicky = True

CONTENTS = {
    "Use": ["docs/http", "docs/formats"],
    "Run": ["docs/settings", "docs/deploy", "docs/capacity", "docs/operations"],
    "Understand": ["ARCHITECTURE", "docs/decisions/README", "benchmarks/RESULTS"],
    "Change": ["CONTRIBUTING", "docs/testing", "CHANGELOG", "SECURITY"],
}


def _tree(entries: str, caption: str = "") -> str:
    options = ":hidden:\n" + (f":caption: {caption}\n" if caption else "")
    return f"\n```{{toctree}}\n{options}\n{entries}\n```\n"


def add_contents(app: Sphinx, name: str, source: list[str]) -> None:
    """Add what only the site needs: which pages there are, in which order."""
    if name == root_doc:
        for caption, pages in CONTENTS.items():
            source[0] += _tree("\n".join(f"/{page}" for page in pages), caption)
    if name == "docs/decisions/README":
        decisions = sorted(Path(app.srcdir, "docs/decisions").glob("0*.md"))
        source[0] += _tree("\n".join(path.stem for path in decisions))


def add_index(app: Sphinx, failure: Exception | None) -> None:
    """A web server shows index.html first: that is the README."""
    if failure is None:
        shutil.copy(Path(app.outdir, "README.html"), Path(app.outdir, "index.html"))


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", add_contents)
    app.connect("build-finished", add_index)
