"""Put drawings into a page as HTML, made when the book is built: diagrams, and figures that compute in the browser.

`{diagram} spin-round` draws one of `selfimprove_lab.figures.diagrams`, `{world} factors` one of `selfimprove_lab.figures.world`, and
`{live} sampling` one of `selfimprove_lab.figures.live`. The directive's content is the caption. A drawing inside the page, unlike a picture
file, takes the page's colours.
"""

from collections.abc import Callable
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from selfimprove_lab.figures import diagrams, live, world

HERE = Path(diagrams.__file__).parent


class Drawing(SphinxDirective):
    """A figure whose picture is HTML."""

    required_arguments = 1
    has_content = True
    option_spec = {"name": directives.unchanged}  # noqa: RUF012 (so is docutils' own)
    draw: Callable[[str], str]

    def run(self) -> list[nodes.Node]:
        """Return the figure; an unknown name and a missing caption end the build."""
        self.assert_has_content()
        try:
            drawn = type(self).draw(self.arguments[0])
        except ValueError as wrong:
            raise self.error(str(wrong)) from None
        for path in sorted(HERE.rglob("*.py")) + sorted(HERE.rglob("*.js")):
            self.env.note_dependency(str(path))
        figure = nodes.figure("", nodes.raw("", drawn, format="html"), classes=["drawing"])
        words = nodes.container()
        self.state.nested_parse(self.content, self.content_offset, words)
        first, *rest = words.children
        figure += nodes.caption("", "", *first.children)
        if rest:
            figure += nodes.legend("", *rest)
        self.set_source_info(figure)
        self.add_name(figure)
        return [figure]


class Diagram(Drawing):
    draw = staticmethod(diagrams.svg)


class World(Drawing):
    draw = staticmethod(world.svg)


class Live(Drawing):
    draw = staticmethod(live.markup)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("diagram", Diagram)
    app.add_directive("world", World)
    app.add_directive("live", Live)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
