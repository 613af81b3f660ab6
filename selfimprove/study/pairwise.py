"""Run a study of preferences: several raters compare pairs of images of one prompt by different models, on two questions.

Sides and order are a function of (seed, rater, pair), so a rater who comes back continues where they stopped.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from math import ceil
from pathlib import Path
from typing import Any

import pandas as pd

from selfimprove.draws import key_hash
from selfimprove.study.images import Picture, digest, load_pictures
from selfimprove.study.store import Answer, AnswerLog, StudyError, read_log, standing

QUESTIONS = {"appeal": "Which image looks better?", "faithfulness": "Which image fits the text better?"}
LEFT, TIE, RIGHT, SKIP = "left", "tie", "right", "skip"
COLUMNS = ("time", "rater", "pair", "prompt", "image", "question", "answer", "winner", "left", "right", "repeat", "place", "seconds")


@dataclass(frozen=True)
class Trial:
    """A pair as one rater sees it. `pair` is the same for all raters. `place` is the number of the rater's trial, from 0."""

    pair: str
    prompt: str
    image: int
    left: str  # the model whose image is on the left
    right: str
    repeat: bool
    place: int

    @property
    def item(self) -> str:
        """Return the key under which the answers are filed. A repeat has its own key."""
        return f"{self.pair}-again" if self.repeat else self.pair


@dataclass(frozen=True)
class Study:
    """Images of several models, and the answers given so far. `open_study` makes it."""

    pictures: Mapping[str, Mapping[tuple[str, int], Picture]] = field(repr=False)  # model -> (prompt, image) -> picture
    seed: int
    count: int
    repeated: float
    log: AnswerLog = field(repr=False)

    def trials(self, rater: str) -> list[Trial]:
        """Return what a rater sees, in order.

        All raters see the same pairs, so that they can be compared. Order and sides differ per rater. The share `repeated` of the
        pairs, taken from the first half, is shown again half a study later with the sides exchanged.
        """
        keys = sorted(next(iter(self.pictures.values())))
        pairs = {
            f"{key_hash('pair', prompt, image, a, b):016x}": (prompt, image, a, b)
            for prompt, image in keys
            for a, b in combinations(sorted(self.pictures), 2)
        }
        asked = sorted(pairs, key=lambda p: key_hash(self.seed, "study/chosen", p))[: self.count or None]
        order = sorted(asked, key=lambda p: key_hash(self.seed, "study/order", rater, p))
        half = len(order) // 2
        again = sorted(order[:half], key=lambda p: key_hash(self.seed, "study/repeated", rater, p))[: ceil(self.repeated * len(order))]
        places = [(float(place), pair, False) for place, pair in enumerate(order)]
        places += [(order.index(pair) + half + 0.5, pair, True) for pair in again]
        trials = []
        for place, (_, pair, repeat) in enumerate(sorted(places)):
            prompt, image, a, b = pairs[pair]
            exchanged = bool(key_hash(self.seed, "study/side", rater, pair) % 2) != repeat
            left, right = (b, a) if exchanged else (a, b)
            trials.append(Trial(pair, prompt, image, left, right, repeat, place))
        return trials

    def picture(self, trial: Trial, side: str) -> Path:
        """Return the image file on the "left" or "right" side of a trial."""
        return self.pictures[trial.left if side == LEFT else trial.right][trial.prompt, trial.image].path

    def answer(self, rater: str, trial: Trial, question: str, answer: str, seconds: float) -> None:
        """Record an answer: "left", "tie", "right" or "skip", given `seconds` after the pair was shown."""
        shown = {name: getattr(trial, name) for name in ("pair", "prompt", "image", "left", "right", "repeat", "place")}
        self.log.append(rater, trial.item, question, answer, seconds, shown)

    def given(self, rater: str) -> dict[tuple[str, str], str]:
        """Return the rater's final answers so far: (item, question) -> answer."""
        return {(a.item, a.question): a.answer for a in self.log.standing(rater)}


def parse_models(text: str) -> dict[str, str]:
    """Parse models written as "name: folder; name: folder". The text may name a .txt file of such entries, which hides them from raters.

    Raises:
        StudyError: an entry has no name or no folder, or a name is given twice.
    """
    models: dict[str, str] = {}
    written = Path(text).read_text() if text.endswith(".txt") and Path(text).is_file() else text
    for entry in filter(None, (e.strip() for e in re.split("[;\n]", written))):
        name, _, folder = (part.strip() for part in entry.partition(":"))
        if not name or not folder or name in models:
            raise StudyError(f"models={text!r}: {entry!r} is not a new name and a folder; write 'name: folder; name: folder'")
        models[name] = folder
    return models


def open_study(models: Mapping[str, str | Path], database: str | Path, seed: int = 0, count: int = 0, repeated: float = 0.1) -> Study:
    """Open a study of two or more models, new or continued.

    Args:
        models: name -> folder of its images, see `images.load_pictures`.
        database: file of the answers; created if it does not exist.
        seed: seed of the chosen pairs, the sides and the order.
        count: number of pairs per rater, repeats not counted; 0 means all.
        repeated: share of the pairs that are shown twice, in [0, 0.5].

    Raises:
        StudyError: there are fewer than two models, a model lacks images of another, `count` or `repeated` is out of range, or the database
            belongs to another study; also as in `load_pictures`.
    """
    if len(models) < 2:
        raise StudyError(f"models={list(models)} leaves nothing to compare; give two or more, name -> folder")
    if not 0 <= repeated <= 0.5:
        raise StudyError(f"repeated={repeated} is no share from 0 to 0.5; give 0.1 to show one pair in ten twice")
    pictures = {name: {(p.prompt, p.image): p for p in load_pictures(folder)} for name, folder in models.items()}
    for name, other in combinations(pictures, 2):
        for having, lacking in ((name, other), (other, name)):
            lacks = sorted(pictures[having].keys() - pictures[lacking].keys())
            if lacks:
                raise StudyError(
                    f"model {lacking!r} lacks {len(lacks)} of the {len(pictures[having])} images of {having!r}, such as image "
                    f"{lacks[0][1]} of {lacks[0][0]!r}; sample both models on the same prompts"
                )
    available = len(next(iter(pictures.values()))) * len(models) * (len(models) - 1) // 2
    if not 0 <= count <= available:
        raise StudyError(f"count={count} is not from 0 (all) to {available}, the pairs there are")
    identity = {
        "kind": "pairs", "models": {name: digest(pictures[name].values()) for name in sorted(pictures)}, "seed": seed, "count": count,
        "repeated": repeated, "questions": list(QUESTIONS),
    }  # fmt: skip
    return Study(pictures, seed, count, repeated, AnswerLog(Path(database).expanduser(), identity))


def _row(answer: Answer) -> dict[str, Any]:
    winner = answer.shown[answer.answer] if answer.answer in (LEFT, RIGHT) else ""
    fields = {"time": answer.time, "rater": answer.rater, "question": answer.question, "answer": answer.answer, "winner": winner}
    return fields | answer.shown | {"seconds": answer.seconds}


def read_answers(path: str | Path) -> pd.DataFrame:
    """Return the final answers, one per row, from a study's database or from the csv file that `export_answers` wrote.

    Columns: `time` (UTC), `rater`, `pair`, `prompt`, `image`, `question`, `answer` (left, tie, right, skip), `winner` (a model; empty for
    ties and skips), `left` and `right` (models), `repeat`, `place` (among the rater's trials), `seconds`.

    Raises:
        StudyError: the file does not exist, or it holds no answers about pairs.
    """
    path = Path(path).expanduser()
    if path.suffix == ".csv":
        if not path.is_file():
            raise StudyError(f"{str(path)!r} does not exist; give a study's database or what was exported from it")
        frame = pd.read_csv(path, keep_default_na=False, dtype={"rater": str, "prompt": str, "left": str, "right": str, "winner": str})
        missing = [c for c in COLUMNS if c not in frame]
        if missing:
            raise StudyError(f"{str(path)!r} has no columns {missing}; give a file that export_answers wrote")
        return frame
    answers = standing(read_log(path))
    if any("pair" not in a.shown for a in answers):
        raise StudyError(f"database={str(path)!r} holds a selection by hand, no pairs; give a database of pairs")
    return pd.DataFrame([_row(a) for a in answers], columns=list(COLUMNS)).astype({"repeat": bool})


def export_answers(database: str | Path, path: str | Path) -> Path:
    """Write the table of `read_answers` to a csv file, under a temporary name that is then renamed. Return its path."""
    path = Path(path).expanduser()
    unfinished = path.with_suffix(".unfinished")
    read_answers(database).to_csv(unfinished, index=False)
    return unfinished.replace(path)
