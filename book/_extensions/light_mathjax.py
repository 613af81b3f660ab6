"""Of MathJax's twelve bundles, a megabyte or two each, the pages load one: the others are not published."""

from pathlib import Path

from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", drop_other_bundles, priority=900)  # sphinx-mathjax-offline copies all of them at 500
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def drop_other_bundles(app: Sphinx, exception: Exception | None) -> None:
    """What the menu of an equation may ask for later lies in folders, which stay."""
    used = Path(app.config.mathjax_path).name
    for bundle in Path(app.outdir, "_static", "mathjax").glob("*.js"):
        if bundle.name != used:
            bundle.unlink()
