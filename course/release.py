"""python -m course.release [folder]: make the students' notebooks from the instructor's by clearing solutions with nbgrader."""

import argparse
import copy
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbgrader.preprocessors import CheckCellMetadata, ClearHiddenTests, ClearOutput, ClearSolutions, ComputeChecksums, LockCells

from course.sessions import ROOT, read, session_paths

STUDENT = ROOT / "runs" / "course" / "student"
STEPS = (
    LockCells,
    ClearSolutions,
    ClearHiddenTests,
    ClearOutput,
    CheckCellMetadata,
    ComputeChecksums,
)  # nbgrader's own order, without its database


def student_copy(source: NotebookNode) -> NotebookNode:
    """Return a student's notebook: solutions replaced by stubs, no hidden tests, tests and setup locked, no outputs.

    Raises:
        RuntimeError, nbgrader's ValidationError: a solution region is not closed, or metadata do not fit.
    """
    notebook = copy.deepcopy(source)
    resources: dict[str, Any] = {}
    for step in STEPS:
        notebook, resources = step().preprocess(notebook, resources)
    return notebook


def release(folder: Path) -> list[Path]:
    """Write every session's student copy into a folder, and return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for path in session_paths():
        nbformat.write(student_copy(read(path)), folder / path.name)
        written.append(folder / path.name)
    return written


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m course.release", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=STUDENT, help="where to write; default: runs/course/student")
    for path in release(parser.parse_args(arguments).folder):
        print(path)


if __name__ == "__main__":
    main()
