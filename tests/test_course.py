"""The course: solutions pass, stubs and known wrong answers fail, students' copies hold no solution, changed tests count for nothing.

What a solution cell does to the tests that run after it in the same Python is not excluded; `course.grade` says so, and names what it sees.
"""

import copy
import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from jupyter_client.provisioning import KernelProvisionerFactory

from course import grade, pages, release, second_set, times
from course.sessions import EXERCISE, ROOT, CourseError, exercises, grade_id, mutants, points, read, role, session_paths
from tests import forks  # kernels are forks  # noqa: F401

PATHS = session_paths()


class Notebook:
    """Cells run one after the other in one namespace, as a kernel does, without the seconds that a kernel takes to start."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # whoever then asks for the GPU fails: sessions need none
        plt.switch_backend("Agg")
        plt.close("all")
        self.space: dict[str, Any] = {"__name__": "__main__", "display": lambda *shown: None}

    def run(self, source: str) -> None:
        exec(compile(source, "<cell>", "exec"), self.space)

    def fails(self, source: str) -> bool:
        try:
            self.run(source)
        except Exception:
            return True
        return False


def solutions(notebook: nbformat.NotebookNode) -> list[str]:
    """What must not be seen: the lines inside solution regions, and the model answers' paragraphs."""
    hidden = []
    for cell in notebook.cells:
        if role(cell, "solution") and cell.cell_type == "markdown":
            hidden += [part for part in cell.source.split("\n\n") if len(part) > 30]
        elif role(cell, "solution"):
            for region in re.findall(r"### BEGIN SOLUTION\n(.*?)### END SOLUTION", cell.source, re.DOTALL):
                hidden += [line.strip() for line in region.splitlines() if len(line.strip()) > 20]
    return hidden


SETS = {path.stem: lambda path=path: (read(path), mutants(path)) for path in PATHS}
SETS |= {f"{path.stem}_second": lambda path=path: second_set.notebook(path, "a key for tests") for path in second_set.source_paths()}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning")  # of known wrong answers
def test_solutions_pass_and_stubs_and_mutants_fail(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test cell is tried on the stub and on every known wrong answer of the solution cell before it, then on the solution."""
    (source, wrong), notebook = SETS[name](), Notebook(monkeypatch)
    stubs = {grade_id(c): c.source for c in release.student_copy(source).cells if role(c, "solution")}
    solution, before, tried = None, {}, []
    for cell in source.cells:
        if cell.cell_type != "code":
            continue
        if role(cell, "grade"):
            assert solution is not None
            solved = dict(notebook.space)
            for bad in [stubs[grade_id(solution)], *(m.source for m in wrong if m.cell == grade_id(solution))]:
                notebook.space = dict(before)
                notebook.fails(bad)
                assert notebook.fails(cell.source), f"{grade_id(cell)} passes with\n{bad}"
            tried += [m for m in wrong if m.cell == grade_id(solution)]
            assert [m for m in wrong if m.cell == grade_id(solution)], f"no known wrong answer of {grade_id(solution)}"
            notebook.space = solved
        elif role(cell, "solution"):
            solution, before = cell, dict(notebook.space)
        notebook.run(cell.source)
    assert len(tried) == len(wrong), "a known wrong answer belongs to no tested cell"


def test_times_are_of_cells_without_their_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(amount: float) -> str:
        return f"end = time.process_time() + {amount}\nwhile time.process_time() < end:\n    pass\n"

    (tmp_path / "slow_to_import.py").write_text("import time\n" + busy(0.5))
    monkeypatch.syspath_prepend(tmp_path)
    cells = ("import time\nimport slow_to_import", busy(0.1) + "print('not shown')")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    assert 0.1 <= times.seconds(notebook) < 0.5


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_the_notebooks_keep_the_courses_form(path: Path) -> None:
    notebook = read(path)
    number = int(path.stem[:2])
    assert notebook.cells[0].source.startswith(f"# Session {number}: ")
    assert notebook.cells[-1].source.startswith("**In short.** ")
    found = exercises(notebook)
    assert {"pencil", "code", "experiment"} <= {e.kind for e in found}
    assert [e.number for e in found] == [f"{number}.{i + 1}" for i in range(len(found))]
    worth = {grade_id(c): points(c) for c in notebook.cells if role(c, "grade")}
    for exercise in found:
        assert sum(worth[name] for name in exercise.graded) == exercise.points, exercise.number
    names = [grade_id(c) for c in notebook.cells if grade_id(c)]
    assert len(set(names)) == len(names)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
        if role(cell, "solution"):
            assert "slideshow" not in cell.metadata


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_students_see_no_solution(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "executed", pages.lecture_cells)  # pictures are no matter here
    source = read(path)
    seen = nbformat.writes(release.student_copy(source))
    plain = "\n".join(c.source for c in nbformat.reads(seen, as_version=4).cells)
    assert len(solutions(source)) > 3
    kept = "\n".join(c.source for c in source.cells if not role(c, "solution"))
    shown = [plain, "\n".join(c.source for c in pages.page(source, path.name).cells)]
    shown.append("\n".join(c.source for c in pages.lecture_cells(source).cells))
    for text in shown:
        assert not [line for line in solutions(source) if line in text and line not in kept]
        assert "BEGIN SOLUTION" not in text
    assert "SOLUTION" not in seen


def answered(source: nbformat.NotebookNode, **changed: str) -> nbformat.NotebookNode:
    """A student's copy with every model answer filled in, but for the cells given."""
    notebook = release.student_copy(source)
    model = {grade_id(c): c.source for c in source.cells if role(c, "solution")}
    for cell in notebook.cells:
        name = grade_id(cell)
        cell.source = changed.get(name.replace("-", "_"), model.get(name, cell.source))
    return notebook


def test_grading_restores_the_tests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = read(PATHS[3])  # the lightest to run
    copies = {"solved": answered(source), "blank": release.student_copy(source)}
    copies["tampered"] = release.student_copy(source)
    for cell in copies["tampered"].cells:
        if role(cell, "grade") and cell.cell_type == "code":
            cell.source, cell.metadata["nbgrader"]["points"] = "assert True", 100
        if role(cell, "locked"):
            cell.metadata["tags"] = ["raises-exception"]
    helper = nbformat.v4.new_code_cell("def help_me(x):\n    return x")
    copies["solved"].cells.insert(3, helper)  # students may add cells
    for name, notebook in copies.items():
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    assert grade.main([*(str(tmp_path / f"{name}.ipynb") for name in copies), "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    written = sum(points(c) for c in source.cells if role(c, "grade") and c.cell_type == "markdown")
    tested = sum(points(c) for c in source.cells if role(c, "grade") and c.cell_type == "code")
    assert f"total {tested:g} of {tested + written:g}, and up to {written:g} to be read" in said
    assert said.count(f"total 0 of {tested + written:g}\n") == 2
    assert "NotImplementedError" in said or "NameError" in said
    assert (tmp_path / "grades.csv").read_text().count("to be read") == sum(
        c.cell_type == "markdown" for c in source.cells if role(c, "grade")
    )


@pytest.fixture
def new_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are new Pythons, as they are when somebody grades."""
    monkeypatch.setattr(KernelProvisionerFactory.instance(), "default_provisioner_name", "local-provisioner")


@pytest.mark.usefixtures("new_kernels")
def test_a_cell_that_never_ends_and_a_python_that_dies_are_survived(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("while True: pass"), nbformat.v4.new_code_cell("1")])
    assert grade.execute(notebook, timeout=2) == ""
    assert grade.verdict(notebook.cells[0], "")[1].startswith("KeyboardInterrupt")
    assert grade.verdict(notebook.cells[1], "") == (True, "passed")
    dying = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import os; os._exit(1)"), nbformat.v4.new_code_cell("1")])
    stopped = grade.execute(dying, timeout=20)
    assert "died" in stopped
    assert [grade.verdict(cell, stopped) for cell in dying.cells] == [(False, stopped)] * 2


@pytest.mark.usefixtures("new_kernels")
def test_a_cell_that_goes_on_after_an_interrupt_ends_its_notebook_and_not_the_batch() -> None:
    stubborn = "import time\nwhile True:\n    try:\n        time.sleep(0.01)\n    except BaseException:\n        pass"
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in ("1", "while True: pass", "1", stubborn, "1")]
    )
    stopped = grade.execute(notebook, timeout=2)
    assert "had to be ended" in stopped
    assert [grade.verdict(cell, stopped)[0] for cell in notebook.cells] == [True, False, True, False, False]


@pytest.mark.usefixtures("new_kernels")
def test_an_error_that_is_not_shown_is_an_error() -> None:
    hidden = ("get_ipython().showtraceback = lambda *a, **k: None", "assert False", "assert True")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in hidden])
    assert grade.execute(notebook, timeout=20) == ""
    assert [grade.verdict(cell, "")[0] for cell in notebook.cells] == [True, False, True]


def test_what_solution_cells_replace_is_named() -> None:
    source = read(PATHS[3])
    cheat = "import math\nnp.allclose = math.isclose = lambda *a, **k: True\n%matplotlib inline\ndef all(x):\n    max = 1\n    return True"
    assert grade.replaced(answered(source, s4_convert=cheat)) == ["all", "math.isclose", "np.allclose"]
    assert grade.replaced(answered(source, s4_convert="import math as m\nsetattr(m, 'log', abs)")) == ["setattr(m, 'log', abs)"]
    assert grade.replaced(answered(source, s4_convert="half a cell (")) == []
    assert [grade.replaced(answered(read(path))) for path in PATHS] == [[]] * len(PATHS)


def test_mutilated_and_foreign_notebooks_are_refused(tmp_path: Path) -> None:
    source = read(PATHS[0])
    whole = release.student_copy(source)
    test = next(i for i, c in enumerate(whole.cells) if role(c, "grade") and c.cell_type == "code")
    missing, twice, moved, typed = (copy.deepcopy(whole) for _ in range(4))
    del missing.cells[test]
    twice.cells.append(copy.deepcopy(twice.cells[test]))
    moved.cells.insert(0, moved.cells.pop(test))
    typed.cells[test].cell_type = "markdown"
    for said, notebook in {"is missing": missing, "more than once": twice, "out of order": moved, "type back": typed}.items():
        with pytest.raises(CourseError, match=said):
            grade.restored(notebook, source, tmp_path / "a.ipynb")
    with pytest.raises(CourseError, match="no session"):
        grade.source_of(nbformat.v4.new_notebook(), tmp_path / "a.ipynb")
    with pytest.raises(CourseError, match="cannot be read"):
        read(tmp_path / "absent.ipynb")


@pytest.mark.parametrize(
    "content",
    [
        b"no json",
        b'{"nbformat": 4, "name": "\xe9"}',  # Latin-1
        b"[]",
        b"[" * 100_000,
        b'{"nbformat": 99, "nbformat_minor": 0, "metadata": {}, "cells": []}',
        b'{"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": [5]}',
        b'{"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": [{"cell_type": "markdown", "metadata": {}, "source": 5}]}',
        b'{"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": [{"cell_type": "raw", "metadata": {"nbgrader": 0}, "source": ""}]}',
    ],
)
def test_a_file_that_is_no_notebook_does_not_stop_the_batch(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.ipynb").write_bytes(content)
    assert grade.main([str(tmp_path / "broken.ipynb"), "--out", str(tmp_path)]) == 1
    assert "not graded: " in (said := capsys.readouterr().out)
    assert "cannot be read as a notebook" in said
    assert (tmp_path / "grades.csv").exists()


@pytest.mark.parametrize(("session", "drawn"), [(1, ["s1-05", "s1-08"]), (2, ["s2-07"])])
def test_a_page_shows_the_lectures_pictures(session: int, drawn: list[str]) -> None:
    path = PATHS[session - 1]
    shown = pages.page(read(path), path.name)
    assert [c.id for c in shown.cells if any("image/png" in o.get("data", {}) for o in c.get("outputs", []))] == drawn


def test_the_books_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "executed", pages.lecture_cells)  # pictures are no matter here
    written = pages.write_pages(tmp_path)
    toc = (ROOT / "book" / "_toc.yml").read_text()
    syllabus = (ROOT / "book" / "chapters" / "course.md").read_text()
    for path, source in zip(written, PATHS, strict=True):
        assert f"executed/course/{path.stem}" in toc
        assert (tmp_path / "notebooks" / path.name).exists()
        text = "\n".join(c.source for c in read(path).cells)
        assert "YOUR ANSWER HERE" not in text
        assert "`notebooks/" not in text
        for link in re.findall(r"\[\]\(\.\./(\w+)\.ipynb\)", text):
            assert (ROOT / "notebooks" / f"{link}.ipynb").exists(), link
        for exercise in exercises(read(source)):
            assert f"````{{exercise}} {exercise.number}, {exercise.kind}, {exercise.points} points: {exercise.title}" in text
            assert f"| {exercise.number} {exercise.title} | {exercise.kind} | {exercise.points} |" in syllabus
    assert f"are worth {sum(e.points for p in PATHS for e in exercises(read(p)))} points" in syllabus


def test_syllabus_and_notebooks_name_the_same_reading_and_notes_the_same_proofs() -> None:
    syllabus, notes = (ROOT / "book" / "chapters" / "course.md").read_text(), (ROOT / "course" / "notes.md").read_text()
    sections = syllabus.split("### Session ")[1:]
    for path, section in zip(PATHS, sections, strict=True):
        listed = re.findall(r"\[\]\((\S+)\)", section[section.index("*Reading:*") : section.index("*Notebook and page:*")])
        paragraphs = read(path).cells[1].source.split("\n\n")
        reading = next(words for words in paragraphs if words.startswith("**Reading.**"))
        named = re.findall(r"`(?:notebooks|book/chapters)/([\w.]+)`", reading)
        assert {link.removeprefix("../executed/") for link in listed} == {*named} - {"notation.md", "errata.md"}  # to look things up
    proved = [re.search(r"Exercises (1\.1 .*) are proved in the reading", text) for text in (syllabus, notes)]
    assert proved[0] is not None
    assert proved[1] is not None
    assert proved[0][1] == proved[1][1]


def test_solutions_do_not_stand_before_the_exercises() -> None:
    wrong = read(PATHS[3])
    wrong.cells.insert(1, next(c for c in wrong.cells if role(c, "solution") and c.cell_type == "code"))
    with pytest.raises(CourseError, match="must not stand before the first exercise"):
        pages.lecture_cells(wrong)


def test_exercise_headings_are_read() -> None:
    assert EXERCISE.match("### Exercise 1.2 (code, 4 points): One step").group("title") == "One step"  # type: ignore[union-attr]
    assert not EXERCISE.match("### Exercise one")
