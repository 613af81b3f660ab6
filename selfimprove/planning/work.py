"""Count what a round computes, stage by stage, from its settings and the numbers of images; nothing is timed or loaded."""

from collections.abc import Mapping
from typing import NamedTuple

from selfimprove.config import Settings
from selfimprove.evaluation.evaluate import HELD_OUT_TIMES
from selfimprove.evaluation.watch import WATCHED
from selfimprove.models.samplers import SAMPLERS
from selfimprove.planning.costs import Flops
from selfimprove.presets import Preset

COMPILED = {"rollout": 1, "opponent": 1, "training": 3, "evaluation": 1, "held-out error": 1}  # passes; a backward one is worth two


class Work(NamedTuple):
    """What a stage computes, in all processes together.

    `forwards`: forward passes of sampling and evaluation, per latent. `opponent`: forward passes of the opponent in training. `trained`:
    latents that pass forward and backward through the player. `decoded`, `encoded`: images that the VAE decodes and encodes. `selected`:
    images scored by the scorers that select. `judged`: images scored by every scorer.
    """

    forwards: float = 0
    opponent: float = 0
    trained: float = 0
    decoded: float = 0
    encoded: float = 0
    selected: float = 0
    judged: float = 0


class Counts(NamedTuple):
    """What one round computes, in words (`what`) and by stage. `drawn`: images on the generated side, or in the pool to select from."""

    what: str
    stages: Mapping[str, Work]
    drawn: int = 0

    @property
    def total(self) -> Work:
        """Return the work of all stages."""
        return Work(*map(sum, zip(Work(), *self.stages.values(), strict=True)))


def count(
    preset: Preset, index: int, examples: int, judged: int, cache: bool = False, held_out: int = 0, drawn: int | None = None,
    guided: float = 1.0,
) -> Counts:  # fmt: skip
    """Return what a round computes in all processes, from its settings and the numbers of real and evaluation images.

    `examples`: real images. `judged`: evaluation images. `cache`: whether the opponent's errors are kept for other runs; if so, the
    opponent draws an image for every example. `held_out`: real images that are kept out of training. `drawn`: images that the opponent
    draws, where that is another number than by the settings, as images have several captions. `guided`: the share of a rollout's steps that
    lie in `guidance_interval`.
    """
    s = preset.for_round(max(index, 1))
    what = f"evaluation on {judged} images"
    stages = {
        "evaluation": Work(forwards=judged * s.evaluation_steps * (1 + (s.evaluation_guidance != 1))),
        "scoring": Work(decoded=judged, judged=judged),
        "held-out error": Work(forwards=HELD_OUT_TIMES * held_out),
    }
    if index == 0:
        return Counts(what, {"held-out latents": Work(encoded=held_out)} | stages)
    recursive = s.objective == "weighted"
    pool = s.samples if recursive else examples
    trained_on = (s.selected or pool) * (index if s.accumulate else 1) + s.real_samples if recursive else pool
    steps, batch = s.steps_for(trained_on), s.batch
    made = pool if recursive else s.drawn(examples, cache) if drawn is None else drawn
    rolled = made if recursive else made * (s.objective == "spin" and s.generated_source == "rollout")
    if recursive:
        what = f"{pool} rollouts ({_sampler(s)}), {s.selected or pool} kept ({s.strategy}), {steps} steps of {batch} (lr {s.lr:g}), {what}"
    elif s.objective == "sft":
        what = f"{steps} steps of {batch} images (lr {s.lr:g}), {what}"
    else:
        others = f"{rolled} rollouts ({_sampler(s)})" if rolled else f"{made} images to play against ({s.generated_source})"
        what = f"{others}, {steps} steps of {batch} pairs (lr {s.lr:g}, beta {s.beta:g}), {what}"
    trained, views = (2 if s.objective == "spin" else 1) * steps * batch, 1 + s.flip
    again = rolled * (s.generated_latents == "reencoded")  # decoded and encoded again
    drawing = Work(forwards=rolled * s.rollout_steps * (1 + (s.guidance != 1) * guided), decoded=again, encoded=again * views)
    if recursive:
        scores = Work(decoded=pool * bool(s.metrics), selected=pool * bool(s.metrics))  # scoring decodes each image once more
        before = {"rollout": drawing, "scores": scores, "real": Work(encoded=s.real_samples * views * (index == 1))}
    else:
        if s.objective == "spin" and not rolled:
            twice = made * (s.generated_source == "real-reencoded")
            drawing = Work(decoded=twice, encoded=made * views + twice)
        before = {"real": Work(encoded=examples * views * (index == 1)), "rollout": drawing}
    opponent = Work(opponent=trained * (s.objective == "spin"))
    drawn, measured = (steps // every if every else 0 for every in (s.sample_every, s.validate_every))
    seen = min(WATCHED, judged) * drawn
    passes = seen * s.evaluation_steps * (1 + (s.evaluation_guidance != 1)) + HELD_OUT_TIMES * held_out * measured
    before |= {"opponent": opponent, "training": Work(trained=trained)}
    if passes or seen:
        before["watching"] = Work(forwards=passes, decoded=seen)
    return Counts(what, before | stages, made)


def _sampler(settings: Settings) -> str:
    """Return the sampler and its number of steps, with a note if the papers do not use this sampler."""
    other = "" if settings.sampler == "ddim" else ", not the papers' DDIM"
    other += ", guided at noise levels {:g} to {:g} alone".format(*settings.guidance_interval) if settings.guidance_interval else ""
    other += ": another opponent" if other and settings.objective == "spin" else ""
    return f"{SAMPLERS[settings.sampler].label} in {settings.rollout_steps} steps{other}"


def operations(work: Work | Counts, flops: Flops) -> float:
    """Return the FLOPs of UNet and VAE. Text encoder and scorers are left out, as they take less than a hundredth."""
    work = work.total if isinstance(work, Counts) else work
    network = (work.forwards + work.opponent) * flops.forward + work.trained * flops.step
    return network + work.decoded * flops.decode + work.encoded * flops.encode
