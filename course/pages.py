"""python -m course.pages: make the book's session pages from the students' copies, in book/executed/course/ (not in git).

Exercises become directives of sphinx-exercise on the page alone, so that a notebook reads well in Jupyter. Tests are folded away. Paths of
notebooks and chapters become links. The pictures of the lecture are drawn. A page offers the student's notebook itself for download.
"""

import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from course.release import release, student_copy
from course.sessions import EXERCISE, ROOT, read, role, session_paths
from course.slides import SHOWN, executed, slide_type

PAGES = ROOT / "book" / "executed" / "course"
LINKS = ((re.compile(r"`notebooks/([\w.]+\.ipynb)`"), r"[](../\1)"), (re.compile(r"`book/chapters/(\w+\.md)`"), r"[](../../chapters/\1)"))


def directive(source: str) -> str:
    """Return an exercise's Markdown as a directive of sphinx-exercise."""
    heading, _, body = source.partition("\n")
    said = EXERCISE.match(heading)
    assert said is not None
    title = f"{said['number']}, {said['kind']}, {said['points']} points: {said['title']}"
    return f"````{{exercise}} {title}\n:label: exercise-{said['number'].replace('.', '-')}\n:nonumber:\n\n{body.strip()}\n````"


def linked(source: str) -> str:
    """Return Markdown in which paths of notebooks and chapters are links."""
    for path, link in LINKS:
        source = path.sub(link, source)
    return source


def page(source: NotebookNode, name: str) -> NotebookNode:
    """Return a page of the book: what a student sees and what the lecture's slides show, without the cells for answers in words."""
    copy, cells = student_copy(source), []
    lecture = {cell.id: cell.outputs for cell in executed(source).cells if cell.cell_type == "code" and slide_type(cell) in SHOWN}
    for cell in copy.cells:
        if cell.cell_type == "markdown" and role(cell, "solution"):
            continue
        if cell.cell_type == "markdown":
            cell.source = linked(directive(cell.source) if EXERCISE.match(cell.source) else cell.source)
        elif role(cell, "grade"):
            cell.metadata["tags"] = ["hide-input"]
        elif cell.id in lecture:
            cell.outputs = lecture[cell.id]
        cells.append(cell)
    said = "It has these exercises with cells for your answers; tests are folded away below."
    offer = f"{{download}}`The notebook to work in <notebooks/{name}>`. {said}"
    copy.cells = [cells[0], nbformat.v4.new_markdown_cell(offer, id="offer"), *cells[1:]]
    return copy


def write_pages(folder: Path = PAGES) -> list[Path]:
    """Write all pages and the notebooks they offer, and return the pages' paths."""
    release(folder / "notebooks")
    written = []
    for path in session_paths():
        nbformat.write(page(read(path), path.name), folder / path.name)
        written.append(folder / path.name)
    return written


if __name__ == "__main__":
    for made in write_pages():
        print(made.relative_to(ROOT))
