"""Link a page's launch buttons to its source notebook, if `repository.url` in _config.yml is set; only a click sends a request.

The theme would link to the executed copy, which is not in the repository. This extension links to the notebook that the copy was made from.
The course's pages are made from students' notebooks, which are not in the repository either. Those pages offer the notebook for download
and have no launch buttons.
"""

from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", no_dead_buttons)
    app.connect("html-page-context", to_the_source, priority=502)  # the theme adds its buttons at priority 501
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def no_dead_buttons(app: Sphinx, config: Config) -> None:
    """Remove the launch buttons if the repository has no address, because there is nothing to launch then."""
    if not config.html_theme_options.get("repository_url"):
        config.html_theme_options["launch_buttons"] = {}


def to_the_source(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object) -> None:
    """Turn executed/x.ipynb into notebooks/x.ipynb in a page's launch buttons, and remove the buttons from the course's pages."""
    groups = context.get("header_buttons", [])
    if pagename.startswith("executed/course/"):
        context["header_buttons"] = groups = [group for group in groups if group.get("label") != "launch-buttons"]
    for group in groups:
        if group.get("label") == "launch-buttons":
            for button in group["buttons"]:
                button["url"] = button["url"].replace("/executed/", "/notebooks/")
