"""The book as one page: an extension that says how to write only its own nodes there would leave the others' unknown to Sphinx."""

from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", as_on_its_own_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def as_on_its_own_page(app: Sphinx) -> None:
    """Nodes without a handler of their own for the one page (sphinx-proof's) are written as on a page of the book."""
    handlers = app.registry.translation_handlers
    if "singlehtml" in handlers:  # else Sphinx takes those of html by itself
        handlers["singlehtml"] = handlers["html"] | handlers["singlehtml"]
