"""Draw the shapes world as its renderer does, for readers who have not seen it: SVG with the renderer's own pictures inside.

The book shows them where a page says so (`{world} factors`, see `book/_extensions/drawings.py`), with labels in the page's colours.
`python -m selfimprove_lab.figures.world FOLDER` writes all of them as files.
"""

import base64
import html
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from selfimprove.shapes.render import ATTRIBUTES, BACKGROUNDS, COLOURS, FACTORS, POSE_DIMENSIONS, SHAPES, SIZES, Drawing, render
from selfimprove_lab.figures.diagrams import Sheet, framed, write

SCENE = {"size": "large", "colour": "red", "shape": "star", "background": "white"}
WELL, BADLY = 0.95, 0.1  # of the factors that are not shown, and of the one that is low
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
GAP, WORDS = 10, 24  # units between pictures, and above a picture for its label


@dataclass(frozen=True)
class Cell:
    """One picture: a scene by its attributes, five factors in [0, 1], and its label."""

    scene: Mapping[str, str]
    factors: Sequence[float]
    label: str = ""


def picture(cell: Cell) -> bytes:
    """Return one scene as WebP bytes, 64 pixels square; all cells have the same pose.

    Raises:
        ValueError: a factor lies outside [0, 1], or an attribute is unknown.
    """
    if wrong := [f for f in cell.factors if not 0 <= f <= 1]:
        raise ValueError(f"factors has {wrong}, outside [0, 1]; give numbers from 0 (badly drawn) to 1 (well drawn)")
    for name, known in ATTRIBUTES.items():
        if cell.scene[name] not in known:
            raise ValueError(f"scene has {name} {cell.scene[name]!r}; give one of {known}")
    attributes = torch.tensor([[known.index(cell.scene[name]) for name, known in ATTRIBUTES.items()]])
    drawn = Drawing(attributes, torch.tensor([list(cell.factors)]), torch.full((1, POSE_DIMENSIONS), 0.3))
    pixels = (render(drawn)[0][0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", quality=92, method=6)
    return file.getvalue()


def _quality() -> list[tuple[str, list[Cell]]]:
    """One scene at five qualities, and well drawn but for one factor."""
    low = [[BADLY if other == name else WELL for other in FACTORS] for name in FACTORS]
    return [
        ("", [Cell(SCENE, [level] * len(FACTORS), f"quality {level:g}") for level in LEVELS]),
        ("", [Cell(SCENE, factors, f"low {name}") for name, factors in zip(FACTORS, low, strict=True)]),
    ]


def _factors() -> list[tuple[str, list[Cell]]]:
    """All factors together from low to high, then each alone, with the others high."""
    together = [Cell(SCENE, [level] * len(FACTORS), f"{level:g}") for level in LEVELS]
    rows = [("all five", together)]
    for name in FACTORS:
        rows.append((name, [Cell(SCENE, [level if other == name else WELL for other in FACTORS]) for level in LEVELS]))
    return rows


def _scenes() -> list[tuple[str, list[Cell]]]:
    """Every value of each attribute, well drawn."""
    best = [WELL] * len(FACTORS)

    def values(name: str, known: Sequence[str], **others: str) -> list[Cell]:
        return [Cell({**SCENE, **others, name: value}, best, value) for value in known]

    last = values("size", tuple(SIZES)) + values("background", tuple(BACKGROUNDS), colour="cyan", shape="heart")
    return [("", values("shape", SHAPES, colour="blue")), ("", values("colour", tuple(COLOURS), shape="circle")), ("", last)]


@dataclass(frozen=True)
class Picture:
    """The rows of one picture, the width of a cell in units, its title, and what it says to a reader who does not see it."""

    rows: Callable[[], list[tuple[str, list[Cell]]]]
    wide: int
    title: str
    words: str


PICTURES = {
    "quality": Picture(
        _quality, 112, "One scene from badly to well drawn",
        "Two rows of five pictures of a large red star on white. Above, quality rises from 0.1 to 0.9: the star moves to the "
        "middle, turns upright, and becomes crisp, strong in colour and lit. Below, the star is well drawn but for one "
        "factor: off centre, tilted, blurred, pale, or flat.",
    ),
    "factors": Picture(
        _factors, 92, "The five factors of quality, together and one at a time",
        "A grid of one scene, a large red star on white. Columns go from a factor of 0.1 to 0.9. In the first row all five "
        "factors rise together: the star moves to the middle, turns upright, becomes crisp, strong in colour and lit. In the "
        "other rows one factor rises alone: centring moves the star to the middle, rotation turns it upright, sharpness "
        "removes the blur, contrast takes it from pale to strong, shading adds light from the upper left, a highlight and a "
        "shadow.",
    ),
    "scenes": Picture(
        _scenes, 76, "What a scene can be",
        "Three rows of well drawn scenes. First the eight shapes in blue: circle, square, triangle, star, heart, ring, "
        "cross, moon. Then a circle in the eight colours: red, orange, yellow, green, cyan, blue, purple, pink. Last a small "
        "and a large red star, and a cyan heart on the four backgrounds white, black, grey and sand.",
    ),
}  # fmt: skip


def svg(name: str) -> str:
    """Return one picture of the world as one `<svg>` element, with its title and its description inside.

    Raises:
        ValueError: there is no picture of this name.
    """
    if name not in PICTURES:
        raise ValueError(f"name={name!r} is no picture of the world; give one of {sorted(PICTURES)}")
    made = PICTURES[name]
    rows = made.rows()
    left = 86 if any(head for head, _ in rows) else 0
    sheet = Sheet(left + max(len(cells) for _, cells in rows) * (made.wide + GAP), 0)
    for head, cells in rows:
        top = sheet.height + (WORDS if any(cell.label for cell in cells) else GAP)
        if head:
            sheet.words(0, top + made.wide // 2 + 5, head, "l")
        for place, cell in enumerate(cells):
            x = left + place * (made.wide + GAP)
            data = base64.b64encode(picture(cell)).decode()
            sheet.parts.append(f'<image x="{x}" y="{top}" width="{made.wide}" height="{made.wide}" href="data:image/webp;base64,{data}"/>')
            sheet.parts.append(
                f'<rect x="{x}" y="{top}" width="{made.wide}" height="{made.wide}" style="stroke-width:1;stroke-opacity:.3"/>'
            )
            if cell.label:
                sheet.words(x + made.wide // 2, top - 7, cell.label)
        sheet.height = top + made.wide
    return framed(f"world-{name}", sheet, html.escape(made.title), html.escape(made.words))


def main(folder: str) -> None:
    """Write every picture of the world into a folder, as <name>.svg."""
    write(folder, PICTURES, svg)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m selfimprove_lab.figures.world FOLDER")
    main(sys.argv[1])
