"""Human studies in a notebook: `panel` asks two questions about pairs of images, `grid` selects by hand."""

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
