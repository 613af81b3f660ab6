"""Look at a player while it trains: draw the same prompts from the same noise, and measure its error on images kept out of training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState

from selfimprove.config import Settings
from selfimprove.draws import EVALUATION_SEED
from selfimprove.evaluation.evaluate import HeldOut, held_out_error, save_image
from selfimprove.models.pipeline import Diffuser
from selfimprove.processes import together
from selfimprove.rollout import sample_batches

WATCHED = 4  # images drawn at a time, the first of the evaluation


@dataclass(frozen=True)
class Watch:
    """What is looked at during a round, every `sample_every` and `validate_every` steps. Nothing that is trained depends on it.

    `prompts`, `ids`: of the evaluation's images, of which the first are drawn, so that rounds and steps can be set side by side.
    `held_out`, `held_out_ids`: real images kept out of training, if there are any. `folder`: the round's; images go to
    `samples/<step>/images/`.
    """

    diffuser: Diffuser
    prompts: list[str]
    ids: list[str]
    held_out: HeldOut | None
    held_out_ids: list[str]
    settings: Settings
    folder: Path

    def due(self, step: int) -> bool:
        """Return whether there is something to do after `step` steps."""
        return self._draws(step) or self._validates(step)

    def _draws(self, step: int) -> bool:
        return bool(self.settings.sample_every) and step % self.settings.sample_every == 0

    def _validates(self, step: int) -> bool:
        return bool(self.settings.validate_every) and step % self.settings.validate_every == 0 and self.held_out is not None

    def __call__(self, player: Any, step: int) -> dict[str, float]:
        """Do what is due after `step` steps, and return the figures for the log. Every process must call this."""
        player.eval()
        with together():
            if self._draws(step) and PartialState().is_main_process:
                self._draw(player, step)
        found = {}
        if self._validates(step) and self.held_out:
            errors = held_out_error(self.diffuser, player, *self.held_out, self.held_out_ids, self.settings)
            found["held_out_error"] = float(errors.mean())
        player.train()
        return found

    def _draw(self, player: Any, step: int) -> None:
        s = self.settings
        latents = sample_batches(
            self.diffuser, player, self.prompts[:WATCHED], self.ids[:WATCHED], min(s.rollout_batch, WATCHED), f"images at step {step}",
            s.precision, s.negative_prompt, seed=EVALUATION_SEED, stream="evaluation", round_index=0, steps=s.evaluation_steps,
            guidance=s.evaluation_guidance,
        )  # fmt: skip
        for place, image in enumerate(self.diffuser.decode(latents)):
            save_image(image, self.folder / "samples" / f"{step:06d}" / "images" / f"{place:03d}.png")
