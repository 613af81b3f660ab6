"""Human studies in a notebook: pairs of images on two questions (`panel`), what they say (`analysis`), and keeping by hand (`grid`)."""

from selfimprove.study.pairwise import (
    LEFT,
    QUESTIONS,
    RIGHT,
    SKIP,
    TIE,
    Study,
    Trial,
    export_answers,
    open_study,
    parse_models,
    read_answers,
)
from selfimprove.study.store import StudyError

__all__ = [
    "LEFT", "QUESTIONS", "RIGHT", "SKIP", "TIE", "Study", "StudyError", "Trial", "export_answers", "open_study", "parse_models",
    "read_answers",
]  # fmt: skip
