"""Settings of a round, and the presets: one table, each round's settings as differences."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args, get_origin

Objective = Literal["spin", "sft"]
Link = Literal["logistic", "hinge", "correlation"]
BetaConvention = Literal["diffusion-dpo", "diffusers", "summed-half", "paper"]
GeneratedLatents = Literal["reencoded", "raw"]
GeneratedSource = Literal["rollout", "real", "real-reencoded"]
Opponent = Literal["previous", "base"]
Shared = Literal["t+noise", "t", "nothing"]
Precision = Literal["no", "bf16", "fp16"]


@dataclass(frozen=True)
class Settings:
    """Everything that changes a round's result, apart from model, data and seed."""

    # Examples: how many (image, caption) pairs each round trains on; fewer if the data has fewer.
    samples: int = 1024
    validation: int = 128  # further images kept out of training, for the scores that need real images

    # Rollout: how the opponent's images are sampled (DDIM).
    rollout_steps: int = 50
    guidance: float = 7.5  # classifier-free guidance scale; 1 is none
    eta: float = 0.0  # 0 is DDIM, 1 is DDPM
    rollout_batch: int = 16  # prompts a batch; no effect on the result beyond rounding
    generated_latents: GeneratedLatents = "reencoded"  # decode and encode again, as the papers do, or keep the raw latent
    generated_source: GeneratedSource = "rollout"  # or fresh real images of the same captions: the null experiments

    # Objective.
    objective: Objective = "spin"
    opponent: Opponent = "previous"  # "base": never updated, the frozen-opponent experiment
    link: Link = "logistic"
    beta: float = 2000.0
    beta_convention: BetaConvention = "diffusion-dpo"
    shared: Shared = "t+noise"  # what real and generated share: released code both, the formula t alone
    caption_dropout: float = 0.0  # share of captions replaced by the empty one
    flip: bool = False  # mirror half of the pairs, both sides alike

    # Training.
    steps: int = 60  # optimiser steps in the round
    batch_size: int = 48  # pairs a process and micro-batch
    accumulation: int = 1  # micro-batches a step
    lr: float = 2e-5
    warmup: int = 0  # steps of linear warm-up, counted from the round's start
    decay: bool = True  # linear decay to zero after the warm-up
    weight_decay: float = 0.01
    clip: float = 1.0  # largest gradient norm
    ema: float = 0.0  # decay of the average of weights, which is then the player; 0 is off
    precision: Precision = "no"
    gradient_checkpointing: bool = False
    checkpoint_every: int = 20  # steps between the points at which a killed run can continue

    # Evaluation.
    evaluation_prompts: int = 256
    evaluation_steps: int = 50
    evaluation_guidance: float = 7.5

    def __post_init__(self) -> None:
        positive = ("samples", "rollout_steps", "rollout_batch", "beta", "steps", "batch_size", "accumulation", "lr", "clip")
        for name in (*positive, "evaluation_prompts", "evaluation_steps", "checkpoint_every"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)!r} must be greater than 0; give a positive number")
        for name in ("caption_dropout", "ema", "eta"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must lie between 0 and 1")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} is not known; choose one of {list(choices)}")


_CHOICES: dict[str, tuple[str, ...]] = {f.name: get_args(f.type) for f in fields(Settings) if get_origin(f.type) is Literal}


@dataclass(frozen=True)
class Preset:
    """Default model and data, the settings of every round, and what rounds 1, 2, ... change (the last entry goes on)."""

    model: str
    data: str
    settings: Settings
    rounds: tuple[Mapping[str, Any], ...] = field(default=({},))

    def for_round(self, index: int) -> Settings:
        """Settings of round `index` (1, 2, ...)."""
        return replace(self.settings, **self.rounds[min(index, len(self.rounds)) - 1])

    def changed(self, **changes: Any) -> "Preset":
        """The same preset with some settings replaced in every round."""
        rounds = tuple({k: v for k, v in r.items() if k not in changes} for r in self.rounds)
        return replace(self, settings=replace(self.settings, **changes), rounds=rounds)

    def identity(self) -> dict[str, Any]:
        """What of the preset changes results, flat: {"lr": ..., "round 3 lr": ...}."""
        flat = asdict(self.settings)
        for index, differences in enumerate(self.rounds, start=1):
            flat |= {f"round {index} {name}": value for name, value in differences.items()}
        return flat


_SHAPES = Settings(
    samples=768, rollout_steps=10, guidance=3.0, rollout_batch=128, beta=2000.0, steps=60, lr=1.5e-6, warmup=5,
    evaluation_prompts=256, evaluation_steps=10, evaluation_guidance=3.0,
)  # fmt: skip

PRESETS: dict[str, Preset] = {
    "shapes-spin": Preset("shapes", "shapes", _SHAPES, ({}, {}, {})),
    # the same code in seconds, to see that it runs; its numbers mean nothing
    "smoke": Preset(
        "shapes", "shapes",
        replace(_SHAPES, samples=24, validation=8, rollout_steps=2, steps=3, batch_size=8, warmup=1, evaluation_prompts=12,
                evaluation_steps=2),
    ),
    # Stable Diffusion 1.x on eight 80 GB cards, the paper's appendix: its 200 warm-up steps are longer than round 1
    "sd15-spin": Preset(
        "stable-diffusion-v1-5/stable-diffusion-v1-5", "",
        Settings(samples=500_000, batch_size=8, accumulation=32, lr=2e-5, warmup=200, precision="bf16", evaluation_prompts=500),
        ({"beta": 2000.0, "steps": 50}, {"beta": 5000.0, "steps": 500}, {"beta": 5000.0, "steps": 200, "lr": 5e-8}),
    ),
}  # fmt: skip


def get_preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        ValueError: no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"preset={name!r} is not known; choose one of {list(PRESETS)}")
    return PRESETS[name]
