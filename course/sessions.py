"""The instructor's notebooks: where they are, which exercises they hold, and which known wrong answers their tests must refuse.

An exercise is a markdown cell whose heading reads `### Exercise 1.2 (code, 4 points): title`, with all cells up to the next heading.
Cells carry nbgrader's metadata: locked ones are the instructor's, solution ones the student's, grade ones have points.
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
    """A notebook is not what its session needs; the message says where and what to do."""


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
    """A known wrong answer: the id of the solution cell it goes into, what is wrong with it, and the whole cell."""

    cell: str
    why: str
    source: str


def session_paths() -> list[Path]:
    """The instructor's notebooks, in the order of the course."""
    return sorted(SESSIONS.glob("[0-9][0-9]_*.ipynb"))


def read(path: Path) -> NotebookNode:
    """A notebook, without outputs.

    Raises:
        CourseError: the file is no notebook.
    """
    try:  # json and text that is no UTF-8 raise ValueErrors, and what is json but no notebook raises whatever it runs into
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
    """Whether nbgrader's metadata of a cell say `name`: "grade", "solution" or "locked"."""
    return bool(cell.metadata.get("nbgrader", {}).get(name, False))


def grade_id(cell: NotebookNode) -> str:
    """The name of a cell in nbgrader's metadata; empty where it has none."""
    return str(cell.metadata.get("nbgrader", {}).get("grade_id", ""))


def points(cell: NotebookNode) -> float:
    """What a graded cell is worth."""
    return float(cell.metadata["nbgrader"]["points"])


def exercises(notebook: NotebookNode) -> list[Exercise]:
    """The exercises of a session, in order."""
    found: list[tuple[re.Match[str], list[str]]] = []
    for cell in notebook.cells:
        heading = EXERCISE.match(cell.source) if cell.cell_type == "markdown" and not grade_id(cell) else None
        if heading:
            found.append((heading, []))
        elif role(cell, "grade"):
            found[-1][1].append(grade_id(cell))
    return [Exercise(m["number"], m["kind"], int(m["points"]), m["title"], tuple(ids)) for m, ids in found]


def mutants(path: Path) -> list[Mutant]:
    """The known wrong answers of a session, from `course/mutants/`: a block begins with `# %% cell id: what is wrong`."""
    blocks = re.split(r"^# %% ", (MUTANTS / f"{path.stem}.py").read_text(), flags=re.MULTILINE)[1:]
    found = []
    for block in blocks:
        head, _, source = block.partition("\n")
        cell, _, why = head.partition(":")
        found.append(Mutant(cell.strip(), why.strip(), source.strip()))
    return found
