"""Fill in the numbers that pages name as `{{ name }}`; MyST warns of unknown names, and the book's build fails on warnings."""

from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config

from selfimprove_lab.findings import findings


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def name(app: Sphinx, config: Config) -> None:
    """Compute every named number from book/results and give it to MyST as a substitution."""
    config.myst_substitutions = findings(Path(app.srcdir, "results"))
