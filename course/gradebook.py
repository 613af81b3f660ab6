"""python -m course.gradebook grades.json --roster roster.csv [--marks marks.csv]: write grades by student id, for people and an LMS.

    python -m course.grade submitted/*/*.ipynb                                # writes grades.json
    python -m course.gradebook runs/course/grades/grades.json --roster roster.csv
    (fill the column `points` of to_read.csv in)
    python -m course.gradebook runs/course/grades/grades.json --roster roster.csv --marks runs/course/grades/to_read.csv

`roster.csv` has a column `id` and may have `name`, `canvas id`, `login` and `section`, as an LMS exports them. A notebook belongs to the
student whose id (or Canvas id, or login) is a folder of its path or a word of its file name, such as `submitted/s123/01_x.ipynb` or
`lastname_s123_01_x.ipynb`. Written are `grades_by_id.csv` (id, points by exercise, total by session, total), `canvas.csv` (Canvas' own
columns and a row "Points Possible"), `moodle.csv` (column `idnumber`; choose it under "Map from"), and `to_read.csv` (written answers that
nobody has read). A session with answers still to be read has no total, and an LMS leaves an empty cell as it is.
"""

import argparse
import csv
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from course.grade import GRADES, Grade
from course.sessions import CourseError

KNOWN_AS = ("id", "canvas id", "login")  # columns of the roster by which files name a student
Table = list[list[str]]


@dataclass(frozen=True)
class Cell:
    """The points of a student for one graded cell; None where nobody has read the answer."""

    exercise: str
    name: str
    points: float | None
    possible: float


def read_roster(path: Path) -> list[dict[str, str]]:
    """Read the roster: one row a student, column names in lower case.

    Raises:
        CourseError: the file cannot be read, has no column `id`, or an id is empty or there twice.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [{(k or "").strip().lower(): (v or "").strip() for k, v in row.items() if k} for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CourseError(
            f"{path} cannot be read as a roster ({type(error).__name__}); give a CSV file in UTF-8 with a column id"
        ) from error
    ids = [row.get("id", "") for row in rows]
    if not rows or not all(ids):
        raise CourseError(f"{path} needs a column 'id' with a value in every row; it has the columns {sorted(rows[0]) if rows else []}")
    if twice := sorted({i for i in ids if ids.count(i) > 1}):
        raise CourseError(f"{path}: id {twice[0]!r} is there more than once; keep one row a student")
    return rows


def student_of(notebook: str, roster: Iterable[Mapping[str, str]]) -> str:
    """Return the id of the student to whom a notebook's path belongs.

    Raises:
        CourseError: no student or more than one is named in the path.
    """
    path = Path(notebook)
    words = {
        *path.parts[:-1],
        path.stem,
        *re.split(r"[_\s]+", path.stem),
        *(w for part in path.parts[:-1] for w in re.split(r"[_\s]+", part)),
    }
    found = [row["id"] for row in roster if any(row.get(column) and row[column] in words for column in KNOWN_AS)]
    if len(found) != 1:
        said = f"names {len(found)} students, {found}" if found else "names no student of the roster"
        raise CourseError(f"{notebook} {said}; put it into a folder that is called like the student's id")
    return found[0]


def session_of(grade: Grade) -> str:
    """Return the name of an exercise's session: "Session 3", or "Session 3 (second set)"."""
    return f"Session {grade.exercise.partition('.')[0]}{' (second set)' if grade.cell.startswith('t') else ''}"


def collect(
    grades: Iterable[Grade], roster: list[dict[str, str]], marks: Mapping[tuple[str, str], float]
) -> dict[str, dict[str, list[Cell]]]:
    """Return {id: {session: cells}}, with marks {(id, cell): points} in the place of what was to be read.

    Raises:
        CourseError: a student handed a session in twice, or a mark is negative, too large, or of an answer that was not to be read.
    """
    book: dict[str, dict[str, list[Cell]]] = {row["id"]: {} for row in roster}
    files: dict[tuple[str, str], str] = {}
    unused = dict(marks)
    for grade in grades:
        student, session = student_of(grade.notebook, roster), session_of(grade)
        if files.setdefault((student, session), grade.notebook) != grade.notebook:
            raise CourseError(f"{student} handed {session} in twice: {files[student, session]} and {grade.notebook}; grade one of them")
        points = unused.pop((student, grade.cell), None) if grade.points is None else grade.points
        if points is not None and not 0 <= points <= grade.possible:
            raise CourseError(f"{student}, {grade.cell}: {points:g} points of {grade.possible:g}; correct the marks")
        book[student].setdefault(session, []).append(Cell(grade.exercise, grade.cell, points, grade.possible))
    if unused:
        student, cell = next(iter(unused))
        raise CourseError(f"marks: {student} has no answer {cell} that was to be read; correct the row, or grade the notebook first")
    return book


def read_marks(path: Path) -> dict[tuple[str, str], float]:
    """Read the filled-in `to_read.csv`; rows without points are left out.

    Raises:
        CourseError: columns are missing, or points are no number.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    try:
        return {(row["id"], row["cell"]): float(row["points"].replace(",", ".")) for row in rows if row["points"].strip()}
    except (KeyError, ValueError, AttributeError) as error:
        raise CourseError(f"{path}: {error}; it needs the columns id, cell and points, with numbers as points") from error


def _total(cells: Iterable[Cell]) -> str:
    points = [cell.points for cell in cells]
    return "" if None in points or not points else f"{sum(p for p in points if p is not None):g}"


def tables(book: dict[str, dict[str, list[Cell]]], roster: list[dict[str, str]]) -> dict[str, Table]:
    """Return the tables to write, by file name; the first row of each is its head."""
    possible: dict[str, dict[str, float]] = {}  # session -> exercise -> points
    for sessions in book.values():
        for session, cells in sessions.items():
            if session not in possible:
                possible[session] = {}
                for cell in cells:
                    possible[session][cell.exercise] = possible[session].get(cell.exercise, 0) + cell.possible
    order = sorted(possible, key=lambda name: (len(name), name))
    columns = {session: f"{session} ({sum(possible[session].values()):g})" for session in order}
    heads = [h for s in order for h in (*(e + s.partition(" (")[1] + s.partition(" (")[2] for e in possible[s]), columns[s])]
    by_id: Table = [["id", "name", *heads, "total"]]
    canvas: Table = [["Student", "ID", "SIS User ID", "SIS Login ID", "Section", *columns.values()]]
    canvas.append(["    Points Possible", "", "", "", "", *(f"{sum(possible[s].values()):g}" for s in order)])
    moodle: Table = [["idnumber", *columns.values()]]
    to_read: Table = [["id", "exercise", "cell", "possible", "points"]]
    for row in roster:
        sessions = book[row["id"]]
        totals = [_total(sessions.get(session, [])) for session in order]
        by_exercise = [
            value
            for session, total in zip(order, totals, strict=True)
            for value in (*(_total(c for c in sessions.get(session, []) if c.exercise == e) for e in possible[session]), total)
        ]
        complete = all(total for session, total in zip(order, totals, strict=True) if session in sessions)
        whole = f"{sum(float(total) for total in totals if total):g}" if complete and sessions else ""
        by_id.append([row["id"], row.get("name", ""), *by_exercise, whole])
        canvas.append([row.get("name", ""), row.get("canvas id", ""), row["id"], row.get("login", ""), row.get("section", ""), *totals])
        moodle.append([row["id"], *totals])
        to_read += [[row["id"], c.exercise, c.name, f"{c.possible:g}", ""] for s in order for c in sessions.get(s, []) if c.points is None]
    return {"grades_by_id.csv": by_id, "canvas.csv": canvas, "moodle.csv": moodle, "to_read.csv": to_read}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m course.gradebook", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("grades", type=Path, nargs="?", default=GRADES / "grades.json", help="what course.grade wrote")
    parser.add_argument("--roster", type=Path, required=True, help="CSV with the students' ids")
    parser.add_argument("--marks", type=Path, help="to_read.csv with points filled in")
    parser.add_argument("--out", type=Path, help="folder to write to; default: that of the grades")
    given = parser.parse_args(arguments)
    try:
        roster = read_roster(given.roster)
        try:
            grades = [Grade(**row) for row in json.loads(given.grades.read_text())]
        except (OSError, ValueError, TypeError) as error:
            raise CourseError(
                f"{given.grades} cannot be read ({type(error).__name__}); give the grades.json that course.grade wrote"
            ) from error
        made = tables(collect(grades, roster, read_marks(given.marks) if given.marks else {}), roster)
    except CourseError as error:
        print(error)
        return 1
    folder = given.out or given.grades.parent
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in made.items():
        if given.marks and name == "to_read.csv" and (folder / name).resolve() == given.marks.resolve():
            name = "still_to_read.csv"  # the marks are somebody's work
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(table)
        print(folder / name)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
