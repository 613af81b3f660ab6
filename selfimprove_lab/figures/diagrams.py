"""Draw the book's diagrams as SVG: a round of either method, the objectives, and DPO beside SPIN.

The book shows a diagram where a page says so (`book/_extensions/drawings.py`). `python -m selfimprove_lab.figures.diagrams FOLDER` writes
all of them as files. A diagram has one SVG for both uses. In a page it takes the page's colours, and follows the page's switch between
light and dark. As a file of its own it follows the reader's system. Colours are never alone: frames of real images are solid, those of
generated images are dashed.
"""

import html
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

LINE = 19  # units from one line of text to the next
REAL, DRAWN, MODEL, STEP = "real", "drawn", "model", "step"
_STYLE = (
    ".si-d{--real:#00563f;--drawn:#8a3e00;--model:#004f86;max-width:100%;height:auto;color:inherit;font-family:system-ui,sans-serif}"
    "html[data-theme=dark] .si-d{--real:#5fd6ad;--drawn:#f0ae66;--model:#7cc4f5}"
    ".si-d text{fill:currentColor;stroke:none;font-size:15px;text-anchor:middle}.si-d .b{font-weight:600}.si-d .s{font-size:13.5px}"
    ".si-d .l{text-anchor:start}.si-d rect,.si-d path{fill:none;stroke:currentColor;stroke-width:1.6}"
    ".si-d .real{stroke:var(--real)}.si-d .drawn{stroke:var(--drawn);stroke-dasharray:6 4}"
    ".si-d .model{stroke:var(--model);stroke-width:2.6}"
    ".si-d .head{fill:currentColor;stroke:none}"
    "@media print{html[data-theme=dark] .si-d{--real:#00563f;--drawn:#8a3e00;--model:#004f86}}"
    # alone, as a file: no page gives it a colour
    ":root.si-d{color:#1a1a1a}@media(prefers-color-scheme:dark){:root.si-d{color:#e8e8e8;--real:#5fd6ad;--drawn:#f0ae66;--model:#7cc4f5}}"
)


@dataclass
class Sheet:
    """The parts of one diagram, in units that are pixels at its full width."""

    width: int
    height: int
    parts: list[str] = field(default_factory=list)

    def box(self, x: int, y: int, width: int, height: int, kind: str, *lines: str) -> None:
        """Draw a frame of a kind around lines of text; the first line is bold."""
        self.parts.append(f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="7"/>')
        top = y + height // 2 - (len(lines) - 1) * LINE // 2 + 5
        for i, line in enumerate(lines):
            self.words(x + width // 2, top + i * LINE, line, "s" if i else "b")

    def words(self, x: int, y: int, line: str, kind: str = "s") -> None:
        """Write one line of text; classes "b" bold, "s" small, "l" to the right of x."""
        self.parts.append(f'<text class="{kind}" x="{x:g}" y="{y:g}">{html.escape(line)}</text>')

    def arrow(self, *points: tuple[int, int]) -> None:
        """Draw a line through the points with a head at its end; its last part must be level or upright."""
        (x0, y0), (x, y) = points[-2:]
        along_x, along_y = (x > x0) - (x < x0), (y > y0) - (y < y0)
        end = (x - 7 * along_x, y - 7 * along_y)
        path = " ".join(f"{'L' if i else 'M'}{a:g} {b:g}" for i, (a, b) in enumerate([*points[:-1], end]))
        back_x, back_y = x - 10 * along_x, y - 10 * along_y
        head = f"M{x:g} {y:g}L{back_x + 5 * along_y:g} {back_y + 5 * along_x:g}L{back_x - 5 * along_y:g} {back_y - 5 * along_x:g}Z"
        self.parts.append(f'<path d="{path}"/><path class="head" d="{head}"/>')


def _spin_round() -> Sheet:
    s = Sheet(500, 500)
    s.box(10, 10, 200, 62, REAL, "real image x₀", "with its caption c")
    s.box(290, 10, 200, 62, MODEL, "opponent θₖ", "last round's, frozen")
    s.arrow((210, 41), (290, 41))
    s.words(250, 33, "c")
    s.arrow((390, 72), (390, 108))
    s.words(400, 95, "draws", "s l")
    s.box(290, 108, 200, 62, DRAWN, "generated image x′₀", "for the same caption c")
    s.arrow((110, 72), (110, 206))
    s.arrow((390, 170), (390, 206))
    s.box(10, 206, 480, 44, STEP, "noise both to one step t: xₜ and x′ₜ")
    s.arrow((140, 250), (140, 284))
    s.arrow((360, 250), (360, 284))
    s.box(10, 284, 260, 62, MODEL, "player θ", "starts as a copy of θₖ and is trained")
    s.box(290, 284, 200, 62, MODEL, "opponent θₖ", "frozen: the reference")
    s.arrow((140, 346), (140, 380))
    s.arrow((390, 346), (390, 380))
    s.box(10, 380, 480, 62, STEP, "four squared errors, one loss", "beat the opponent on xₜ, more than on x′ₜ")
    s.arrow((110, 442), (110, 486))
    s.words(122, 468, "after many steps: θₖ₊₁, the next round's opponent", "s l")
    return s


def _rsi_round() -> Sheet:
    s = Sheet(500, 470)
    s.box(10, 10, 200, 62, STEP, "prompts", "filtered: clear and specific")
    s.box(290, 10, 200, 62, MODEL, "model θₖ", "the last round's")
    s.arrow((210, 41), (290, 41))
    s.arrow((390, 72), (390, 108))
    s.words(400, 95, "draws", "s l")
    s.box(110, 108, 380, 44, DRAWN, "a pool: one image a prompt")
    s.arrow((300, 152), (300, 186))
    s.box(110, 186, 380, 62, STEP, "preference sampling", "scorers rank the pool, the best are kept")
    s.arrow((300, 248), (300, 282))
    s.box(110, 282, 380, 62, STEP, "distribution weights", "less for images far from the base's first ones")
    s.arrow((300, 344), (300, 378))
    s.box(110, 378, 380, 62, MODEL, "weighted denoising", "θ starts at θₖ and is trained: θₖ₊₁")
    s.arrow((110, 409), (50, 409), (50, 90), (270, 90), (270, 56), (290, 56))
    s.words(60, 430, "next", "s")
    s.words(60, 447, "round", "s")
    return s


def _objectives() -> Sheet:
    s = Sheet(500, 424)
    for x, line in ((235, "error made smaller"), (410, "error made larger")):
        s.words(x, 20, line, "b")
    rows: list[tuple[str, list[str], list[str], list[str]]] = [
        ("SFT", [REAL, "real image"], [], ["no reference"]),
        ("DPO", [REAL, "winner", "people chose"], [DRAWN, "loser", "people chose"], ["reference: the base model"]),
        ("SPIN", [REAL, "real image"], [DRAWN, "own image", "of the last round"], ["reference: the last round's model"]),
        ("RSIDiff", [DRAWN, "own best images", "weighted"], [], ["no reference, no real image"]),
    ]
    for i, (name, smaller, larger, note) in enumerate(rows):
        y = 34 + 98 * i
        s.words(8, y + 36, name, "b l")
        s.box(150, y, 170, 62, *smaller)
        if larger:
            s.box(330, y, 160, 62, *larger)
        else:
            s.words(410, y + 36, "nothing")
        s.words(320, y + 80, note[0])
    return s


def _dpo_spin() -> Sheet:
    s = Sheet(500, 394)
    for x, name in ((120, "DPO"), (380, "SPIN")):
        s.words(x, 20, name, "b")
    s.parts.append('<path d="M250 8V386" stroke-dasharray="2 5"/>')
    s.box(10, 34, 220, 62, STEP, "two images of a prompt", "from any generator")
    s.box(270, 34, 104, 62, REAL, "real image", "of the data")
    s.arrow((120, 96), (120, 130))
    s.box(10, 130, 220, 62, STEP, "people", "say which they prefer")
    s.arrow((374, 65), (438, 65), (438, 130))
    s.words(440, 56, "its caption")
    s.box(386, 130, 104, 62, MODEL, "the model", "draws anew")
    s.arrow((60, 192), (60, 226))
    s.arrow((180, 192), (180, 226))
    s.arrow((322, 96), (322, 226))
    s.arrow((438, 192), (438, 226))
    s.box(10, 226, 104, 62, REAL, "winner", "fixed")
    s.box(126, 226, 104, 62, DRAWN, "loser", "fixed")
    s.box(270, 226, 104, 62, REAL, "winner", "fixed")
    s.box(386, 226, 104, 62, DRAWN, "loser", "by round")
    for x in (60, 180, 322, 438):
        s.arrow((x, 288), (x, 322))
    s.box(10, 322, 220, 62, MODEL, "one and the same loss", "reference: the base model")
    s.box(270, 322, 220, 62, MODEL, "one and the same loss", "reference: the last round's")
    return s


def _forms() -> Sheet:
    s = Sheet(500, 478)
    boxes = [
        ("exact (4.8)", "all T steps inside one link"),
        ("approximate (4.9)", "one step, drawn at random"),
        ("decoupled (C.5)", "no fresh noise in the step"),
        ("practical", "x′₀ noised again, not the opponent's own path"),
    ]
    arrows = [
        ("≤", "Jensen: the link is convex"),
        ("≥", "Jensen again; equal where σₜ = 0, as in DDIM"),
        ("?", "no order in general; ≤ if the opponent is consistent"),
    ]
    for i, lines in enumerate(boxes):
        s.box(60, 10 + 132 * i, 380, 62, STEP, *lines)
    for i, (sign, line) in enumerate(arrows):
        y = 72 + 132 * i
        s.arrow((250, y), (250, y + 70))
        s.words(232, y + 40, sign, "b")
        for j, part in enumerate(line.split("; ")):
            s.words(262, y + 30 + j * LINE, part, "s l")
    return s


@dataclass(frozen=True)
class Diagram:
    """How a diagram is drawn, its title, and what it says to a reader who does not see it."""

    draw: Callable[[], Sheet]
    title: str
    words: str


DIAGRAMS = {
    "spin-round": Diagram(
        _spin_round,
        "A round of SPIN-Diffusion",
        "Flow chart. A caption goes to the frozen opponent, the last round's model, which draws an image for it. This image and"
        " the caption's real image are noised to one step. Player and opponent both predict the noise. The loss compares four "
        "squared errors: the player should beat the opponent on the real image more than on the generated one. After the round "
        "the player is the next opponent.",
    ),
    "rsi-round": Diagram(
        _rsi_round,
        "A round of RSIDiff",
        "Flow chart in a ring. The last round's model draws one image for each filtered prompt. Scorers rank this pool and the "
        "best are kept. Images far from the base model's first ones get a smaller weight. The model is trained on the rest, and"
        " the next round begins with it.",
    ),
    "objectives": Diagram(
        _objectives,
        "What four objectives train on",
        "Table of four methods. SFT makes the error on real images smaller. DPO makes it smaller on a winner and larger on a "
        "loser, both chosen by people, measured against the base model. SPIN makes it smaller on real images and larger on the "
        "model's own images of the last round, measured against the last round's model. RSIDiff makes it smaller on its own "
        "best images, with weights.",
    ),
    "dpo-spin": Diagram(
        _dpo_spin,
        "Who supplies the loser",
        "Two flow charts side by side that end in the same loss. In DPO people choose winner and loser among two images, and "
        "both stay fixed; the reference is the base model. In SPIN the winner is a real image and the loser is drawn by the "
        "model itself, anew in each round; the reference is the last round's model.",
    ),
    "forms": Diagram(
        _forms,
        "Four forms of the objective of self-play",
        "Chain of four boxes from the exact objective to the approximate, the decoupled and the practical one. The exact is at "
        "most the approximate, by Jensen's inequality. The approximate is at least the decoupled, and equal without fresh "
        "noise. Between the decoupled and the practical one there is no order in general.",
    ),
}


def svg(name: str) -> str:
    """Return a diagram as one `<svg>` element, with its style, its title and its description inside.

    Raises:
        ValueError: there is no diagram of this name.
    """
    if name not in DIAGRAMS:
        raise ValueError(f"name={name!r} is no diagram; give one of {sorted(DIAGRAMS)}")
    made = DIAGRAMS[name]
    return framed(name, made.draw(), html.escape(made.title), html.escape(made.words))


def framed(name: str, sheet: Sheet, title: str, words: str) -> str:
    """Return a sheet as one `<svg>` element with the book's style; `title` and `words` are HTML for readers who do not see it."""
    label = f"si-{name}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="si-d" role="img" aria-labelledby="{label}-title {label}-words" '
        f'viewBox="0 0 {sheet.width} {sheet.height}" width="{sheet.width}" height="{sheet.height}">'
        f'<title id="{label}-title">{title}</title><desc id="{label}-words">{words}</desc>'
        f"<style>{_STYLE}</style>{''.join(sheet.parts)}</svg>"
    )


def write(folder: str, names: Iterable[str], draw: Callable[[str], str]) -> None:
    """Write what `draw` makes of each name into a folder, as <name>.svg."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        Path(folder, f"{name}.svg").write_text(draw(name) + "\n")


def main(folder: str) -> None:
    """Write every diagram into a folder, as <name>.svg."""
    write(folder, DIAGRAMS, svg)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m selfimprove_lab.figures.diagrams FOLDER")
    main(sys.argv[1])
