"""Make what the faults are tried on: a tiny random pipeline, a few images, a list of prompts, and the commands of the two systems."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from selfimprove.planning import plan as planning
from selfimprove.scorers.published import PUBLISHED_SCORERS
from selfimprove.scorers.registry import SCORER_FAMILIES, Family

SYSTEMS = ("spin", "rsi")
STAGES = {
    "spin": ("rollout", "training", "evaluation"),
    "rsi": ("rollout", "scores", "selection", "weights", "training", "evaluation"),
}
COMMON = {
    "samples": 12, "rollout_steps": 2, "guidance": 2.0, "lr": 1e-3, "batch": 4, "warmup": 1, "checkpoint_every": 1,
    "evaluation_prompts": 4, "evaluation_steps": 2, "evaluation_guidance": 2.0, "on_collapse": "ignore", "validation": 3,
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "spin": {"steps": 4, "rollout_batch": 4},
    "rsi": {
        "prompt_source": "plain", "kept": 0, "clusters": 0, "strategy": "pool", "selected": 8, "epochs": 2, "rollout_batch": 4,
        "metrics": '(("brightness", 1.0),)', "precision": "no", "evaluation_images": 2,
    },
}  # fmt: skip


class Brightness:
    """Score an image by its mean, in place of a published scorer, none of which is at hand where this runs."""

    version = "brightness"

    def __call__(self, images: Any, prompts: Sequence[str]) -> Tensor:
        """Return the mean of every image."""
        return images.mean((1, 2, 3))


def prepare() -> None:
    """Register the scorer, as the package says that one adds a scorer, and leave out the plan, which takes most of a tiny run's time.

    The plan is what the command prints before it begins; it writes nothing.
    """
    planning.plan = lambda *_: SimpleNamespace(lines=[])  # type: ignore[assignment,return-value]
    if "brightness" not in PUBLISHED_SCORERS:
        PUBLISHED_SCORERS["brightness"] = None  # type: ignore[assignment]  # the loader below does not ask
        SCORER_FAMILIES["published"] = Family(tuple(PUBLISHED_SCORERS), lambda names, *_: {name: Brightness() for name in names})


def make(folder: Path) -> None:
    """Write the pipeline, the images and the prompts into a folder."""
    from tests.conftest import tiny_pipeline, write_images  # only here: pytest comes with it

    tiny_pipeline().save_pretrained(folder / "model")
    write_images(folder / "images", 30)
    (folder / "prompts.txt").write_text("\n".join(f"a picture of thing number {i}" for i in range(60)))
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)  # another user plays from it


def command(world: Path, system: str, run: Path, rounds: int = 2, seed: int = 0, **changes: Any) -> list[str]:
    """Return the arguments of `python -m selfimprove` that play a tiny run up to a round."""
    preset = {"spin": "smoke", "rsi": "own-prompts"}[system]
    own = ["--prompts", str(world / "prompts.txt"), "--scorers", "none"] if system == "rsi" else []
    settings = COMMON | OWN[system] | changes
    given = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    where = ["--model", str(world / "model"), "--data", str(world / "images"), "--run", str(run), "--device", "cpu", "--seed", str(seed)]
    return [system, "--iter", str(rounds), "--preset", preset, *where, *own, *given]
