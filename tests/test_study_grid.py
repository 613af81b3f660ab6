"""Selection by hand, up to the list that a round reads."""

from pathlib import Path

import pandas as pd
import pytest

from selfimprove.recursion.selection import KEPT_BY_HAND, select
from selfimprove.study import grid, read_answers
from selfimprove.study.grid import DROP, KEEP, Grid, select_by_hand
from selfimprove.study.images import load_candidates
from selfimprove.study.store import StudyError
from selfimprove_lab.study_demo import write_demo


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who has looked long enough."""
    monkeypatch.setattr(grid, "HASTE", 0.0)


@pytest.fixture
def waiting(tmp_path: Path) -> Path:
    """A round that waits for its list: 14 candidates, two pages."""
    source = Path(write_demo(tmp_path / "drawn", prompts=14)["fair"])
    folder = tmp_path / "round_1"
    (folder / "candidates").mkdir(parents=True)
    ids = [f"1-{number:02d}" for number in range(14)]
    for number, name in enumerate(ids):
        (source / f"{number:03d}.png").rename(folder / "candidates" / f"{name}.png")
    pd.DataFrame({"id": ids, "prompt": "a star"}).to_parquet(folder / "pool.parquet")
    return folder


def test_selection_by_hand(waiting: Path) -> None:
    grid = select_by_hand(waiting)
    grid.finish()
    assert "Nothing is kept yet" in grid.message.value
    grid.decide(11, KEEP)
    assert grid.cursor == 0
    grid.move(4)
    grid.decide(grid.cursor, DROP)
    assert grid.cursor == 5
    again = select_by_hand(waiting)
    assert (again.kept(), again.cursor, again.page) == (["1-11"], 0, 0)
    for _ in range(10):
        again.decide(again.cursor, KEEP)
    assert (again.page, again.cursor) == (1, 0)
    again.decide(1, DROP)
    again.undo()
    again.undo()
    assert (again.page, len(again.decisions)) == (0, 11)
    again.turn(1)
    again.decide(5, KEEP)  # no picture is there
    again.finish()
    kept = (waiting / KEPT_BY_HAND).read_text().split()
    assert len(kept) == 10
    chosen = select(pd.read_parquet(waiting / "pool.parquet"), {}, "manual", 0, 0, kept_ids=kept)
    assert chosen["id"][chosen["kept"]].tolist() == kept


def test_errors_of_selection_by_hand(waiting: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="holds no candidates"):
        select_by_hand(tmp_path)
    pictures = load_candidates(waiting)
    with pytest.raises(StudyError, match="pictures is empty"):
        Grid([], tmp_path / "a.sqlite", tmp_path / "kept.txt")
    with pytest.raises(StudyError, match="two pictures are called '1-00'"):
        Grid([pictures[0], pictures[1]._replace(name="1-00")], tmp_path / "a.sqlite", tmp_path / "kept.txt")
    Grid(pictures, tmp_path / "a.sqlite", tmp_path / "kept.txt").decide(0, KEEP)
    with pytest.raises(StudyError, match="holds a selection by hand"):
        read_answers(tmp_path / "a.sqlite")
