"""Buttons that open a page's notebook elsewhere: only where `repository.url` in _config.yml says where, and a request only when clicked.

The theme would link to the executed copy, which is no part of the repository; the notebook it was made from is. Students' notebooks, from
which the course's pages are made, are not: those pages offer theirs for download, and have no such buttons.
"""

from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", no_dead_buttons)
    app.connect("html-page-context", to_the_source, priority=502)  # the theme makes its buttons at 501
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def no_dead_buttons(app: Sphinx, config: Config) -> None:
    """Without an address of the repository there is nothing to launch."""
    if not config.html_theme_options.get("repository_url"):
        config.html_theme_options["launch_buttons"] = {}


def to_the_source(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object) -> None:
    """Turn executed/x.ipynb into notebooks/x.ipynb in the launch buttons of a page, and take those of the course's pages away."""
    groups = context.get("header_buttons", [])
    if pagename.startswith("executed/course/"):
        context["header_buttons"] = groups = [group for group in groups if group.get("label") != "launch-buttons"]
    for group in groups:
        if group.get("label") == "launch-buttons":
            for button in group["buttons"]:
                button["url"] = button["url"].replace("/executed/", "/notebooks/")
