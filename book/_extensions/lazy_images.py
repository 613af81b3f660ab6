"""Load each picture when it comes near the screen, and reserve its space before, so that no anchor moves while pictures load."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from PIL import Image
from sphinx.application import Sphinx

PICTURE = re.compile(r'<img (?=[^>]*src="[^"]*_images/([^"]+)")(?![^>]*loading=)')


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("html-page-context", make_lazy)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def make_lazy(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object) -> None:
    """Give each picture of a page the attribute `loading`, and its width and height in pixels."""
    sources = {name: Path(app.srcdir, source) for source, name in app.builder.images.items()}

    def attributes(found: re.Match[str]) -> str:
        with Image.open(sources[unquote(found[1])]) as image:
            return f'<img loading="lazy" width="{image.width}" height="{image.height}" '

    if "body" in context and app.builder.name == "html":  # the printed version loads all pictures at once
        context["body"] = PICTURE.sub(attributes, context["body"])
