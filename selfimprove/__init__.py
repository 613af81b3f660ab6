"""Self-play (SPIN-Diffusion) and recursive self-improvement (RSIDiff) for diffusion models.

`set_up` loads and checks a run, `play` plays its rounds, and `score_table` returns their scores:

    run = set_up("own-images", model="path/to/pipeline", data="path/to/images")
    print(score_table(play(run, 2)))
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selfimprove.comparison import compare
    from selfimprove.config import Settings
    from selfimprove.presets import Preset, get_preset
    from selfimprove.report import score_table
    from selfimprove.rounds import play
    from selfimprove.run import set_up
    from selfimprove.scorers import load_scorers

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # else it says at every start that torchvision is absent, which nothing here needs

__version__ = "0.1.0"
__all__ = ["Preset", "Settings", "compare", "get_preset", "load_scorers", "play", "score_table", "set_up"]

_HOMES = {
    "Preset": "presets", "Settings": "config", "get_preset": "presets", "set_up": "run", "play": "rounds", "score_table": "report",
    "compare": "comparison", "load_scorers": "scorers",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load a name on first access, so that importing the package stays fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'selfimprove' has no attribute {name!r}")
    return getattr(import_module(f"selfimprove.{_HOMES[name]}"), name)
