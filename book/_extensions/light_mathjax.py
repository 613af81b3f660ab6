"""Publish only the MathJax bundle that the pages load; MathJax has twelve bundles of one or two megabytes each."""

from pathlib import Path

from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", drop_other_bundles, priority=900)  # sphinx-mathjax-offline copies all bundles at 500
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def drop_other_bundles(app: Sphinx, exception: Exception | None) -> None:
    """Delete the bundles that no page loads. Folders stay, because an equation's menu may request what is in them later."""
    used = Path(app.config.mathjax_path).name
    for bundle in Path(app.outdir, "_static", "mathjax").glob("*.js"):
        if bundle.name != used:
            bundle.unlink()
