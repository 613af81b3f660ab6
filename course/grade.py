"""python -m course.grade notebook.ipynb ...: run students' notebooks against the instructor's own tests and print the points.

Locked cells (setup and tests) are restored from the instructor's notebooks before anything runs, so a student's changes to them have no
effect. nbgrader's own `OverwriteCells` does the same from its database, which this course does without. The student's code runs with your
rights: grade on a machine, or in a container, where the code can do no harm.

What this does not prevent: tests run in the same Python process as the code they test. That code can replace what the tests call
(`torch.allclose`, a builtin, IPython itself), or return objects that equal everything. `replaced` names the plain cases of the first kind
in the remarks. No list of such cases is complete, so points for code are final only after a person has looked at the solution cells.
"""

import argparse
import ast
import builtins
import copy
import csv
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from IPython.core.inputtransformer2 import TransformerManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode

from course.release import student_copy
from course.sessions import ROOT, SESSIONS, CourseError, exercises, grade_id, points, read, role, session_paths

GRADES = ROOT / "runs" / "course" / "grades"
TIMEOUT = 120  # seconds per cell; the slowest model solution takes a tenth of this
REPLY = "reply"  # key in a cell's metadata: the kernel's reply at the end of the cell, "ok" or "error"


@dataclass(frozen=True)
class Grade:
    """The result of one graded cell; `points` is None where a person has to read the answer."""

    notebook: str
    exercise: str
    title: str
    cell: str
    points: float | None
    possible: float
    remark: str


def source_of(student: NotebookNode, path: Path, folder: Path = SESSIONS) -> NotebookNode:
    """Return the instructor's notebook that a student's belongs to, found by the ids of its cells, whatever the file is called.

    Raises:
        CourseError: the notebook belongs to no session.
    """
    ids = {grade_id(cell) for cell in student.cells} - {""}
    sources = [read(p) for p in session_paths(folder)]
    if not sources:
        raise CourseError(f"{folder} holds no instructor's notebooks; give the folder instructor/ that course.second_set wrote")
    best = max(sources, key=lambda s: len(ids & {grade_id(c) for c in s.cells}))
    if not ids & {grade_id(c) for c in best.cells}:
        raise CourseError(
            f"{path} belongs to no session of {folder}: none of its cells has an id of these; start from a copy that was handed out, "
            "and give its --sources"
        )
    return best


def restored(student: NotebookNode, source: NotebookNode, path: Path) -> NotebookNode:
    """Restore all locked cells and all grading metadata of a student's notebook from the source; cells added in between stay.

    Raises:
        CourseError: a cell of the source is missing, exists twice, has another type, or is out of order.
    """
    own = {grade_id(cell): cell for cell in source.cells if grade_id(cell)}
    counts = Counter(name for cell in student.cells if (name := grade_id(cell)) in own)
    if missing := [name for name in own if name not in counts]:
        raise CourseError(f"{path}: cell {', '.join(missing)} is missing; take a fresh copy and paste your answers into it")
    if twice := [name for name, count in counts.items() if count > 1]:
        raise CourseError(f"{path}: cell {', '.join(twice)} is there more than once; delete the copies")
    order = [name for cell in student.cells if (name := grade_id(cell)) in own]
    if order != list(own):
        raise CourseError(f"{path}: its cells are out of order; they should be {', '.join(own)}")
    notebook = copy.deepcopy(student)
    for cell in notebook.cells:
        theirs = own.get(grade_id(cell))
        if theirs is None:
            cell.metadata.pop("nbgrader", None)
            continue
        if cell.cell_type != theirs.cell_type:
            raise CourseError(f"{path}: cell {grade_id(cell)} should be a {theirs.cell_type} cell; change its type back")
        cell.metadata = copy.deepcopy(theirs.metadata)
        if not role(theirs, "solution"):
            cell.source = theirs.source
    return notebook


class OneInterrupt(AsyncKernelManager):
    """A kernel manager that interrupts a cell once. nbclient alone would go on interrupting a cell that catches the interrupt."""

    asked = False  # whether the running cell has been interrupted

    async def interrupt_kernel(self) -> None:  # type: ignore[override]
        """Interrupt the kernel, the first time.

        Raises:
            DeadKernelError: the second time; nbclient then ends the kernel.
        """
        if self.asked:
            raise DeadKernelError("a cell went on after it had been interrupted")
        self.asked = True
        await super().interrupt_kernel()


def execute(notebook: NotebookNode, timeout: int = TIMEOUT) -> str:
    """Run all cells in place from the repository's root, continuing after errors; return what stopped the run early, or an empty text.

    A cell is interrupted after `timeout` seconds. If the cell runs on for as long again, Python is ended.
    """
    for cell in notebook.cells:
        cell.metadata.pop(REPLY, None)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None

    def begin(**_: Any) -> None:
        client.km.asked = False

    def note(cell: NotebookNode, execute_reply: dict[str, Any], **_: Any) -> None:
        cell.metadata[REPLY] = execute_reply["content"]["status"]

    client = NotebookClient(
        notebook,
        timeout=timeout,
        interrupt_on_timeout=True,
        allow_errors=True,
        kernel_name="python3",
        kernel_manager_class=OneInterrupt,
        on_cell_execute=begin,
        on_cell_executed=note,
        resources={"metadata": {"path": ROOT}},
    )
    try:
        client.execute()
    except DeadKernelError:
        return "Python died, or had to be ended, before this cell was finished"
    return ""


def verdict(cell: NotebookNode, stopped: str) -> tuple[bool, str]:
    """Return whether an executed test cell passed, and if not, why. The kernel's reply decides, since code can hide an error's output."""
    for output in cell.outputs:
        if output.output_type == "error":
            said = output.evalue.strip().splitlines()
            return False, f"{output.ename}: {said[0]}" if said else output.ename
    if REPLY not in cell.metadata:
        return False, stopped or "this cell did not run"
    return (True, "passed") if cell.metadata[REPLY] == "ok" else (False, "it ended in an error that was not shown")


def _outside_functions(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a syntax tree that are not inside a function or class; the functions and classes themselves are included."""
    for node in ast.iter_child_nodes(tree):
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield from _outside_functions(node)


def replaced(notebook: NotebookNode) -> list[str]:
    """Return what unlocked cells replace in imported modules and among Python's builtins, as far as the code does so plainly."""
    modules, names = set(), set()
    trees = []
    for cell in notebook.cells:
        try:
            tree = ast.parse(TransformerManager().transform_cell(cell.source if cell.cell_type == "code" else ""))
        except SyntaxError:  # such a cell does not run either
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        if not role(cell, "locked"):
            trees.append(tree)
    for tree in trees:
        for node in ast.walk(tree):
            root: ast.AST = node
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("setattr", "delattr"):
                root = node.args[0] if node.args else node
            elif not (isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del)):
                continue
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in modules:
                names.add(ast.unparse(node))
        for node in _outside_functions(tree):
            bound = node.id if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else getattr(node, "name", None)
            if isinstance(bound, str) and hasattr(builtins, bound):
                names.add(bound)
    return sorted(names)


def grade(path: Path, timeout: int = TIMEOUT, sources: Path = SESSIONS) -> list[Grade]:
    """Return one row per graded cell of a student's notebook.

    Raises:
        CourseError: the file is no notebook of the course, or lacks some of its cells.
    """
    student = read(path)
    source = source_of(student, path, sources)
    notebook = restored(student, source, path)
    stopped, changed = execute(notebook, timeout), replaced(notebook)
    stubs = {grade_id(cell): cell.source for cell in student_copy(source).cells if role(cell, "solution")}
    cells = {grade_id(cell): cell for cell in notebook.cells if grade_id(cell)}
    rows = []
    for exercise in exercises(source):
        for name in exercise.graded:
            cell, possible = cells[name], points(cells[name])
            if role(cell, "solution"):  # an answer in words, which a person reads
                blank = cell.source.strip() == stubs[name].strip()
                gained, remark = (0.0, "not attempted") if blank else (None, "to be read")
            else:
                passed, remark = verdict(cell, stopped)
                gained = possible if passed else 0.0
                if passed and changed:
                    remark = f"passed; look at the cells that replace {', '.join(changed)}"
            rows.append(Grade(str(path), exercise.number, exercise.title, name, gained, possible, remark))
    return rows


def printed(rows: list[Grade]) -> str:
    """Format the points of one notebook for people to read."""
    lines = [rows[0].notebook]
    for row in rows:
        gained = "  ?" if row.points is None else f"{row.points:3g}"
        lines.append(f"  {row.exercise}  {gained} of {row.possible:g}  {row.title} ({row.cell}): {row.remark}")
    sure, open_points = sum(r.points or 0 for r in rows), sum(r.possible for r in rows if r.points is None)
    left = f", and up to {open_points:g} to be read" if open_points else ""
    return "\n".join([*lines, f"  total {sure:g} of {sum(r.possible for r in rows):g}{left}"])


def write(rows: list[Grade], folder: Path) -> tuple[Path, Path]:
    """Write all rows as csv and as json, and return both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    table, records = folder / "grades.csv", [asdict(row) for row in rows]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(Grade.__dataclass_fields__))
        writer.writeheader()
        writer.writerows(records)
    (folder / "grades.json").write_text(json.dumps(records, indent=1) + "\n")
    return table, folder / "grades.json"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m course.grade", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebooks", nargs="+", type=Path, help="students' notebooks, of any sessions")
    parser.add_argument("--out", type=Path, default=GRADES, help="folder of grades.csv and grades.json; default: runs/course/grades")
    parser.add_argument("--timeout", type=int, default=TIMEOUT, help="seconds a cell may take")
    parser.add_argument(
        "--sources", type=Path, default=SESSIONS, help="the instructor's notebooks; default: course/sessions, the first set"
    )
    given = parser.parse_args(arguments)
    rows: list[Grade] = []
    refused = 0
    for path in given.notebooks:
        try:
            graded = grade(path, given.timeout, given.sources)
        except CourseError as error:
            refused += 1
            print(f"not graded: {error}")
            continue
        print(printed(graded))
        rows += graded
    print(*write(rows, given.out), sep="\n")
    return 1 if refused else 0


if __name__ == "__main__":
    raise SystemExit(main())
