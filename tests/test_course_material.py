"""The second set with its key, grades by student id, the lab without the package, and the sample project."""

import ast
import csv
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch

from course import grade, gradebook, second_set
from course.grade import Grade
from course.pictures import play, theory
from course.sessions import EXERCISE, ROOT, CourseError, exercises, grade_id, points, read, role
from selfimprove import losses
from selfimprove_lab.theory.mixture import cosine_schedule
from tests import forks  # kernels are forks  # noqa: F401

KEY = "a key for tests"


def test_the_second_set_depends_on_its_key_and_hides_its_tests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in second_set.source_paths():
        made, _ = second_set.notebook(path, KEY)
        again, other = second_set.notebook(path, KEY)[0], second_set.notebook(path, "another key")[0]
        assert [c.source for c in made.cells] == [c.source for c in again.cells]
        hidden = [c for c in made.cells if "BEGIN HIDDEN TESTS" in c.source]
        assert len(hidden) == sum(role(c, "grade") and c.cell_type == "code" for c in made.cells), "a test cell hides nothing"
        assert all(c.source not in [o.source for o in other.cells] for c in hidden), "a hidden test does not depend on the key"
        worth = {grade_id(c): points(c) for c in made.cells if role(c, "grade")}
        for exercise in exercises(made):
            assert sum(worth[name] for name in exercise.graded) == exercise.points
        seen = nbformat.writes(second_set.student_copy(made))
        seeds = re.findall(r"(?:default_rng|manual_seed)\((\d{3,})\)", "".join(c.source for c in hidden))
        assert seeds
        assert not [word for word in ("HIDDEN", "SOLUTION", *seeds) if word in seen]
    assert second_set.main(["--key", "short", str(tmp_path)]) == 1
    assert "at least 8" in capsys.readouterr().out


def test_numbers_of_the_second_set_are_computed(tmp_path: Path) -> None:
    (tmp_path / "01.md").write_text("# T\n@exercise 1.1 pencil 2: A\n<<n=3..9>> and <<n>>\n@answer a\n<<=2*n>>\n")
    made, _ = second_set.notebook(tmp_path / "01.md", KEY)
    first, second = re.findall(r"\d+", made.cells[1].source)[-2:]
    assert first == second
    assert made.cells[2].source == str(2 * int(first))
    (tmp_path / "01.md").write_text("# T\n@exercise 1.1: A\n")
    with pytest.raises(CourseError, match="should read"):
        second_set.notebook(tmp_path / "01.md", KEY)


def test_the_second_set_is_graded_with_what_students_do_not_see(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One student answers rightly, one by a table that passes what is shown."""
    student = second_set.write_set(KEY, tmp_path)[4]
    source = read(tmp_path / "instructor" / student.name)
    answers = {grade_id(c): c.source for c in source.cells if role(c, "solution")}
    for who, changed in {"s1": {}, "s2": {"t5-needed": "def needed(differences, half):\n    return 2"}}.items():
        notebook = read(student)
        for cell in notebook.cells:
            cell.source = (answers | changed).get(grade_id(cell), cell.source)
        (tmp_path / who).mkdir()
        nbformat.write(notebook, tmp_path / who / student.name)
    handed_in = [str(tmp_path / who / student.name) for who in ("s1", "s2")]
    assert grade.main([*handed_in, "--sources", str(tmp_path / "instructor"), "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "grades.json").read_text())
    gained = {(Path(row["notebook"]).parent.name, row["cell"]): row["points"] for row in rows}
    assert gained["s1", "t5-needed-test"] == 4
    assert gained["s2", "t5-needed-test"] == 0
    assert gained["s2", "t5-median-interval-test"] == 5
    assert grade.main([handed_in[0], "--out", str(tmp_path)]) == 1
    assert "belongs to no session" in capsys.readouterr().out
    with pytest.raises(CourseError, match="holds no instructor's notebooks"):
        grade.source_of(read(student), student, tmp_path / "s1" / "nothing")


ROSTER = 'ID,Name,Canvas ID,Login,Section\ns1,"Doe, Jo",77,jdoe,A\ns2,"Roe, Al",78,aroe,A\ns3,"Poe, Ed",79,epoe,B\n'


def graded(
    notebook: str, points: float | None, cell: str = "s4-convert-test", exercise: str = "4.2", possible: float = 4
) -> dict[str, Any]:
    return asdict(Grade(notebook, exercise, "T", cell, points, possible, ""))


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_grades_by_student_id(tmp_path: Path) -> None:
    (tmp_path / "roster.csv").write_text(ROSTER)
    rows = [
        graded("in/s1/04.ipynb", 4), graded("in/s1/04.ipynb", None, "s4-reward", "4.1", 6), graded("in/roe_78_04.ipynb", 0),
        graded("in/roe_78_04.ipynb", 0, "s4-reward", "4.1", 6), graded("in/s1/05_second.ipynb", 5, "t5-median-interval-test", "5.3", 5),
    ]  # fmt: skip
    (tmp_path / "grades.json").write_text(json.dumps(rows))
    given = [str(tmp_path / "grades.json"), "--roster", str(tmp_path / "roster.csv")]
    assert gradebook.main(given) == 0
    canvas = rows_of(tmp_path / "canvas.csv")
    assert canvas[0] == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "Session 4 (10)", "Session 5 (second set) (5)"]
    assert canvas[1] == ["    Points Possible", "", "", "", "", "10", "5"]
    assert canvas[2] == ["Doe, Jo", "77", "s1", "jdoe", "A", "", "5"]  # an answer has not been read
    assert canvas[3] == ["Roe, Al", "78", "s2", "aroe", "A", "0", ""]
    assert rows_of(tmp_path / "moodle.csv")[0][0] == "idnumber"
    marks = rows_of(tmp_path / "to_read.csv")
    assert marks == [["id", "exercise", "cell", "possible", "points"], ["s1", "4.1", "s4-reward", "6", ""]]
    marks[1][-1] = "5,5"
    with (tmp_path / "to_read.csv").open("w", newline="") as file:
        csv.writer(file).writerows(marks)
    assert gradebook.main([*given, "--marks", str(tmp_path / "to_read.csv")]) == 0
    assert rows_of(tmp_path / "to_read.csv") == marks, "somebody's marks are not written over"
    assert rows_of(tmp_path / "still_to_read.csv")[1:] == []
    by_id = rows_of(tmp_path / "grades_by_id.csv")
    assert by_id[0] == ["id", "name", "4.2", "4.1", "Session 4 (10)", "5.3 (second set)", "Session 5 (second set) (5)", "total"]
    assert by_id[1] == ["s1", "Doe, Jo", "4", "5.5", "9.5", "5", "5", "14.5"]
    assert by_id[2] == ["s2", "Roe, Al", "0", "0", "0", "", "", "0"]
    assert by_id[3] == ["s3", "Poe, Ed", "", "", "", "", "", ""]  # handed nothing in


@pytest.mark.parametrize(
    ("roster", "rows", "marks", "said"),
    [
        ("name\nx\n", [], "", "needs a column 'id'"),
        ("id\ns1\ns1\n", [], "", "more than once"),
        (ROSTER, [graded("in/s9/04.ipynb", 4)], "", "names no student"),
        (ROSTER, [graded("in/s1/s2_04.ipynb", 4)], "", "names 2 students"),
        (ROSTER, [graded("in/s1/a.ipynb", 4), graded("in/s1/b.ipynb", 4)], "", "handed Session 4 in twice"),
        (ROSTER, [graded("in/s1/a.ipynb", None)], "id,cell,points\ns1,s4-convert-test,5\n", "5 points of 4"),
        (ROSTER, [graded("in/s1/a.ipynb", 4)], "id,cell,points\ns1,s4-convert-test,3\n", "no answer s4-convert-test"),
        (ROSTER, [graded("in/s1/a.ipynb", None)], "id,cell,points\ns1,s4-convert-test,many\n", "numbers as points"),
        (ROSTER, [{"a": 1}], "", "cannot be read"),
    ],
)
def test_wrong_rosters_and_marks_are_refused(
    roster: str, rows: list[Any], marks: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "roster.csv").write_text(roster)
    (tmp_path / "grades.json").write_text(json.dumps(rows))
    (tmp_path / "marks.csv").write_text(marks)
    more = ["--marks", str(tmp_path / "marks.csv")] if marks else []
    assert gradebook.main([str(tmp_path / "grades.json"), "--roster", str(tmp_path / "roster.csv"), *more]) == 1
    assert said in capsys.readouterr().out
    assert not (tmp_path / "canvas.csv").exists()


def played(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run a notebook's cells in one namespace; return the namespace."""
    monkeypatch.chdir(ROOT)
    plt.switch_backend("Agg")
    space: dict[str, Any] = {"__name__": "__main__"}
    for cell in read(path).cells:
        if cell.cell_type == "code":
            assert "outputs" not in cell or not cell.outputs
            exec(compile(cell.source, "<cell>", "exec"), space)
            plt.close("all")
    return space


def packages(path: Path) -> set[str]:
    found = set()
    for cell in read(path).cells:
        for node in ast.walk(ast.parse(cell.source if cell.cell_type == "code" else "")):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module).partition(".")[0])
    return found


def test_the_lab_needs_two_packages_and_agrees_with_the_book(monkeypatch: pytest.MonkeyPatch) -> None:
    path = ROOT / "course" / "lab" / "one_dimension.ipynb"
    assert packages(path) == {"math", "matplotlib", "numpy"}
    lab = played(path, monkeypatch)
    assert all(np.array_equal(lab[name], getattr(theory, name)) for name in ("WEIGHTS", "MEANS", "SPREADS"))
    world, mixture = theory.line_world(20)
    x = np.linspace(-4, 4, 41)
    text, points_at = world.embed(torch.zeros(41, dtype=torch.long)), torch.tensor(x)[:, None, None, None]
    steps = world.schedule.steps(eta=0.0)
    assert np.allclose(lab["levels"](20)[:-1], [step.alpha for step in steps])
    for step in steps:
        with torch.no_grad():
            exact = mixture(points_at, step.t, text).sample
        assert np.allclose(lab["best_eps"](x, step.alpha), exact.flatten().numpy(), atol=1e-9)
        after = world.schedule.reverse(points_at, exact, step).mean.flatten().numpy()
        assert np.allclose(lab["ddim_step"](x, exact.flatten().numpy(), step.alpha, step.alpha_next), after, atol=1e-7)
    clean, eps, start, again = lab["DRAWS"]
    half, s, k = lab["HALF"], 0.7, 0.3
    real, own = half * (clean + eps), half * ((start - half * k * start) / half + again)
    errors = [(eps - s * real) ** 2, (again - s * own) ** 2, (eps - k * real) ** 2, (again - k * own) ** 2]
    terms = losses.spin(*(torch.tensor(e) for e in errors), 0.5, "paper", 1)
    assert np.isclose(lab["spin_loss"](s, k, 0.5), float(terms.loss.mean()))
    assert all(abs(lab["play_round"](slope, 0.5) - play.next_slope(slope, 0.5, lab["DRAWS"])) < 0.01 for slope in (0.2, 0.9))
    drift = lab["recursion"]("replace", 4, 20, 20_000)[-1]
    assert np.isclose(drift[0].var(), sum((1 - 1 / 20) ** i for i in range(4)) / 20, rtol=0.05)
    assert np.isclose((drift[1] ** 2).mean(), (1 - 1 / 20) ** 4, rtol=0.02)
    assert not cosine_schedule(20, 1e-3).steps()[0].alpha > 0.01


def test_the_sample_project_reports_what_it_computes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ROOT / "course" / "sample_project"
    assert packages(folder / "project.ipynb") <= {"math", "matplotlib", "numpy", "scipy"}
    space = played(folder / "project.ipynb", monkeypatch)
    said = capsys.readouterr().out
    assert "\nfalsified in 3 sets of draws" in said, "the report says that its claim was falsified"
    assert all(1.1 < ratio < 1.3 for ratio in space["ratios"])
    ends = [float(b) for _, b in re.findall(r"from [\d.]+: settles from ([\d.]+) to ([\d.]+) times", said)]
    assert ends[-1] < ends[0], "nearer starts come nearer"
    marks = (folder / "marks.md").read_text()
    given = [int(n) for n in re.findall(r"^\| [a-z ]+ \| (\d+) \|", marks, re.MULTILINE)]
    assert len(given) == 4
    assert max(given) <= 25
    assert f"**{sum(given)}**" in marks
    rubric = (ROOT / "course" / "notes.md").read_text()
    assert all(f"| {name} | 25 %" in rubric for name in re.findall(r"^\| ([a-z ]+) \| \d+ \|", marks, re.MULTILINE))
    assert not EXERCISE.match("# Sample")
