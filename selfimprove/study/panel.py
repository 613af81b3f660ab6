"""Show a rater two images and two questions, answered by mouse or keyboard. The panel never says which model is which."""

import html
import sqlite3
import time

import ipywidgets as widgets

from selfimprove.study.images import png
from selfimprove.study.page import HASTE, button, frame, hint, mark, progress, show
from selfimprove.study.pairwise import LEFT, QUESTIONS, RIGHT, SKIP, TIE, Study, Trial
from selfimprove.study.store import StudyError

CHOICES = {LEFT: ("Left", ("1", "ArrowLeft")), TIE: ("About the same", ("2", "ArrowDown")), RIGHT: ("Right", ("3", "ArrowRight"))}
KEYS = "Keys: 1 or ← left, 2 or ↓ about the same, 3 or → right, U undo, S skip"
GAP = 24  # pixels between the images


class Panel:
    """The panel in which a rater answers. It opens at the rater's first open question; without a name, it asks for one first.

    Args:
        study: see `study.open_study`.
        rater: name or initials of the rater; if empty, the panel asks.
        size: width and height of an image in CSS pixels.
    """

    def __init__(self, study: Study, rater: str = "", size: int = 384) -> None:
        self.study, self.size, self.rater = study, size, ""
        self.trials: list[Trial] = []
        self.trial: Trial | None = None
        self.question: str | None = None  # the question that the keys answer
        self.shown_at = 0.0
        width = 2 * size + GAP
        row = widgets.Layout(width="100%", justify_content="space-between")
        self.top, self.prompt, self.message = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.pictures = {
            side: widgets.Image(format="png", layout=widgets.Layout(width=f"{size}px", height=f"{size}px")) for side in (LEFT, RIGHT)
        }
        self.buttons = {(q, choice): self._choice(q, choice) for q in QUESTIONS for choice in CHOICES}
        self.questions = {q: widgets.VBox([widgets.HTML(text), widgets.HBox(self._row(q), layout=row)]) for q, text in QUESTIONS.items()}
        for box in self.questions.values():
            box.add_class("si-question")
        images = widgets.HBox(list(self.pictures.values()), layout=widgets.Layout(width="100%", justify_content="space-between"))
        skip = button("Skip this pair (S)", self.skip, ["s"])
        self.asking = [images, *self.questions.values(), skip]  # hidden when the study is finished
        footer = widgets.HBox([button("Undo (U)", self.undo, ["u"]), skip, *map(self._key, CHOICES)], layout=row)
        footer.add_class("si-footer")
        self.body = [self.top, self.prompt, images, *self.questions.values(), footer, self.message]
        self.root = frame([], width + 44, size + 400)  # the same height at the start as later
        if rater.strip():
            self.start(rater)
        else:
            self._ask_name()

    def show(self) -> None:
        """Display the panel."""
        show(self.root)

    def _choice(self, question: str, choice: str) -> widgets.Button:
        return button(CHOICES[choice][0], lambda: self.choose(question, choice), width="30%")

    def _key(self, choice: str) -> widgets.Button:
        """Return a hidden button that the keys of a choice click."""
        text, keys = CHOICES[choice]
        return button(text, lambda: self.choose(self.question, choice), keys, hidden=True)

    def _row(self, question: str) -> list[widgets.Button]:
        return [self.buttons[question, choice] for choice in CHOICES]

    def _ask_name(self) -> None:
        name = widgets.Text(placeholder="your name or initials", layout=widgets.Layout(width="260px"))
        welcome = widgets.HTML(
            "Two images were made from the same text. Say which looks better, and which fits the text better. Every answer is "
            "kept at once: stop whenever you like and go on later under the same name."
        )
        start = button("Start", lambda: self.start(name.value), ["Enter"], width="120px")
        start.add_class("si-footer")
        self.root.children = [welcome, name, start, self.message]

    def start(self, rater: str) -> None:
        """Go to the first question that this rater has not answered."""
        if not rater.strip():
            self._say("<b>Give a name or initials first.</b>")
            return
        self.rater = rater.strip()
        self.trials = self.study.trials(self.rater)
        self.root.children = self.body
        self.refresh()

    def refresh(self) -> None:
        """Show the first open trial with the answers already given."""
        given = self.study.given(self.rater)
        trial = next((t for t in self.trials if any((t.item, q) not in given for q in QUESTIONS)), None)
        place = trial.place if trial else len(self.trials)
        done = f"Pair {place + 1} of {len(self.trials)}" if trial else f"All {len(self.trials)} pairs are answered"
        if trial != self.trial or trial is None:
            self._draw(trial)
        self.top.value = progress(done, html.escape(self.rater), place / len(self.trials))
        answered = {q: given.get((trial.item, q)) if trial else None for q in QUESTIONS}
        self.question = next((q for q, answer in answered.items() if answer is None), None) if trial else None
        for question, box in self.questions.items():
            mark(box, "si-current", question == self.question)
            for choice in CHOICES:
                mark(self.buttons[question, choice], "si-chosen", answered[question] == choice)
        self._say(hint(KEYS) if trial else "")

    def _draw(self, trial: Trial | None) -> None:
        self.trial = trial
        text = html.escape(trial.prompt) if trial else "Thank you. Your answers are saved; you can close this page."
        self.prompt.value = f'<div class="si-prompt">{text}</div>'
        for side, picture in self.pictures.items():
            picture.value = png(self.study.picture(trial, side), self.size) if trial else b""
        for box in self.asking:
            box.layout.visibility = "visible" if trial else "hidden"
        self.shown_at = time.monotonic()

    def choose(self, question: str | None, answer: str) -> None:
        """Answer a question about the pair shown. Another answer to the same question replaces it."""
        if self.trial and question and time.monotonic() - self.shown_at >= HASTE:
            self._write([question], answer)

    def skip(self) -> None:
        """Skip the open questions of this pair. They stay without an answer unless the skip is undone."""
        if self.trial and time.monotonic() - self.shown_at >= HASTE:
            given = self.study.given(self.rater)
            self._write([q for q in QUESTIONS if (self.trial.item, q) not in given], SKIP)

    def _write(self, questions: list[str], answer: str) -> None:
        assert self.trial is not None
        try:
            for question in questions:
                self.study.answer(self.rater, self.trial, question, answer, time.monotonic() - self.shown_at)
            self.refresh()
        except (sqlite3.Error, StudyError) as error:
            self._say(f"<b>Not saved: {html.escape(str(error))}. Nothing is lost; try again, or call whoever runs the study.</b>")

    def undo(self) -> None:
        """Undo the last answer and show its pair again."""
        try:
            taken = self.study.log.undo(self.rater)
            self.refresh()
        except (sqlite3.Error, StudyError) as error:
            self._say(f"<b>Not undone: {html.escape(str(error))}.</b>")
            return
        if taken is None:
            self._say("There is nothing to undo.")

    def _say(self, message: str) -> None:
        self.message.value = f'<div class="si-message">{message}</div>'
