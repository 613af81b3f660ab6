"""Draw the pictures of the slides by name: diagrams by code, everything else by the functions that draw the book's figures.

A picture is a function without arguments that returns a matplotlib figure. `picture` gives the function its name; `words.json` has its
words for readers who do not see it. Nothing is stored: every build draws the pictures again, from the package and from `book/results`.
"""

import importlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from course.sessions import CourseError

MODULES = ("diagrams", "theory", "play", "world", "spin", "recursion", "judging")
LOOK = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 100}
DPI = 120
WORDS: dict[str, str] = json.loads((Path(__file__).parent / "words.json").read_text())


@dataclass(frozen=True)
class Picture:
    """One picture: its name, the words for readers who do not see it, and the function that draws it."""

    name: str
    words: str
    draw: Callable[[], Figure]


_FOUND: dict[str, Picture] = {}


def picture(name: str) -> Callable[[Callable[[], Figure]], Callable[[], Figure]]:
    """Register a function as the picture `name`; its words for readers who do not see it stand in words.json.

    Raises:
        CourseError: two functions draw a picture of this name, or it has no words.
    """

    def register(draw: Callable[[], Figure]) -> Callable[[], Figure]:
        if name in _FOUND and _FOUND[name].draw.__module__ != draw.__module__:
            raise CourseError(f"two pictures are called {name}; rename one")
        if name not in WORDS:
            raise CourseError(f"picture {name!r} has no words for readers who do not see it; write them into course/pictures/words.json")
        _FOUND[name] = Picture(name, WORDS[name], draw)
        return draw

    return register


def pictures() -> dict[str, Picture]:
    """Return all pictures by name."""
    for module in MODULES:
        importlib.import_module(f"course.pictures.{module}")
    return dict(_FOUND)


@cache
def png(name: str) -> bytes:
    """Draw a picture, and return it as a PNG file.

    Raises:
        CourseError: there is no picture of this name.
    """
    found = pictures()
    if name not in found:
        raise CourseError(f"there is no picture {name!r}; there are {', '.join(sorted(found))}")
    plt.switch_backend("Agg")
    with plt.rc_context(LOOK):
        figure = found[name].draw()
        drawn, file = io.BytesIO(), io.BytesIO()
        figure.savefig(drawn, dpi=DPI, facecolor="white")
        plt.close("all")
    Image.open(drawn).convert("RGB").quantize(256).save(file, "PNG", optimize=True)  # a third of the size, to the eye the same
    return file.getvalue()
