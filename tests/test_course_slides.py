"""The slides: every session has its pictures, words for them, notes, and a plan in minutes; no number of a finding is typed."""

import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from course import pages, pictures, readings, slides
from course.plan import LENGTH, NEEDS, SHORT, SHORT_EXERCISES, TITLES
from course.sessions import ROOT, CourseError, exercises, read, session_paths
from selfimprove_lab.findings import findings
from selfimprove_lab.results.lost import split_obedience

DECKS = [slides.read_deck(path) for path in slides.deck_paths()]
NUMBERS_OF_PLACES = r"\(\d\.\d\)|\b(?:[Ee]xercises?|and|to|that) \d\.\d\b|^- \d\.\d:"


def test_every_session_has_its_slides() -> None:
    assert [deck.name for deck in DECKS] == [path.stem for path in session_paths()]
    for deck, path in zip(DECKS, session_paths(), strict=True):
        assert f"# {deck.title}" == read(path).cells[0].source.splitlines()[0]
        assert len(deck.slides) >= 15, deck.name
        assert deck.minutes == LENGTH, f"{deck.name}: {deck.minutes} minutes"
        assert sum(bool(slide.shown) for slide in deck.slides) >= 7, f"{deck.name} has too few pictures"
        assert all(len(slide.notes) > 60 for slide in deck.slides), deck.name
        assert deck.slides[-1].title == "To remember"


def test_the_short_course_adds_up() -> None:
    assert sorted(number for sessions in SHORT.values() for number in sessions) == list(TITLES)
    assert [deck.minutes for deck in slides.short_decks()] == [LENGTH] * len(SHORT)
    known = {e.number for path in session_paths() for e in exercises(read(path))}
    for meeting, chosen in SHORT_EXERCISES.items():
        assert {*chosen} <= known
        assert {int(number[0]) for number in chosen} == {*SHORT[meeting]}
    assert all(need < session for session, needs in NEEDS.items() for need in needs)


def test_every_picture_has_words_and_a_slide() -> None:
    shown = {name for deck in DECKS for slide in deck.slides for name in slide.shown} | {"dependencies", "five-sessions"}
    assert shown == {*pictures.pictures()}
    assert not [p.name for p in pictures.pictures().values() if len(p.words) < 40]


@pytest.mark.parametrize("path", slides.deck_paths(), ids=lambda p: p.stem)
def test_no_number_of_a_finding_is_typed(path: Path) -> None:
    """Decimals in slides are numbers of equations, exercises and theorems; findings come by name from `course.readings`."""
    text = re.sub(r"\$\$.*?\$\$|\$[^$\n]*\$", "", path.read_text(), flags=re.DOTALL)
    left = re.sub(NUMBERS_OF_PLACES, "", text, flags=re.MULTILINE)
    decimals = re.findall(r".*\d*\.\d.*", left)
    assert not [line for line in decimals if "guidance of 1.5" not in line], decimals  # a setting


@pytest.mark.filterwarnings("ignore:The set_bad function:PendingDeprecationWarning")  # seaborn's masks
@pytest.mark.parametrize("name", sorted(pictures.pictures()))
def test_every_picture_is_drawn(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(pictures.png(name))
    image = matplotlib.image.imread(tmp_path / "a.png")
    assert image.shape[1] >= 450
    assert image[..., :3].std() > 0.03, "nearly one colour"


@pytest.mark.filterwarnings("ignore:The set_bad function:PendingDeprecationWarning")
def test_decks_are_built(tmp_path: Path) -> None:
    written = slides.write_slides(tmp_path)
    assert len(written) == len(DECKS) + len(SHORT)
    for path, deck in zip(written, [*DECKS, *slides.short_decks()], strict=True):
        page = path.read_text()
        assert page.count("<section") == page.count("<aside") == len(deck.slides)
        assert f"minutes {LENGTH - deck.slides[-1].minutes} to {LENGTH} of {LENGTH}" in re.sub(r"</?b>", "", page)
        for source in re.findall(r"""(?:src|href)=["']([^"'#]+)""", page):
            assert (tmp_path / source).exists(), source
        assert all(len(words) >= 40 for words in re.findall(r'<img alt="([^"]*)"', page))
        assert "[[" not in page[page.index("<body>") :]
    index = (tmp_path / "index.html").read_text()
    assert [*re.findall(r'href="([^"]+)"', index)] == [path.name for path in written]
    assert sum(path.stat().st_size for path in tmp_path.rglob("*")) < 12e6


def test_sources_of_slides_are_checked(tmp_path: Path) -> None:
    for said, text in {
        "how long": "# A\n\n## B\ntext\n\nNotes: c\n",
        "no 'Notes:'": "# A\n\n## B | 8\ntext\n",
        "no picture": "# A\n\n## B | 8\n![](nothing)\n\nNotes: c\n",
        "no finding": "# A\n\n## B | 8 *\n[[nothing]]\n\nNotes: c\n",
    }.items():
        (tmp_path / "01_a.md").write_text(text)
        with pytest.raises(CourseError, match=said):
            slides.read_deck(tmp_path / "01_a.md")
    with pytest.raises(CourseError, match="there is no picture"):
        pictures.png("nothing")


def test_a_change_of_obedience_is_split_without_a_rest() -> None:
    tables = [readings.judged(name) for name in ("base", "sft-equal-compute-seed-0")]
    whole = tables[1]["oracle_all_right"].mean() - tables[0]["oracle_all_right"].mean()
    assert np.isclose(sum(split_obedience(*tables)), whole)
    before = pd.DataFrame({"oracle_quality": [0.5, 0.5], "oracle_all_right": [1.0, 1.0]})
    assert split_obedience(before, before.assign(oracle_all_right=[1.0, 0.0])) == (0, -0.5)
    assert split_obedience(before, before.assign(oracle_quality=[0.5, 0.0], oracle_all_right=[1.0, 0.0])) == (-0.5, 0)
    split = readings.split_with_interval("spin-round-3-seed-{seed}")
    one_by_one = np.mean([split_obedience(tables[0], readings.judged(f"spin-round-3-seed-{s}")) for s in (0, 1, 2)], axis=0)
    assert np.allclose(split.loc[["no scene", "attributes"], "mean"], one_by_one)
    assert (split["low"] < split["mean"]).all()
    assert (split["mean"] < split["high"]).all()


def test_findings_are_what_the_chapter_and_the_exercises_compute() -> None:
    frozen = readings.finding("spin less frozen")
    assert frozen == findings(readings.RESULTS, ["play"])["play_over_frozen_opponent_equal_steps_quality"]
    apart = np.subtract(readings.changes("spin", "quality"), readings.changes("frozen", "quality"))
    assert frozen.startswith(f"{apart.mean():+.3f} [")  # session 6's exercise has the same mean, and an interval over seeds alone
    assert readings.finding("rsi quality 5 to 8").startswith("+0.004")  # and session 7's
    answers = [cell.source for path in session_paths()[5:7] for cell in read(path).cells if "nbgrader" in cell.metadata]
    assert any("0.008 [0.004, 0.011]" in answer for answer in answers)
    assert any("+0.004" in answer for answer in answers)


def test_what_lies_beside_the_books_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zipfile

    monkeypatch.setattr(pages, "write_slides", lambda folder: folder.mkdir(parents=True) or (folder / "index.html").write_text("x"))
    pages.release(tmp_path / "pages" / "notebooks")
    pages.write_extras(tmp_path / "extra", tmp_path / "pages")
    with zipfile.ZipFile(tmp_path / "extra" / "course.zip") as archive:
        names, texts = archive.namelist(), b"".join(archive.read(name) for name in archive.namelist())
    assert {"slides/index.html", "lab/one_dimension.ipynb", "sample_project/marks.md", "notebooks/01_diffusion_and_ddim.ipynb"} <= {*names}
    assert b"BEGIN SOLUTION" not in texts
    assert b"HIDDEN" not in texts
    assert not [name for name in names if "second" in name]
    syllabus = (ROOT / "book" / "chapters" / "course.md").read_text()
    for link in ("../slides/index.html", "../course.zip", *(f"../slides/{deck.name}.html" for deck in DECKS)):
        assert f'href="{link}"' in syllabus, link
