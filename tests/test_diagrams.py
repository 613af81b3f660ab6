"""Diagrams: words for readers who do not see them, text inside its frame, and a place in a page."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from selfimprove_lab.figures.diagrams import DIAGRAMS, main, svg

ROOT = Path(__file__).parent.parent
SVG = "{http://www.w3.org/2000/svg}"
NARROW = 8  # units between a line of text and its frame, both sides together


def width(words: str, kind: str) -> float:
    """How wide a line is in DejaVu Sans, which is wider than the fonts of most systems."""
    font = FontProperties(family="DejaVu Sans", weight="semibold" if kind.startswith("b") else "normal")
    return float(TextPath((0, 0), words, size=15 if kind.startswith("b") else 13.5, prop=font).get_extents().width)


@pytest.mark.parametrize("name", DIAGRAMS)
def test_a_diagram_says_what_it_shows(name: str) -> None:
    root = ElementTree.fromstring(svg(name))
    words = {tag.get("id"): tag.text or "" for tag in root if tag.tag in (f"{SVG}title", f"{SVG}desc")}
    assert root.get("role") == "img"
    assert [len(words[label]) > 15 for label in (root.get("aria-labelledby") or "").split()] == [True, True]
    assert len(DIAGRAMS[name].words) > 100


@pytest.mark.parametrize("name", DIAGRAMS)
def test_text_fits(name: str) -> None:
    """In its frame if it stands in one, and on the sheet."""
    root = ElementTree.fromstring(svg(name))
    across = float(root.get("width") or 0)
    frames = [tuple(float(tag.get(k) or 0) for k in ("x", "y", "width", "height")) for tag in root.iter(f"{SVG}rect")]
    assert all(x >= 0 and x + w <= across and y + h <= float(root.get("height") or 0) for x, y, w, h in frames)
    inside = 0
    for tag in root.iter(f"{SVG}text"):
        x, y, kind, words = float(tag.get("x") or 0), float(tag.get("y") or 0), tag.get("class") or "", tag.text or ""
        wide = width(words, kind)
        left = x if kind.endswith("l") else x - wide / 2
        assert left >= 0, words
        assert left + wide <= across, words
        for fx, fy, w, h in frames:
            if x == fx + w / 2 and fy < y < fy + h and not kind.endswith("l"):
                inside += 1
                assert wide <= w - NARROW, f"{words!r} is {wide:.0f} wide, its frame {w:.0f}"
    assert inside >= len(frames)


def test_files_hold_the_same_drawings(tmp_path: Path) -> None:
    main(str(tmp_path / "new"))
    assert {p.stem: p.read_text().strip() for p in (tmp_path / "new").iterdir()} == {name: svg(name) for name in DIAGRAMS}


def test_an_unknown_diagram_is_refused() -> None:
    with pytest.raises(ValueError, match="'spin' is no diagram; give one of"):
        svg("spin")


def build(folder: Path, page: str) -> subprocess.CompletedProcess[str]:
    """A book of one page, built with the book's own directives."""
    (folder / "index.md").write_text(page)
    (folder / "conf.py").write_text(
        f"import sys\nsys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'book' / '_extensions')!r}]\n"
        "extensions = ['myst_parser', 'drawings']\nmyst_enable_extensions = ['dollarmath']\nnumfig = True\n"
    )
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", str(folder), str(folder / "out")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_page_shows_drawings_with_captions(tmp_path: Path) -> None:
    made = build(
        tmp_path,
        "# A page\n\n```{diagram} spin-round\n:name: fig-round\n\nA *round*, with $x_t$.\n\nMore.\n```\n\n"
        "```{live} times\nThree laws.\n```\n\n{numref}`fig-round`\n",
    )
    assert made.returncode == 0, made.stderr
    page = (tmp_path / "out" / "index.html").read_text()
    assert svg("spin-round") in page
    assert "A <em>round</em>" in page
    assert 'id="fig-round"' in page
    assert "Fig. 1" in page
    assert page.count("<figure") == 2
    assert 'type="range"' in page


@pytest.mark.parametrize("wrong", ["```{diagram} nothing\nA caption.\n```\n", "```{live} times\n```\n"])
def test_a_misspelt_drawing_ends_the_build(tmp_path: Path, wrong: str) -> None:
    made = build(tmp_path, f"# A page\n\n{wrong}")
    assert made.returncode != 0
    assert "no diagram" in made.stderr or "content" in made.stderr.lower()
