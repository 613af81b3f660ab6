"""Publish nothing that no reader loads: MathJax bundles, maps for debuggers, mathematics spoken in other languages, pictures twice."""

from pathlib import Path

import nbformat
from sphinx.application import Sphinx

SPOKEN = ("base", "en")  # what MathJax reads equations aloud by, for readers who cannot see them


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", lighten, priority=900)  # sphinx-mathjax-offline copies all bundles at 500
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def lighten(app: Sphinx, exception: Exception | None) -> None:
    """Delete what no page loads, and empty the notebooks that readers download: their outputs are on the pages.

    Other folders of MathJax stay, because an equation's menu may request what is in them later.
    """
    out = Path(app.outdir)
    mathjax = out / "_static" / "mathjax"
    for bundle in mathjax.glob("*.js"):
        if bundle.name != Path(app.config.mathjax_path).name:
            bundle.unlink()
    for spoken in mathjax.glob("sre/mathmaps/*.json"):
        if spoken.stem not in SPOKEN:
            spoken.unlink()
    for debugging in (out / "_static").rglob("*.map"):
        debugging.unlink()
    for path in (out / "_sources").rglob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, path)
