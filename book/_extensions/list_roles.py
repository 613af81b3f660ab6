"""Remove the role `list` from the list of references, because its entries have the role of bibliography entries, not list items."""

from typing import Any

from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("html-page-context", plain_list)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def plain_list(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object) -> None:
    """Remove the role in the form in which docutils writes it."""
    if "body" in context:
        context["body"] = context["body"].replace('<div role="list" class="citation-list">', '<div class="citation-list">')
