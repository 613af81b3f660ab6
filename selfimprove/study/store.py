"""Store answers in an SQLite file. Each answer is appended the moment it is given, and is never changed or deleted.

A row is on disk before `append` returns, so a killed kernel loses nothing. Several raters may write to one file at the same time. On a
network drive this works only if its file locks work.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from selfimprove.errors import SelfImproveError

UNDONE = "undone"  # the answer that undoes an earlier one
PATIENCE = 30.0  # seconds to wait for another rater's write
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS study (identity TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS answers (number INTEGER PRIMARY KEY AUTOINCREMENT, time TEXT NOT NULL, rater TEXT NOT NULL, "
    "item TEXT NOT NULL, question TEXT NOT NULL, answer TEXT NOT NULL, seconds REAL NOT NULL, shown TEXT NOT NULL)",
    "CREATE TRIGGER IF NOT EXISTS no_update BEFORE UPDATE ON answers BEGIN SELECT RAISE(ABORT, 'answers are only appended'); END",
    "CREATE TRIGGER IF NOT EXISTS no_delete BEFORE DELETE ON answers BEGIN SELECT RAISE(ABORT, 'answers are only appended'); END",
)


class StudyError(SelfImproveError):
    """The study cannot be run or read; the message says why and what to do."""


class Answer(NamedTuple):
    """One row. `time` is in UTC. `seconds` is the time from showing to answering. `shown` records what the rater saw."""

    time: str
    rater: str
    item: str
    question: str
    answer: str
    seconds: float
    shown: dict[str, Any]


@contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = FULL")  # on disk, not in the system's cache, when a statement returns
        yield connection


def read_log(path: Path) -> list[Answer]:
    """Return every answer in a database, in the order given.

    Raises:
        StudyError: the file does not exist, or is not a database of answers.
    """
    if not path.is_file():
        raise StudyError(f"database={str(path)!r} does not exist; give the file that the study wrote")
    try:
        with _connected(path) as connection:
            rows = connection.execute("SELECT time, rater, item, question, answer, seconds, shown FROM answers ORDER BY number").fetchall()
    except sqlite3.DatabaseError as error:
        raise StudyError(f"database={str(path)!r} holds no answers ({error}); give the file that a study wrote") from error
    return [Answer(*row)._replace(shown=json.loads(row[-1])) for row in rows]


def standing(answers: list[Answer]) -> list[Answer]:
    """Return the final answers in the order given: per rater, item and question the last answer, unless it was undone."""
    last = {(a.rater, a.item, a.question): number for number, a in enumerate(answers)}
    return [answers[number] for number in sorted(last.values()) if answers[number].answer != UNDONE]


class AnswerLog:
    """A study's database, created or opened for one identity (the settings that distinguish this study from others).

    Raises:
        StudyError: the file is of another kind or belongs to another study. The message names the fields that differ.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        wanted = json.loads(json.dumps(identity))  # as it will be read back
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with _connected(path) as connection:
                connection.execute("BEGIN IMMEDIATE")
                found = self._found(connection, wanted)
                connection.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            raise StudyError(f"database={str(path)!r} cannot be used ({error}); give another file name") from error
        differing = [
            f"{k}: {found.get(k)!r} there, {wanted.get(k)!r} here" for k in sorted(found | wanted) if found.get(k) != wanted.get(k)
        ]
        if differing:
            raise StudyError(
                f"database={str(path)!r} holds another study ({'; '.join(differing)}); give another file, or the same images and settings"
            )

    def _found(self, connection: sqlite3.Connection, wanted: dict[str, Any]) -> dict[str, Any]:
        """Return the identity in the file. In a new file, write `wanted` and return it."""
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and not {"study", "answers"} <= tables:
            raise StudyError(f"database={str(self.path)!r} holds other tables ({', '.join(sorted(tables))}); give another file name")
        if tables:
            return json.loads(connection.execute("SELECT identity FROM study").fetchone()[0])
        for statement in SCHEMA:
            connection.execute(statement)
        connection.execute("INSERT INTO study VALUES (?)", (json.dumps(wanted),))
        return wanted

    def append(self, rater: str, item: str, question: str, answer: str, seconds: float, shown: Mapping[str, Any]) -> None:
        """Write one answer. The answer is on disk when this method returns.

        Raises:
            sqlite3.Error: the answer could not be written (disk full, or file locked for long). Nothing of it is stored then.
        """
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        with _connected(self.path) as connection:
            connection.execute(
                "INSERT INTO answers (time, rater, item, question, answer, seconds, shown) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (time, rater, item, question, answer, round(seconds, 3), json.dumps(shown)),
            )

    def standing(self, rater: str) -> list[Answer]:
        """Return a rater's final answers."""
        return standing([a for a in read_log(self.path) if a.rater == rater])

    def undo(self, rater: str) -> Answer | None:
        """Undo the rater's last final answer by appending a row, and return that answer; return None if there is none."""
        answers = self.standing(rater)
        if not answers:
            return None
        last = answers[-1]
        self.append(rater, last.item, last.question, UNDONE, 0.0, last.shown)
        return last
