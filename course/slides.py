"""python -m course.slides [folder]: make slides of every session, one HTML file per session that needs no network.

A cell's `slideshow` metadata place the cell, as in nbconvert: "slide" begins a slide, "fragment" continues it, all other cells are left
out. Of code cells the pictures and printed text are shown, not the code. MathJax is copied from the wheel sphinx-mathjax-offline, which the
book uses too. Arrow keys, space and page keys turn slides; printing makes one page per slide.
"""

import argparse
import copy
import html
import importlib.util
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from nbclient import NotebookClient
from nbconvert.filters.markdown_mistune import markdown2html_mistune
from nbformat import NotebookNode

from course.sessions import ROOT, CourseError, read, role, session_paths

SLIDES = ROOT / "runs" / "course" / "slides"
SHOWN = ("slide", "fragment")


def slide_type(cell: NotebookNode) -> str:
    """Return the slide type in the metadata of a cell; an empty text if there is none."""
    return str(cell.metadata.get("slideshow", {}).get("slide_type", ""))


def shown_cells(source: NotebookNode) -> NotebookNode:
    """Return the notebook with the cells that slides need: the shown cells, and the setup that their code relies on.

    Raises:
        CourseError: a solution or a test is marked for a slide.
    """
    notebook = copy.deepcopy(source)
    setup = [c for c in notebook.cells if role(c, "locked") and not role(c, "grade")][:1]
    shown = [c for c in notebook.cells if slide_type(c) in SHOWN]
    if wrong := [c.id for c in shown if role(c, "solution") or role(c, "grade")]:
        raise CourseError(f"cells {wrong} are solutions or tests and must not stand on slides; take their slideshow metadata away")
    notebook.cells = setup + shown
    return notebook


def rendered(cell: NotebookNode) -> str:
    """Return the HTML of a Markdown cell's text, or of a code cell's outputs."""
    if cell.cell_type == "markdown":
        return str(markdown2html_mistune(cell.source))
    parts = []
    for output in cell.outputs:
        data = output.get("data", {})
        if "image/png" in data:
            words = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            parts.append(f'<img alt="{html.escape(words)}" src="data:image/png;base64,{data["image/png"].strip()}">')
        elif output.output_type == "stream" and output.name == "stdout":
            parts.append(f"<pre>{html.escape(output.text)}</pre>")
    return "\n".join(parts)


def mathjax() -> str:
    """Return MathJax with SVG output, from the installed wheel, as one script.

    Raises:
        CourseError: the wheel is not installed.
    """
    found = importlib.util.find_spec("sphinx-mathjax-offline")
    if found is None or found.origin is None:
        raise CourseError("sphinx-mathjax-offline is not installed; pip install -e '.[book]'")
    script = (Path(found.origin).parent / "static" / "mathjax" / "tex-svg.js").read_text()
    return script.replace("</script", "<\\/script")


def executed(source: NotebookNode) -> NotebookNode:
    """Return the cells that slides need, with their outputs; nothing is executed if no code cell is shown."""
    notebook = shown_cells(source)
    if any(c.cell_type == "code" and slide_type(c) in SHOWN for c in notebook.cells):
        NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": ROOT}}).execute()
    return notebook


def slides_html(source: NotebookNode) -> str:
    """Execute one session's slides, and return them as HTML."""
    notebook = executed(source)
    slides: list[str] = []
    for cell in notebook.cells:
        if slide_type(cell) == "slide":
            slides.append(rendered(cell))
        elif slide_type(cell) == "fragment":
            slides[-1] += rendered(cell)
    title = notebook.cells[1].source.splitlines()[0].removeprefix("# ") if slides else ""
    page = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True).get_template("slides.html")
    return page.render(title=title, slides=slides, mathjax=mathjax())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m course.slides", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=SLIDES, help="where to write; default: runs/course/slides")
    folder = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    for path in session_paths():
        target = folder / f"{path.stem}.html"
        target.write_text(slides_html(read(path)))
        print(target)


if __name__ == "__main__":
    main()
