"""Let the one-page book use the html handlers of all extensions; Sphinx ignores these as soon as one extension defines its own."""

from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", as_on_its_own_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def as_on_its_own_page(app: Sphinx) -> None:
    """Write nodes that have no handler for the one page (those of sphinx-proof) as on a page of the book."""
    handlers = app.registry.translation_handlers
    if "singlehtml" in handlers:  # otherwise Sphinx uses the handlers of html by itself
        handlers["singlehtml"] = handlers["html"] | handlers["singlehtml"]
