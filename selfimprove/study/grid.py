"""Select images by hand in a grid: keep or drop. Every decision is saved at once, as in a study. The result is a round's `kept.txt`."""

import html
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

import ipywidgets as widgets

from selfimprove.recursion.selection import KEPT_BY_HAND
from selfimprove.study.images import Picture, digest, load_candidates, png
from selfimprove.study.page import HASTE, button, frame, hint, mark, progress, show
from selfimprove.study.store import AnswerLog, StudyError

KEEP, DROP = "keep", "drop"
QUESTION = "keep"
COLUMNS, ROWS = 4, 3
KEYS = "Keys: K keep, D drop, arrows move, U undo, N next page, P previous page"


class Cell:
    """A cell of the grid: an image, its prompt and two buttons."""

    def __init__(self, number: int, grid: "Grid", size: int) -> None:
        self.image = widgets.Image(format="png", layout=widgets.Layout(width=f"{size}px", height=f"{size}px"))
        self.caption = widgets.HTML()
        buttons = [
            button(decision.capitalize(), lambda decision=decision: grid.decide(number, decision), width="48%")  # type: ignore[misc]
            for decision in (KEEP, DROP)
        ]
        row = widgets.HBox(buttons, layout=widgets.Layout(width=f"{size}px", justify_content="space-between"))
        self.box = widgets.VBox([self.image, self.caption, row], layout=widgets.Layout(width=f"{size + 16}px"))
        self.box.add_class("si-cell")
        self.buttons = dict(zip((KEEP, DROP), buttons, strict=True))

    def fill(self, picture: Picture | None, size: int) -> None:
        """Show a picture, or hide the cell if there is none."""
        self.image.value = png(picture.path, size) if picture else b""
        prompt = html.escape(picture.prompt) if picture else ""
        self.caption.value = f'<div class="si-caption" title="{prompt}">{prompt}</div>'
        self.box.layout.visibility = "visible" if picture else "hidden"

    def paint(self, decision: str | None, current: bool) -> None:
        """Show the decision, and whether the keys act on this cell."""
        mark(self.box, "si-current", current)
        for name in (KEEP, DROP):
            mark(self.box, f"si-{name}", decision == name)
            mark(self.buttons[name], "si-chosen", decision == name)


class Grid:
    """Pages of pictures to keep or to drop. Earlier decisions are shown again.

    Args:
        pictures: from `images.load_candidates` (a waiting round) or `images.load_pictures` (any folder).
        database: file of the decisions; created if it does not exist.
        kept_file: file to which `finish` writes the list; for a round, `round_<k>/kept.txt`.
        rater: name of the person who decides.
        size: width and height of an image in CSS pixels.

    Raises:
        StudyError: there are no pictures, two have the same name, or the database belongs to another selection.
    """

    def __init__(
        self, pictures: Sequence[Picture], database: str | Path, kept_file: str | Path, rater: str = "me", size: int = 160
    ) -> None:
        names = [p.name for p in pictures]
        if not names:
            raise StudyError("pictures is empty; give at least one")
        if len({*names}) < len(names):
            twice = next(n for n in names if names.count(n) > 1)
            raise StudyError(f"two pictures are called {twice!r}; a list of kept names would not tell them apart, so rename one file")
        self.pictures, self.rater, self.size, self.kept_file = list(pictures), rater, size, Path(kept_file).expanduser()
        self.log = AnswerLog(Path(database).expanduser(), {"kind": "grid", "images": digest(pictures), "question": QUESTION})
        self.decisions: dict[str, str] = {}
        self.page = self.cursor = 0
        self.shown_at = 0.0
        self.top, self.message = widgets.HTML(), widgets.HTML()
        self.cells = [Cell(number, self, size) for number in range(COLUMNS * ROWS)]
        rows = [self.cells[r * COLUMNS : (r + 1) * COLUMNS] for r in range(ROWS)]
        between = widgets.Layout(width=f"{COLUMNS * (size + 16) + 36}px", justify_content="space-between", margin="10px 0 0")
        steps = {"ArrowLeft": -1, "ArrowRight": 1, "ArrowUp": -COLUMNS, "ArrowDown": COLUMNS}
        keys = [
            button(d, lambda decision=d: self.decide(self.cursor, decision), [d[0]], hidden=True)  # type: ignore[misc]
            for d in (KEEP, DROP)
        ]
        keys += [button(key, lambda step=step: self.move(step), [key], hidden=True) for key, step in steps.items()]  # type: ignore[misc]
        self.finish_button = button("Finish", self.finish)
        footer = [
            button("Previous page (P)", lambda: self.turn(-1), ["p"]), button("Next page (N)", lambda: self.turn(1), ["n"]),
            button("Undo (U)", self.undo, ["u"]), self.finish_button, *keys,
        ]  # fmt: skip
        grid = [widgets.HBox([c.box for c in row], layout=between) for row in rows]
        self.root = frame([self.top, *grid, widgets.HBox(footer, layout=between), self.message], COLUMNS * (size + 16) + 80)
        self._read()
        self.show_page(self._first_open() // len(self.cells))

    def show(self) -> None:
        """Display the grid."""
        show(self.root)

    def _read(self) -> None:
        self.decisions = {a.item: a.answer for a in self.log.standing(self.rater)}

    def _first_open(self, start: int = 0) -> int:
        return next((i for i, p in enumerate(self.pictures) if i >= start and p.name not in self.decisions), start)

    @property
    def pages(self) -> int:
        """Return the number of pages."""
        return -(-len(self.pictures) // len(self.cells))

    def _at(self, number: int) -> Picture | None:
        index = self.page * len(self.cells) + number
        return self.pictures[index] if index < len(self.pictures) else None

    def show_page(self, page: int) -> None:
        """Show a page, counted from 0, and go to its first undecided picture."""
        self.page = page
        for number, cell in enumerate(self.cells):
            cell.fill(self._at(number), self.size)
        first = page * len(self.cells)
        self.cursor = self._first_open(first) - first
        if self._at(self.cursor) is None or self.cursor >= len(self.cells):
            self.cursor = 0
        self.shown_at = time.monotonic()
        self._paint()

    def _paint(self) -> None:
        for number, cell in enumerate(self.cells):
            picture = self._at(number)
            cell.paint(self.decisions.get(picture.name) if picture else None, number == self.cursor)
        kept, dropped = (list(self.decisions.values()).count(d) for d in (KEEP, DROP))
        counts = f"{kept} kept, {dropped} dropped, {len(self.pictures) - kept - dropped} undecided"
        self.top.value = progress(f"Page {self.page + 1} of {self.pages}", counts, (kept + dropped) / len(self.pictures))
        self._say(hint(KEYS))

    def decide(self, number: int, decision: str) -> None:
        """Keep or drop the picture in a cell of the page, then go to the page's next undecided picture or to the next page."""
        picture = self._at(number)
        if picture is None or time.monotonic() - self.shown_at < HASTE:
            return
        was_open = picture.name not in self.decisions
        try:
            self.log.append(self.rater, picture.name, QUESTION, decision, time.monotonic() - self.shown_at, {"prompt": picture.prompt})
        except sqlite3.Error as error:
            self._say(f"<b>Not saved: {html.escape(str(error))}. Nothing is lost; try again.</b>")
            return
        self._read()
        on_page = [p.name not in self.decisions if (p := self._at(i)) else False for i in range(len(self.cells))]
        if was_open and not any(on_page) and self.page + 1 < self.pages:
            self.show_page(self.page + 1)
            return
        later = [i for i, is_open in enumerate(on_page) if is_open and i > number]
        self.cursor = later[0] if later else on_page.index(True) if any(on_page) else number
        self._paint()

    def move(self, step: int) -> None:
        """Move the cursor of the keys by `step` pictures within the page."""
        if 0 <= self.cursor + step < len(self.cells) and self._at(self.cursor + step):
            self.cursor += step
            self._paint()

    def turn(self, step: int) -> None:
        """Go to the next page (1) or the previous one (-1), if it exists."""
        if 0 <= self.page + step < self.pages:
            self.show_page(self.page + step)

    def undo(self) -> None:
        """Undo the last decision and go to its picture."""
        try:
            taken = self.log.undo(self.rater)
        except sqlite3.Error as error:
            self._say(f"<b>Not undone: {html.escape(str(error))}.</b>")
            return
        self._read()
        if taken is None:
            self._say("There is nothing to undo.")
            return
        index = [p.name for p in self.pictures].index(taken.item)
        if index // len(self.cells) != self.page:
            self.show_page(index // len(self.cells))
        self.cursor = index % len(self.cells)
        self._paint()

    def kept(self) -> list[str]:
        """Return the names of the kept pictures, in the pictures' order."""
        return [p.name for p in self.pictures if self.decisions.get(p.name) == KEEP]

    def finish(self) -> None:
        """Write the kept names to `kept_file`, one per line, by renaming a finished file. Undecided pictures count as dropped."""
        kept = self.kept()
        if not kept:
            self._say("<b>Nothing is kept yet; keep at least one image.</b>")
            return
        unfinished = self.kept_file.with_suffix(".unfinished")
        unfinished.write_text("\n".join(kept) + "\n")
        unfinished.replace(self.kept_file)
        self._say(f"{len(kept)} of {len(self.pictures)} are kept: {html.escape(str(self.kept_file))} is written.")

    def _say(self, message: str) -> None:
        self.message.value = f'<div class="si-message">{message}</div>'


def select_by_hand(round_folder: str | Path, rater: str = "me") -> Grid:
    """Return the grid of a round that waits with strategy="manual". Its `finish` writes the `kept.txt` with which the round continues.

    The decisions are kept beside it in `kept.sqlite`.

    Raises:
        StudyError: the round is not waiting, or its candidates have changed since.
    """
    folder = Path(round_folder).expanduser()
    return Grid(load_candidates(folder), folder / "kept.sqlite", folder / KEPT_BY_HAND, rater)
