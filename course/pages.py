"""python -m course.pages: make the book's session pages from the students' copies, in book/executed/course/ (not in git).

Exercises become directives of sphinx-exercise on the page alone, so that a notebook reads well in Jupyter. Tests are folded away. Paths of
notebooks and chapters become links. The pictures of the lecture are drawn. A page offers the student's notebook itself for download. Slides
and the zip of the course go to book/executed/extra/, which Sphinx copies beside the pages.
"""

import copy
import re
import shutil
import zipfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from course.pictures import png
from course.release import release, student_copy
from course.sessions import EXERCISE, ROOT, CourseError, read, role, session_paths
from course.slides import write_slides

PAGES = ROOT / "book" / "executed" / "course"
EXTRA = ROOT / "book" / "executed" / "extra"  # copied as it is beside the book's pages
EXTRAS = (Path("course/lab/one_dimension.ipynb"), Path("course/sample_project/project.ipynb"), Path("course/sample_project/marks.md"))
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


def lecture_cells(source: NotebookNode) -> NotebookNode:
    """Return the setup of a session and the code cells before its first exercise, which draw the pictures of its page.

    Raises:
        CourseError: one of these cells is a solution or a test.
    """
    notebook = copy.deepcopy(source)
    first = next(i for i, cell in enumerate(notebook.cells) if cell.cell_type == "markdown" and EXERCISE.match(cell.source))
    notebook.cells = [cell for cell in notebook.cells[:first] if cell.cell_type == "code"]
    if wrong := [cell.id for cell in notebook.cells if role(cell, "solution") or role(cell, "grade")]:
        raise CourseError(f"cells {wrong} are solutions or tests and must not stand before the first exercise; move them")
    return notebook


def executed(source: NotebookNode) -> NotebookNode:
    """Return the cells that draw the page's pictures, with their outputs; nothing is executed if there is only the setup."""
    notebook = lecture_cells(source)
    if len(notebook.cells) > 1:
        NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": ROOT}}).execute()
    return notebook


def page(source: NotebookNode, name: str) -> NotebookNode:
    """Return a page of the book: what a student sees and the pictures of the lecture, without the cells for answers in words."""
    student, cells = student_copy(source), []
    lecture = {cell.id: cell.outputs for cell in executed(source).cells if not role(cell, "locked")}
    for cell in student.cells:
        if cell.cell_type == "markdown" and role(cell, "solution"):
            continue
        if cell.cell_type == "markdown":
            cell.source = linked(directive(cell.source) if EXERCISE.match(cell.source) else cell.source)
        elif role(cell, "grade"):
            cell.metadata["tags"] = ["hide-input"]
        elif cell.id in lecture:
            cell.outputs = lecture[cell.id]
        cells.append(cell)
    said = (
        "It has these exercises with cells for your answers; tests are folded away below. The slides are on [](../../chapters/course.md)."
    )
    offer = f"{{download}}`The notebook to work in <notebooks/{name}>`. {said}"
    student.cells = [cells[0], nbformat.v4.new_markdown_cell(offer, id="offer"), *cells[1:]]
    return student


def write_pages(folder: Path = PAGES) -> list[Path]:
    """Write all pages and the notebooks they offer, and return the pages' paths."""
    release(folder / "notebooks")
    written = []
    for path in session_paths():
        nbformat.write(page(read(path), path.name), folder / path.name)
        written.append(folder / path.name)
    return written


def write_extras(folder: Path = EXTRA, pages: Path = PAGES) -> list[Path]:
    """Write what the course offers beside its pages: slides, the chart of sessions, lab and sample project, and all of it in one zip.

    The zip holds what students and lecturers need and no model answer: slides, students' notebooks, lab, and sample project.
    """
    shutil.rmtree(folder, ignore_errors=True)
    pages.mkdir(parents=True, exist_ok=True)
    write_slides(folder / "slides")
    for name in ("dependencies", "five-sessions"):
        (pages / f"{name}.png").write_bytes(png(name))
    with zipfile.ZipFile(folder / "course.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(p for p in (folder / "slides").rglob("*") if p.is_file()):
            archive.write(path, path.relative_to(folder).as_posix())
        for path in sorted((pages / "notebooks").glob("*.ipynb")):
            archive.write(path, f"notebooks/{path.name}")
        for path in EXTRAS:
            shutil.copyfile(ROOT / path, pages / "notebooks" / path.name)
            archive.write(ROOT / path, path.relative_to("course").as_posix())
    return [folder / "slides", folder / "course.zip"]


if __name__ == "__main__":
    for made in [*write_pages(), *write_extras()]:
        print(made.relative_to(ROOT))
