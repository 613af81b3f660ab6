"""The file of answers: append-only, for several raters, and no other kind of file."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from selfimprove.study import read_answers
from selfimprove.study.store import AnswerLog, StudyError, read_log


def test_answers_are_never_changed_or_deleted(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path / "a.sqlite", {"kind": "test"})
    log.append("ada", "x", "appeal", "left", 1.0, {})
    connection = sqlite3.connect(tmp_path / "a.sqlite")
    for statement in ("UPDATE answers SET answer = 'right'", "DELETE FROM answers"):
        with pytest.raises(sqlite3.IntegrityError, match="only appended"):
            connection.execute(statement)
    connection.close()


def _append(path: Path, rater: str) -> None:
    log = AnswerLog(path, {"kind": "test"})
    for number in range(10):
        log.append(rater, str(number), "appeal", "left", 1.0, {})


def test_several_raters_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: _append(tmp_path / "a.sqlite", f"rater {n}"), range(4)))
    assert len(read_log(tmp_path / "a.sqlite")) == 40


def test_errors_of_a_database(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="does not exist"):
        read_answers(tmp_path / "none.sqlite")
    (tmp_path / "text.sqlite").write_text("no database, but a text of some length")
    with pytest.raises(StudyError, match="cannot be used"):
        AnswerLog(tmp_path / "text.sqlite", {})
    with sqlite3.connect(tmp_path / "other.sqlite") as connection:
        connection.execute("CREATE TABLE things (x)")
    connection.close()
    with pytest.raises(StudyError, match="holds other tables"):
        AnswerLog(tmp_path / "other.sqlite", {})
    with pytest.raises(StudyError, match="holds no answers"):
        read_answers(tmp_path / "other.sqlite")
