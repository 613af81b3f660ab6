"""python -m course.second_set --key WORD [folder]: make the second set of exercises, for instructors, with tests that students do not see.

The sources in `course/second/` hold exercises, model answers and known wrong answers, but no numbers of the hidden tests: these, and the
numbers in the exercises, are drawn from the key. Choose a key, tell nobody, and keep it. The command writes `instructor/` (with model
answers and all tests, which `python -m course.grade --sources` needs) and `student/` (to hand out). The book does not contain the set.

A source is Markdown with marks: `@setup`, `@exercise 1.2 code 4: title`, `@answer name`, `@solution name`, `@test points`, `@hidden`, and
`@mutant what is wrong`. `<<n=3..9>>` draws a whole number and shows it, `<<n>>` shows it again, `<<=2*n>>` computes with it, and `<<seed>>`
is the seed of the hidden tests.
"""

import argparse
import hashlib
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
from nbformat import NotebookNode

from course.release import student_copy
from course.sessions import ROOT, CourseError, Mutant

SOURCES, MADE = Path(__file__).parent / "second", ROOT / "runs" / "course" / "second"
MARK = re.compile(r"^@(setup|exercise|answer|solution|test|hidden|mutant)\b ?(.*)$", re.MULTILINE)
NUMBER = re.compile(r"<<(=?)([^<>]+?)>>")
LEAST = 8  # letters of a key: with fewer a student could try them all


def source_paths() -> list[Path]:
    """Return the sources of the second set, in the order of the course."""
    return sorted(SOURCES.glob("[0-9][0-9].md"))


def _numbers(session: str, key: str) -> Callable[[re.Match[str]], str]:
    """Return a function that replaces the marks of numbers; equal keys draw equal numbers."""
    if len(key) < LEAST:
        raise CourseError(f"--key has {len(key)} letters; choose one of at least {LEAST}, and keep it secret")

    def drawn(name: str) -> np.random.Generator:
        return np.random.default_rng(int.from_bytes(hashlib.sha256(f"{key}/{session}/{name}".encode()).digest()[:8], "big"))

    values: dict[str, int] = {"seed": int(drawn("seed").integers(2**31))}

    def shown(found: re.Match[str]) -> str:
        if found[1]:
            return f"{eval(found[2], {'__builtins__': {}, 'max': max, 'erf': math.erf}, dict(values)):.4g}"
        name, _, ends = found[2].partition("=")
        if ends:
            low, high = (int(end) for end in ends.split(".."))
            values[name] = int(drawn(name).integers(low, high + 1))
        return str(values[name])

    return shown


def _graded(grade_id: str, grade: bool, solution: bool, points: str = "0") -> dict[str, Any]:
    marks = {"grade": grade, "grade_id": grade_id, "locked": not solution, "schema_version": 3, "solution": solution, "task": False}
    return {"nbgrader": marks | ({"points": int(points)} if grade else {})}


def notebook(path: Path, key: str) -> tuple[NotebookNode, list[Mutant]]:
    """Return the instructor's notebook of a session of the second set, and its known wrong answers.

    Raises:
        CourseError: the key is too short, or the source is not of the form above.
    """
    text = NUMBER.sub(_numbers(path.stem, key), path.read_text())
    marks, session = list(MARK.finditer(text)), f"t{int(path.stem)}"
    cells: list[NotebookNode] = [nbformat.v4.new_markdown_cell(text[: marks[0].start()].strip(), id=f"{session}-title")]
    mutants: list[Mutant] = []
    exercise, solution, points = "", "", "0"
    for mark, end in zip(marks, [*(m.start() for m in marks[1:]), len(text)], strict=True):
        kind, rest, body = mark[1], mark[2].strip(), text[mark.end() : end].strip()
        if kind == "exercise":
            said = re.fullmatch(r"(?P<number>\d\.\d) (?P<kind>\w+) (?P<points>\d+): (?P<title>.+)", rest)
            if said is None:
                raise CourseError(f"{path.name}: '@exercise {rest}' should read '@exercise 1.2 code 4: title'")
            exercise, points = said["number"].replace(".", "-"), said["points"]
            heading = f"### Exercise {said['number']} ({said['kind']}, {points} points): {said['title']}"
            cells.append(nbformat.v4.new_markdown_cell(f"{heading}\n\n{body}".strip(), id=f"{session}-exercise-{exercise}"))
        elif kind == "answer":
            cells.append(
                nbformat.v4.new_markdown_cell(body, id=f"{session}-{rest}", metadata=_graded(f"{session}-{rest}", True, True, points))
            )
        elif kind == "hidden":
            cells[-1].source += f"\n### BEGIN HIDDEN TESTS\n{body}\n### END HIDDEN TESTS"
        elif kind == "mutant":
            mutants.append(Mutant(solution, rest, body))
        else:
            name = {"setup": f"{session}-setup", "solution": f"{session}-{rest}"}.get(kind, f"{solution}-test")
            solution = name if kind == "solution" else solution
            metadata = _graded(name, kind == "test", kind == "solution", rest)
            cells.append(nbformat.v4.new_code_cell(body, id=name, metadata=metadata))
    made = nbformat.v4.new_notebook(
        cells=cells, metadata={"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    )
    nbformat.validate(made)
    return made, mutants


def write_set(key: str, folder: Path = MADE) -> list[Path]:
    """Write the instructor's and the students' notebooks of the second set into a folder, and return the students'."""
    written = []
    for path in source_paths():
        made, _ = notebook(path, key)
        for who, copy in (("instructor", made), ("student", student_copy(made))):
            (folder / who).mkdir(parents=True, exist_ok=True)
            nbformat.write(copy, folder / who / f"{path.stem}_second.ipynb")
        written.append(folder / "student" / f"{path.stem}_second.ipynb")
    return written


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m course.second_set", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=MADE, help="where to write; default: runs/course/second")
    parser.add_argument("--key", required=True, help=f"a secret of at least {LEAST} letters, from which the numbers are drawn")
    given = parser.parse_args(arguments)
    try:
        print(*write_set(given.key, given.folder), sep="\n")
    except CourseError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
