"""The study: its pairs, what raters see and do. What a browser must show: tests_browser/."""

import json
import sqlite3
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from selfimprove.study import LEFT, QUESTIONS, RIGHT, SKIP, TIE, Study, export_answers, open_study, panel, parse_models, read_answers
from selfimprove.study.panel import Panel
from selfimprove.study.store import AnswerLog, StudyError, read_log
from selfimprove_lab.study_demo import write_demo


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, str]:
    return write_demo(tmp_path / "demo", prompts=4)


@pytest.fixture
def study(folders: dict[str, str], tmp_path: Path) -> Study:
    return open_study(folders, tmp_path / "answers.sqlite", seed=3, repeated=0.25)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raters who have looked long enough."""
    monkeypatch.setattr(panel, "HASTE", 0.0)


def test_every_pair_once_and_some_again_with_sides_exchanged(study: Study) -> None:
    trials = study.trials("ada")
    first = {t.pair: t for t in trials if not t.repeat}
    again = [t for t in trials if t.repeat]
    assert len(first) == 4 * 3
    assert {frozenset((t.left, t.right)) for t in trials} == {
        frozenset(p) for p in (("fair", "fine"), ("fair", "rough"), ("fine", "rough"))
    }
    assert len(again) == 3
    for trial in again:
        assert (trial.left, trial.right) == (first[trial.pair].right, first[trial.pair].left)
        assert trial.place - first[trial.pair].place >= 6
    assert [t.place for t in trials] == list(range(15))


def test_order_and_sides_are_the_raters_own_and_stay(study: Study, folders: dict[str, str], tmp_path: Path) -> None:
    assert study.trials("ada") == open_study(folders, tmp_path / "other.sqlite", seed=3, repeated=0.25).trials("ada")
    by_rater = {rater: {t.pair: t.left for t in study.trials(rater) if not t.repeat} for rater in ("ada", "bob")}
    assert list(by_rater["ada"]) != list(by_rater["bob"])
    assert set(by_rater["ada"]) == set(by_rater["bob"])
    assert by_rater["ada"] != by_rater["bob"]
    many = [t.left < t.right for r in range(100) for t in study.trials(f"rater {r}")]
    assert 0.45 < sum(many) / len(many) < 0.55


def test_fewer_pairs_are_the_same_for_all(folders: dict[str, str], tmp_path: Path) -> None:
    study = open_study(folders, tmp_path / "few.sqlite", count=5, repeated=0.0)
    assert {t.pair for t in study.trials("ada")} == {t.pair for t in study.trials("bob")}
    assert len(study.trials("ada")) == 5


@pytest.mark.usefixtures("patient")
def test_a_rater_goes_on_where_they_stopped(study: Study, folders: dict[str, str], tmp_path: Path) -> None:
    panel = Panel(study, "ada")
    for question in QUESTIONS:
        panel.choose(question, LEFT)
    panel.choose("appeal", TIE)
    another = Panel(open_study(folders, tmp_path / "answers.sqlite", seed=3, repeated=0.25), " ada ")
    assert another.trial == study.trials("ada")[1]
    assert another.question == "faithfulness"
    assert Panel(study, "bob").trial == study.trials("bob")[0]


@pytest.mark.usefixtures("patient")
def test_undo_and_skip_append(study: Study, tmp_path: Path) -> None:
    panel = Panel(study, "ada")
    panel.choose("appeal", LEFT)
    panel.choose("appeal", RIGHT)
    panel.undo()
    assert panel.question == "appeal"
    panel.choose("appeal", TIE)
    panel.skip()  # the other question
    assert [a.answer for a in read_log(tmp_path / "answers.sqlite")] == ["left", "right", "undone", "tie", "skip"]
    table = read_answers(tmp_path / "answers.sqlite")
    assert dict(zip(table["question"], table["answer"], strict=True)) == {"appeal": TIE, "faithfulness": SKIP}
    for _ in range(3):
        panel.undo()
    assert panel.message.value.count("nothing to undo") == 1
    assert read_answers(tmp_path / "answers.sqlite").empty


def test_nothing_counts_before_anyone_can_have_looked(study: Study) -> None:
    panel = Panel(study, "ada")
    panel.choose("appeal", LEFT)
    panel.skip()
    assert not study.given("ada")


@pytest.mark.usefixtures("patient")
def test_the_page_never_names_a_model(study: Study, folders: dict[str, str]) -> None:
    panel = Panel(study, "ada")
    while panel.trial:
        said = panel.top.value + panel.prompt.value + panel.message.value
        assert not any(name in said for name in folders)
        for question in QUESTIONS:
            panel.choose(question, LEFT)
    assert "All 15 pairs are answered" in panel.top.value
    assert read_answers(study.log.path)["winner"].isin(list(folders)).all()


@pytest.mark.usefixtures("patient")
def test_a_prompt_is_text_and_no_markup(folders: dict[str, str], tmp_path: Path) -> None:
    for folder in folders.values():
        Path(folder, "metadata.jsonl").write_text(json.dumps({"file_name": "000.png", "prompt": "<img src=x> & co"}) + "\n")
    panel = Panel(open_study(folders, tmp_path / "a.sqlite"), "<b>")
    assert "&lt;img src=x&gt; &amp; co" in panel.prompt.value
    assert "&lt;b&gt;" in panel.top.value


@pytest.mark.usefixtures("patient")
def test_what_could_not_be_saved_is_said_and_asked_again(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    panel = Panel(study, "ada")

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(AnswerLog, "append", full)
        panel.choose("appeal", LEFT)
    assert "Not saved: database or disk is full" in panel.message.value
    assert panel.question == "appeal"
    panel.choose("appeal", LEFT)
    assert panel.question == "faithfulness"


@pytest.mark.usefixtures("patient")
def test_export_and_back(study: Study, tmp_path: Path) -> None:
    panel = Panel(study, "7")
    panel.choose("appeal", LEFT)
    panel.choose("faithfulness", SKIP)
    exported = export_answers(tmp_path / "answers.sqlite", tmp_path / "answers.csv")
    pd.testing.assert_frame_equal(read_answers(exported), read_answers(tmp_path / "answers.sqlite"), check_dtype=False)
    assert read_answers(exported)["winner"][0] == study.trials("7")[0].left
    assert read_answers(exported)["winner"][1] == ""


def test_models_by_name(tmp_path: Path) -> None:
    assert parse_models("a: runs/x ; b:C:/y;") == {"a": "runs/x", "b": "C:/y"}
    (tmp_path / "m.txt").write_text("a: x\nb: y\n")
    assert parse_models(str(tmp_path / "m.txt")) == {"a": "x", "b": "y"}
    for wrong in ("a", "a: x; a: y", ": x"):
        with pytest.raises(StudyError, match="is not a new name and a folder"):
            parse_models(wrong)


def test_errors_of_a_study(folders: dict[str, str], study: Study, tmp_path: Path) -> None:
    database = tmp_path / "answers.sqlite"
    with pytest.raises(StudyError, match=r"models=\['fine'\] leaves nothing to compare"):
        open_study({"fine": folders["fine"]}, database)
    with pytest.raises(StudyError, match="repeated=0.9 is no share"):
        open_study(folders, database, repeated=0.9)
    with pytest.raises(StudyError, match=r"count=99 is not from 0 \(all\) to 12"):
        open_study(folders, database, count=99)
    with pytest.raises(StudyError, match="another study .*seed: 3 there, 4 here"):
        open_study(folders, database, seed=4, repeated=0.25)
    table = Path(folders["fine"], "metadata.jsonl")
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:3]))
    with pytest.raises(StudyError, match="model 'fine' lacks 1 of the 4 images of 'rough'"):
        open_study(folders, database)
    table.write_text("".join(lines))
    Image.new("RGB", (64, 64)).save(Path(folders["fine"], "000.png"))
    with pytest.raises(StudyError, match="another study .*models: .*'fine'"):
        open_study(folders, database, seed=3, repeated=0.25)
