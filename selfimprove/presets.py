"""Define what a preset is, and the named ones: of the shapes world, of Stable Diffusion with the papers' numbers, of one's own data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from selfimprove.config import COLUMNS, FREE, JUDGING, LANGUAGE_MODEL, LATER, Settings
from selfimprove.errors import ArgumentError

# Settings that hold for a whole run: all rounds share what is made from them, or are judged alike.
WHOLE = (
    *COLUMNS, "validation", "resolution", "aspect_ratio_buckets", "negative_prompt", "prompt_source", "judge", "collected", "clusters",
    "kept", "objective", "precision", "flip", "evaluation_prompts", "evaluation_images", "evaluation_steps",
    "evaluation_guidance", "evaluation_part",
)  # fmt: skip


@dataclass(frozen=True)
class Preset:
    """Default model, data and prompts, common settings, and what each round changes in them.

    `rounds`: the changes of rounds 1, 2, ...; the last entry also holds for all later rounds. `prompts`: the source of prompts of recursive
    self-improvement; self-play uses the captions of its data. `scorers`: published scorers, each as name or name=path. They judge
    images outside the embedded world, and are not part of the run's identity.
    """

    model: str
    data: str
    settings: Settings
    rounds: tuple[Mapping[str, Any], ...] = field(default=({},))
    prompts: str = ""
    scorers: tuple[str, ...] = ()

    def for_round(self, index: int) -> Settings:
        """Return the settings of round `index` (1, 2, ...)."""
        return replace(self.settings, **self.rounds[min(index, len(self.rounds)) - 1])

    def all_rounds(self) -> list[Settings]:
        """Return the settings of rounds 1, 2, ... up to the last entry of `rounds`; later rounds repeat the last entry."""
        return [self.for_round(index) for index in range(1, len(self.rounds) + 1)]

    def changed(self, **changes: Any) -> "Preset":
        """Return a copy of the preset with some settings replaced.

        A plain name (`steps`) changes every round. A name after a round ("round 2 steps") changes that round, and later rounds too if
        it is the last that the preset lists. If `steps` is given, `epochs` becomes 0.
        Raises an ArgumentError if a setting of the whole run (`WHOLE`; in self-play also `samples`) is given for one round.
        """
        whole = (*WHOLE, *(("samples",) if self.settings.objective != "weighted" else ()))
        if alone := [key for key in changes if " " in key and key.split()[-1] in whole]:
            raise ArgumentError(f"{alone[0]!r} cannot be set: {alone[0].split()[-1]} holds for the whole run; give it without the round")
        if any(settings.epochs for settings in self.all_rounds()):
            changes = {name.replace("steps", "epochs"): 0 for name in changes if name.split()[-1] == "steps"} | changes
        common = {name: value for name, value in changes.items() if " " not in name}
        rounds = [{k: v for k, v in r.items() if k not in common} for r in self.rounds]
        for index, name, key in sorted((int(key.split()[1]), key.split()[2], key) for key in changes.keys() - common.keys()):
            rounds += [rounds[-1]] * (index - len(rounds))
            rounds[index - 1] = rounds[index - 1] | {name: changes[key]}
        return replace(self, settings=replace(self.settings, **common), rounds=tuple(rounds))

    def identity(self) -> dict[str, Any]:
        """Return the settings that change the players as a flat dictionary: {"lr": ..., "round 3 lr": ...}.

        The settings in `FREE` are left out: after an out-of-memory error a run may continue with smaller batches. So are those in
        `JUDGING`: a finished run may be judged on more prompts. So are those in `COLUMNS`: the identity of the data depends on what was
        read from them. A setting of `LATER` is left out at its default.
        """
        free, neutral = {*FREE, *JUDGING, *COLUMNS}, Settings()
        new = {name for name in LATER if getattr(self.settings, name) == getattr(neutral, name)}
        flat = {name: value for name, value in asdict(self.settings).items() if name not in free | new}
        for index, differences in enumerate(self.rounds, start=1):
            flat |= {f"round {index} {name}": value for name, value in differences.items() if name not in free}
        return flat


_SHAPES = Settings(
    samples=768, rollout_steps=10, guidance=3.0, rollout_batch=128, beta=2000.0, steps=60, lr=1.5e-6, warmup=5,
    evaluation_prompts=256, evaluation_steps=10, evaluation_guidance=3.0,
)  # fmt: skip

_RSI = Settings(
    objective="weighted", samples=5000, validation=0, clusters=1000, kept=40_000, judge=LANGUAGE_MODEL,
    strategy="pool", selected=300, metrics=(("clip", 1.0), ("aesthetic", 1.0), ("hpsv2", 1.0)), weighting="distance",
    distance="l2-scaled-twice", weight_beta=35.0, weight_sigma2=2.0, batch=12, lr=1e-6, epochs=30, warmup=0, decay=False,
    evaluation_images=10,
)  # fmt: skip

_SHAPES_RSI = replace(
    _RSI, samples=1280, validation=128, collected=60_000, clusters=256, kept=10_240, judge="rules", selected=77,
    metrics=(("clip", 1.0), ("aesthetic", 1.0), ("shading", 1.0)), distance="l2", weight_beta=None, weight_sigma2=None,
    rollout_steps=10, guidance=3.0, rollout_batch=128, evaluation_prompts=128, evaluation_images=4, evaluation_steps=10,
    evaluation_guidance=3.0,
)  # fmt: skip

# A flow's beta and times are those of _FLOW below; its rates are where each method's tuning begins (`experiments.tuning`).
_VELOCITY: dict[str, Any] = {"time_density": "logit-normal", "time_shift": 3.0, "rollout_steps": 20, "evaluation_steps": 20}
_SHAPES_FLOW = replace(_SHAPES, beta=100.0, error_in="velocity", **_VELOCITY)
_ADAPTER: dict[str, Any] = {"lora_rank": 8, "lora_alpha": 8, "lr": 5e-4}
_SHAPES_FLOW_RSI = replace(_SHAPES_RSI, time_weight="inverse-variance", **_ADAPTER, **_VELOCITY)  # with an adapter, as the paper's SD3


def _world(model: str, spin: Settings, rsi: Settings) -> dict[str, Preset]:
    """Return the presets of an embedded model. DPO: the pairs' losers in place of the model's own images, the base always the opponent."""
    long = 3 * spin.steps
    return {
        f"{model}-spin": Preset(model, "shapes", spin, ({}, {}, {})),
        f"{model}-rsi": Preset(model, "shapes-base", rsi, prompts="shapes"),
        f"{model}-dpo": Preset(model, "shapes", replace(spin, generated_source="loser", opponent="base", steps=long)),
        f"{model}-sft": Preset(model, "shapes", replace(spin, objective="sft", steps=long)),
        f"{model}-spin-lora": Preset(model, "shapes", replace(spin, **_ADAPTER), ({}, {}, {})),
    }


_SD15_MODEL = "stable-diffusion-v1-5/stable-diffusion-v1-5"
_SD15 = Settings(samples=500_000, batch=2048, micro_batch=8, lr=2e-5, warmup=200, precision="bf16", evaluation_prompts=500)
_SD15_ROUNDS = ({"beta": 2000.0, "steps": 50}, {"beta": 5000.0, "steps": 500}, {"beta": 5000.0, "steps": 200, "lr": 5e-8})
_SD15_SFT = replace(_SD15, objective="sft", batch=512, lr=1e-5, steps=2000, warmup=500, decay=False)
_SD15_SCORERS = ("pickscore", "hpsv2", "imagereward")  # "aesthetic=path" can be added; its head is not on the hub

# Larger models with adapters on one card. Nobody has published such runs of self-play; betas are those in use for Diffusion-DPO: 5,000 on
# SDXL's noise, 100 on a flow's velocity, whose squared error is 16 times that in eps three quarters of the way to noise. Training times
# of flows are SD3's, logit-normal and moved towards noise by 3; sampling is the published pipelines' own.
_LARGE = replace(
    _SD15, samples=10_000, batch=64, micro_batch=1, rollout_batch=4, lr=1e-4, warmup=10, steps=200, lora_rank=16, lora_alpha=16,
    gradient_checkpointing=True,
)  # fmt: skip
_SDXL = replace(_LARGE, beta=5000.0, guidance=5.0, evaluation_guidance=5.0)
_FLOW = replace(
    _LARGE, beta=100.0, error_in="velocity", time_density="logit-normal", time_shift=3.0, rollout_steps=28, evaluation_steps=28,
    guidance=7.0, evaluation_guidance=7.0,
)  # fmt: skip
# RSIDiff's section 4.4: 13,000 images a round, 1,000 kept by hand, 2,000 steps. What it does not say is as in sd14-rsi (a batch of 12, 500
# evaluation prompts), as in sd15-spin-lora (the rank), or as in the published pipeline (28 steps, guidance 7); its eq. 6 is plain flow
# matching where lambda is 1 / s^2.
_SD3_RSI = replace(
    _RSI, precision="bf16", evaluation_prompts=500, samples=13_000, strategy="manual", selected=1000, epochs=0, steps=2000,
    lora_rank=16, lora_alpha=16, batch=12, micro_batch=1, rollout_batch=4, gradient_checkpointing=True, rollout_steps=28, guidance=7.0,
    evaluation_steps=28, evaluation_guidance=7.0, time_weight="inverse-variance", time_density="logit-normal", time_shift=3.0,
)  # fmt: skip

# For 30 to 5,000 images: passes over the images in place of steps, so that neither number is overfitted or hardly read. The rate and beta
# of an adapter lie between those of diffusers' own Diffusion-DPO script (1e-5, 5000) and of sd15-spin-lora. Nobody has measured them.
_OWN = Settings(
    samples=50_000, validation=64, epochs=10, batch=8, micro_batch=1, rollout_batch=4, beta=5000.0, lr=5e-5, warmup=10, lora_rank=16,
    lora_alpha=16, precision="bf16", gradient_checkpointing=True, evaluation_prompts=64,
)  # fmt: skip

PRESETS: dict[str, Preset] = {
    **_world("shapes", _SHAPES, _SHAPES_RSI),
    **_world("shapes-flow", _SHAPES_FLOW, _SHAPES_FLOW_RSI),
    # runs the same code within seconds, as a check that it works; its numbers mean nothing
    "smoke": Preset(
        "shapes", "shapes",
        replace(_SHAPES, samples=24, validation=8, rollout_steps=2, steps=3, batch=8, warmup=1, evaluation_prompts=12,
                evaluation_steps=2),
    ),
    "smoke-rsi": Preset(
        "shapes", "shapes-base",
        replace(_SHAPES_RSI, samples=24, validation=8, collected=600, clusters=8, kept=48, selected=8, epochs=2, batch=4,
                rollout_steps=2, evaluation_prompts=6, evaluation_images=2, evaluation_steps=2),
        prompts="shapes",
    ),
    # Stable Diffusion 1.4 with the paper's numbers; the paper does not say to which distance its beta of 35 belongs: see notebook 10
    "sd14-rsi": Preset(
        "CompVis/stable-diffusion-v1-4", "", replace(_RSI, precision="bf16", evaluation_prompts=500),
        scorers=("clip", "hpsv2.1", "pickscore", "imagereward"),
    ),
    # a user's own prompts, unfiltered, with counts that a short list can meet; weights are calibrated on the base model's samples
    "own-prompts": Preset(
        "CompVis/stable-diffusion-v1-4", "",
        replace(_RSI, precision="bf16", prompt_source="plain", clusters=0, kept=0, samples=1000, selected=100, evaluation_prompts=100,
                metrics=(("clip", 1.0), ("pickscore", 1.0), ("hpsv2.1", 1.0)), distance="l2", weight_beta=None, weight_sigma2=None),
        scorers=("clip", "pickscore", "hpsv2.1", "imagereward"),
    ),
    # Stable Diffusion 1.x on eight 80 GB cards, from the paper's appendix; its 200 warm-up steps are longer than round 1
    "sd15-spin": Preset(_SD15_MODEL, "", _SD15, _SD15_ROUNDS, scorers=_SD15_SCORERS),
    "sd15-dpo": Preset(_SD15_MODEL, "", replace(_SD15, generated_source="loser", opponent="base", beta=2000.0, steps=350),
                       scorers=_SD15_SCORERS),
    # keeps the last step; the paper keeps the best checkpoint on validation, of steps 500, 1,000, ... (page 13 has the commands)
    "sd15-sft": Preset(_SD15_MODEL, "", _SD15_SFT, scorers=_SD15_SCORERS),
    # one 24 GB card. The paper has no such run: examples, betas and rounds are the paper's; rank and learning rate are usual for
    # adapters; the batch has 256 pairs.
    "sd15-spin-lora": Preset(
        _SD15_MODEL, "",
        replace(_SD15, batch=256, micro_batch=4, lr=1e-4, warmup=20, lora_rank=16, lora_alpha=16, gradient_checkpointing=True),
        tuple(r | {"lr": 1e-4} for r in _SD15_ROUNDS), scorers=_SD15_SCORERS,
    ),
    "sdxl-spin-lora": Preset("stabilityai/stable-diffusion-xl-base-1.0", "", _SDXL, scorers=_SD15_SCORERS),
    "sd3-spin-lora": Preset("stabilityai/stable-diffusion-3-medium-diffusers", "", _FLOW, scorers=_SD15_SCORERS),
    "sd3-rsi": Preset(
        "stabilityai/stable-diffusion-3-medium-diffusers", "", _SD3_RSI, scorers=("clip", "hpsv2.1", "pickscore", "imagereward"),
    ),
    "sd35-spin-lora": Preset(
        "stabilityai/stable-diffusion-3.5-medium", "",
        replace(_FLOW, rollout_steps=40, evaluation_steps=40, guidance=4.5, evaluation_guidance=4.5), scorers=_SD15_SCORERS,
    ),
    # a user's own images on one card: judged on the captions and images that are kept out of training, without published scorers
    "own-images": Preset(_SD15_MODEL, "", _OWN),
    # plays every stage in minutes, on a CPU too, before the hours of the others; its numbers mean nothing
    "own-trial": Preset(_SD15_MODEL, "", replace(_OWN, resolution=256, samples=4, validation=1, rollout_steps=2, epochs=0, steps=2, batch=2,
                                                 evaluation_prompts=2, evaluation_steps=2, on_collapse="ignore")),
    "own-images-full": Preset(_SD15_MODEL, "", replace(_OWN, lora_rank=None, lr=1e-6)),
    # Table 11 of the SPIN-Diffusion paper has such a row but does not give its settings: adapters and learning rate are those of
    # sd15-spin-lora; batch and steps are those of the paper's SFT.
    "sd15-sft-lora": Preset(
        _SD15_MODEL, "",
        replace(_SD15_SFT, batch=512, micro_batch=4, lr=1e-4, lora_rank=16, lora_alpha=16, gradient_checkpointing=True),
        scorers=_SD15_SCORERS,
    ),
}  # fmt: skip


EMBEDDED = ("", "shapes", "shapes-base")  # models, data and prompts that are not a user's own


def choose_preset(name: str, model: str, source: str, recursive: bool = False) -> str:
    """Return `name` or, if it is empty, the name of the preset that fits the model and the source.

    `source`: the data or, if `recursive`, the prompts.

    Raises:
        ArgumentError: the preset's numbers are for the embedded model and its images, and model and source are both a user's own.
    """
    world = "shapes-flow" if model == "shapes-flow" else "shapes"
    own = [value for value in (model if model != world else "", source) if value not in EMBEDDED]
    fitting = "own-prompts" if recursive else "own-images"
    if name.startswith("shapes-") and len(own) == 2:
        raise ArgumentError(
            f"preset={name!r} has the numbers of the embedded model, and model={model!r} is none of its kind; give {fitting!r}, another "
            "preset, or none, and change settings with set"
        )
    return name or (fitting if own else f"{world}-{'rsi' if recursive else 'spin'}")


def get_preset(name: str) -> Preset:
    """Return the preset of that name.

    Raises:
        ValueError: no preset has that name.
    """
    if name not in PRESETS:
        raise ArgumentError(f"preset={name!r} is not known; choose one of {list(PRESETS)}")
    return PRESETS[name]
