"""Read the instructor's notebooks: where they are, which exercises they hold, and which known wrong answers their tests must refuse.

An exercise is a Markdown cell whose heading reads `### Exercise 1.2 (code, 4 points): title`, with all cells up to the next heading. Cells
carry nbgrader's metadata: "locked" cells are the instructor's, "solution" cells are the student's, and "grade" cells have points.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).parent.parent
SESSIONS = Path(__file__).parent / "sessions"
MUTANTS = Path(__file__).parent / "mutants"
EXERCISE = re.compile(r"### Exercise (?P<number>\d+\.\d+) \((?P<kind>\w+), (?P<points>\d+) points\): (?P<title>.+)")


class CourseError(ValueError):
    """Raised if a notebook is not what its session needs; the message says where and what to do."""


@dataclass(frozen=True)
class Exercise:
    """One exercise: its number ("1.2"), kind (pencil, code or experiment), announced points, title, and the ids of its graded cells."""

    number: str
    kind: str
    points: int
    title: str
    graded: tuple[str, ...]


@dataclass(frozen=True)
class Mutant:
    """A known wrong answer: the id of the solution cell it replaces, what is wrong with it, and the source of the whole cell."""

    cell: str
    why: str
    source: str


def session_paths(folder: Path = SESSIONS) -> list[Path]:
    """Return the paths of the instructor's notebooks in a folder, in the order of the course."""
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))


def read(path: Path) -> NotebookNode:
    """Read a notebook, without its outputs.

    Raises:
        CourseError: the file is no notebook.
    """
    try:  # broken JSON and text that is not UTF-8 raise a ValueError; JSON that is no notebook raises various errors
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = []
            cell.metadata.get("nbgrader", {}).get("grade_id")
        nbformat.validate(notebook)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, nbformat.ValidationError) as error:
        raise CourseError(f"{path} cannot be read as a notebook ({type(error).__name__}); give an .ipynb file saved by Jupyter") from error
    return notebook


def role(cell: NotebookNode, name: str) -> bool:
    """Return whether nbgrader's metadata of a cell say `name`: "grade", "solution" or "locked"."""
    return bool(cell.metadata.get("nbgrader", {}).get(name, False))


def grade_id(cell: NotebookNode) -> str:
    """Return the name of a cell in nbgrader's metadata; an empty text if the cell has none."""
    return str(cell.metadata.get("nbgrader", {}).get("grade_id", ""))


def points(cell: NotebookNode) -> float:
    """Return the number of points of a graded cell."""
    return float(cell.metadata["nbgrader"]["points"])


def exercises(notebook: NotebookNode) -> list[Exercise]:
    """Return the exercises of a session, in order."""
    found: list[tuple[re.Match[str], list[str]]] = []
    for cell in notebook.cells:
        heading = EXERCISE.match(cell.source) if cell.cell_type == "markdown" and not grade_id(cell) else None
        if heading:
            found.append((heading, []))
        elif role(cell, "grade"):
            found[-1][1].append(grade_id(cell))
    return [Exercise(m["number"], m["kind"], int(m["points"]), m["title"], tuple(ids)) for m, ids in found]


def mutants(path: Path) -> list[Mutant]:
    """Read the known wrong answers of a session from `course/mutants/`; a block begins with `# %% cell id: what is wrong`."""
    blocks = re.split(r"^# %% ", (MUTANTS / f"{path.stem}.py").read_text(), flags=re.MULTILINE)[1:]
    found = []
    for block in blocks:
        head, _, source = block.partition("\n")
        cell, _, why = head.partition(":")
        found.append(Mutant(cell.strip(), why.strip(), source.strip()))
    return found
