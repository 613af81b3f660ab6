"""python -m course.slides [folder]: build the slides of every session and of the short course, as HTML files that need no network.

Their pictures and MathJax lie beside them.

A deck is one Markdown file in `course/decks/`. `## Title | 8 *` begins a slide that is planned for 8 minutes; the star puts the slide into
the course of five meetings as well. A line `![](name)` shows a picture of `course.pictures`; `[[name]]` stands for a finding that
`course.readings` computes, so that no number of a result is typed; what follows `Notes:` is said, not shown. Arrow keys, space and page
keys turn slides, N shows notes and clock, printing makes one page per slide.
"""

import argparse
import html
import importlib.util
import re
import shutil
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from nbconvert.filters.markdown_mistune import markdown2html_mistune

from course.pictures import pictures, png
from course.plan import SHORT, SHORT_EXERCISES
from course.readings import FINDINGS, finding
from course.sessions import ROOT, CourseError

SLIDES, DECKS = ROOT / "runs" / "course" / "slides", Path(__file__).parent / "decks"
HEADING = re.compile(r"^## (?P<title>.+?) \| (?P<minutes>\d+)(?P<short> \*)?$", re.MULTILINE)
PICTURE, FINDING = re.compile(r"^!\[\]\(([\w-]+)\)$", re.MULTILINE), re.compile(r"\[\[([^\]]+)\]\]")


@dataclass(frozen=True)
class Slide:
    """One slide: what it shows (`body` with the names of pictures and findings), what is said, and for how long."""

    title: str
    minutes: int
    short: bool
    body: str
    notes: str

    @property
    def shown(self) -> list[str]:
        """Return the names of the slide's pictures."""
        return PICTURE.findall(self.body)


@dataclass(frozen=True)
class Deck:
    """The slides of one session or meeting, with the name of its file."""

    name: str
    title: str
    slides: tuple[Slide, ...]

    @property
    def minutes(self) -> int:
        """Return the planned length."""
        return sum(slide.minutes for slide in self.slides)


def deck_paths() -> list[Path]:
    """Return the sources of the slides, in the order of the course."""
    return sorted(DECKS.glob("[0-9][0-9]_*.md"))


def read_deck(path: Path) -> Deck:
    """Read the source of one session's slides.

    Raises:
        CourseError: a heading has no minutes, a slide has no notes, or a picture or finding is unknown.
    """
    text = path.read_text()
    heads = list(HEADING.finditer(text))
    if wrong := set(re.findall(r"^## .+$", text, re.MULTILINE)) - {head[0] for head in heads}:
        raise CourseError(f"{path.name}: {sorted(wrong)[0]!r} does not say how long it takes; write '## Title | 8', or '| 8 *'")
    ends = [*(head.start() for head in heads[1:]), len(text)]
    slides = []
    for head, end in zip(heads, ends, strict=True):
        body, _, notes = (part.strip() for part in text[head.end() : end].partition("\nNotes:"))
        if not notes:
            raise CourseError(f"{path.name}: slide {head['title']!r} has no 'Notes:'; say what the lecturer says")
        slides.append(Slide(head["title"], int(head["minutes"]), bool(head["short"]), body, notes))
    for slide in slides:
        if unknown := ({*slide.shown} - {*pictures()}) | ({*FINDING.findall(slide.body + slide.notes)} - {*FINDINGS}):
            raise CourseError(f"{path.name}: slide {slide.title!r} names {sorted(unknown)[0]!r}, which is no picture and no finding")
    return Deck(path.stem, text.splitlines()[0].removeprefix("# "), tuple(slides))


def short_decks() -> list[Deck]:
    """Return the decks of the course of five meetings: the starred slides of the sessions that a meeting takes."""
    decks = {int(path.stem[:2]): read_deck(path) for path in deck_paths()}
    made = []
    for meeting, sessions in SHORT.items():
        slides = [slide for number in sessions for slide in decks[number].slides if slide.short]
        named = f"session{'s' * (len(sessions) > 1)} {' and '.join(map(str, sessions))}"
        title = f"Meeting {meeting} of five: {named}; exercises {', '.join(SHORT_EXERCISES[meeting])}"
        made.append(Deck(f"short_{meeting}", title, tuple(slides)))
    return made


def rendered(text: str) -> str:
    """Return Markdown as HTML, with pictures and findings filled in."""
    text = FINDING.sub(lambda found: finding(found[1]).replace("[", "&#91;"), text)

    def shown(found: re.Match[str]) -> str:
        words = html.escape(pictures()[found[1]].words)
        return f'<img alt="{words}" src="pictures/{found[1]}.png">'

    return str(markdown2html_mistune(PICTURE.sub(shown, text)))


def deck_html(deck: Deck) -> str:
    """Return the HTML page of a deck."""
    starts = [0, *accumulate(slide.minutes for slide in deck.slides)]
    slides = []
    for slide, start in zip(deck.slides, starts, strict=False):
        clock = f"minutes {start} to {start + slide.minutes}"
        slides.append({"title": slide.title, "body": rendered(slide.body), "notes": rendered(slide.notes), "clock": clock})
    page = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True).get_template("slides.html")
    return page.render(title=deck.title, slides=slides, minutes=deck.minutes)


def index_html(decks: list[Deck]) -> str:
    """Return the HTML page that lists all decks with their plans in minutes."""
    page = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True).get_template("decks.html")
    return page.render(decks=decks)


def mathjax() -> Path:
    """Return the path of MathJax with SVG output, in the installed wheel.

    Raises:
        CourseError: the wheel is not installed.
    """
    found = importlib.util.find_spec("sphinx-mathjax-offline")
    if found is None or found.origin is None:
        raise CourseError("sphinx-mathjax-offline is not installed; pip install -e '.[book]'")
    return Path(found.origin).parent / "static" / "mathjax" / "tex-svg.js"


def write_slides(folder: Path) -> list[Path]:
    """Write all decks, their list, their pictures and MathJax into a folder, and return the decks' paths."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    decks = [*(read_deck(path) for path in deck_paths()), *short_decks()]
    for deck in decks:
        (folder / f"{deck.name}.html").write_text(deck_html(deck))
    for name in {name for deck in decks for slide in deck.slides for name in slide.shown}:
        (folder / "pictures" / f"{name}.png").write_bytes(png(name))
    (folder / "index.html").write_text(index_html(decks))
    shutil.copyfile(mathjax(), folder / "mathjax.js")
    return [folder / f"{deck.name}.html" for deck in decks]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m course.slides", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=SLIDES, help="where to write; default: runs/course/slides")
    print(*write_slides(parser.parse_args(arguments).folder), sep="\n")


if __name__ == "__main__":
    main()
