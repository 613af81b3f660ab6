"""Settings of a round, and the presets: one table, each round's settings as differences."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import import_module
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, get_args, get_origin

Objective = Literal["spin", "sft", "weighted"]
BetaConvention = Literal["diffusion-dpo", "diffusers", "summed-half", "paper"]
GeneratedLatents = Literal["reencoded", "raw"]
GeneratedSource = Literal["rollout", "loser", "real", "real-reencoded"]
Opponent = Literal["previous", "base"]
Shared = Literal["t+noise", "t", "nothing"]
ErrorIn = Literal["epsilon", "v"]
PredictionType = Literal["any", "epsilon", "v_prediction"]
Precision = Literal["no", "bf16", "fp16"]
PromptSource = Literal["filtered", "plain", "template"]
Strategy = Literal["all", "random", "pool", "per-prompt", "threshold", "manual"]
Combination = Literal["rank", "zscore"]
Weighting = Literal["none", "distance"]
Distance = Literal["l2", "l2-unscaled", "l2-scaled-twice", "rms", "per-channel"]
Reference = Literal["mean", "to-mean", "nearest", "two-sided"]
TimeWeight = Literal["snr", "one"]
Normalisation = Literal["count", "weights"]
OnCollapse = Literal["warn", "stop", "ignore"]


def registered(default: str, registry: str) -> Any:
    """Declare a setting whose choices are the keys of a registry, "module:NAME", which is read only where the value is not the default."""
    return field(default=default, metadata={"registry": registry})


LANGUAGE_MODEL = "meta-llama/Meta-Llama-3-8B-Instruct"  # judges prompts where no other is named


@dataclass(frozen=True)
class Settings:
    """Everything that changes a round's result, apart from model, data and seed.

    Any of them is set by `--set name=value` on the command line, and by `Preset.changed(name=value)` in Python.
    """

    # Examples: how many (image, caption) pairs each round trains on; fewer if the data has fewer.
    samples: int = 1024
    validation: int = 128  #: further images kept out of training, for the scores that need real images

    # Rollout: how the opponent's images are sampled.
    sampler: str = registered("ddim", "selfimprove.samplers:SAMPLERS")  #: the papers'; another is another opponent
    rollout_steps: int = 50
    guidance: float = 7.5  #: classifier-free guidance scale; 1 is none
    eta: float = 0.0  #: of "ddim": 0 is DDIM, 1 is DDPM
    rollout_batch: int = 16  #: prompts a batch; no effect on the result beyond rounding
    generated_latents: GeneratedLatents = "reencoded"  #: decode and encode again, as the papers do, or keep the raw latent
    generated_source: GeneratedSource = "rollout"  #: "loser" of labelled pairs: DPO; fresh real images: the null experiments

    # Prompts of recursive self-improvement: collected, filtered, then a fresh slice of `samples` every round.
    prompt_source: PromptSource = "filtered"  #: "plain": not filtered; "template": "a photo of a ..."
    judge: str = "rules"  #: of clarity and specificity: a language model's id or folder, or "rules" (the shapes world's)
    collected: int = 0  #: prompts to collect where the source is endless (the shapes world)
    clusters: int = 0  #: K-means clusters for diversity; 0 leaves it out
    kept: int = 0  #: prompts to keep, the nearest to their centres; 0 keeps all

    # Selection among the generated images.
    strategy: Strategy = "all"
    selected: int = 0  #: how many to keep; for "threshold" the most
    threshold: float = 0.0  #: for "threshold": least combined score
    metrics: tuple[tuple[str, float], ...] = ()  #: (scorer, weight)
    combination: Combination = "rank"  #: how several scorers become one number

    # Weights by distance to the base model's samples, RSIDiff eq. (5).
    weighting: Weighting = "none"
    distance: Distance = "l2"
    reference: Reference = "mean"
    neighbours: int = 5  #: for reference "nearest"
    weight_beta: float | None = None  #: distance up to which the weight is 1; None: `weight_quantile` of the reference's own
    weight_sigma2: float | None = None  #: decay beyond it; None: from there to the reference's largest distance
    weight_quantile: float = 0.9
    normalisation: Normalisation = "count"  #: eq. (6) divides by the number of samples, so small weights shrink the step; or by their sum
    time_weight: TimeWeight = "snr"  #: lambda_t of eq. (6): "snr" is the plain error in eps, "one" the plain error in x0

    # What else a round of recursion trains on: cures of collapse known elsewhere.
    accumulate: bool = False  #: keep training on the samples selected in earlier rounds
    real_samples: int = 0  #: real images kept beside the selected ones
    on_collapse: OnCollapse = "warn"

    # Objective.
    objective: Objective = "spin"
    opponent: Opponent = "previous"  #: "base": never updated, the frozen-opponent experiment
    link: str = registered("logistic", "selfimprove.losses:LINKS")
    pushing: float = 1.0  #: factor of the generated side's errors; 0 leaves only the real side, reweighted
    beta: float = 2000.0
    beta_convention: BetaConvention = "diffusion-dpo"
    prediction_type: PredictionType = "any"  #: what the model must predict; "any": what its folder says
    error_in: ErrorIn = "epsilon"  #: squared errors in eps, as the papers have them, or in v, 1 / alpha_t times as much
    shared: Shared = "t+noise"  #: what real and generated share: released code both, the formula t alone
    caption_dropout: float = 0.0  #: share of captions replaced by the empty one
    flip: bool = False  #: mirror half of the pairs, both sides alike

    # Training.
    steps: int = 60  #: optimiser steps in the round
    epochs: int = 0  #: if given, passes over the selected samples, in place of `steps`
    batch_size: int = 48  #: pairs a process and micro-batch
    accumulation: int = 1  #: micro-batches a step
    lr: float = 2e-5
    warmup: int = 0  #: steps of linear warm-up, counted from the round's start
    decay: bool = True  #: linear decay to zero after the warm-up
    weight_decay: float = 0.01
    clip: float = 1.0  #: largest gradient norm
    lora_rank: int | None = None  #: train adapters of this rank in place of all weights
    lora_alpha: int = 8  #: the adapter is scaled by alpha / rank
    ema: float = 0.0  #: decay of the average of weights, which is then the player, at most (1 + n) / (10 + n) after n steps; 0 is off
    precision: Precision = "no"
    gradient_checkpointing: bool = False
    checkpoint_every: int = 20  #: steps between the points at which a killed run can continue

    # Evaluation.
    evaluation_prompts: int = 256
    evaluation_images: int = 1  #: of each prompt
    evaluation_steps: int = 50
    evaluation_guidance: float = 7.5
    evaluation_part: Literal["test", "validation"] = "test"  #: whose prompts: settings are chosen on validation; no effect on prompt files

    def __post_init__(self) -> None:
        for field_ in fields(self):
            value = getattr(self, field_.name)
            if not _fits(value, field_.type):
                wanted = getattr(field_.type, "__name__", str(field_.type))
                raise ValueError(f"{field_.name}={value!r} is of the wrong kind; give {_KINDS.get(wanted, wanted)}")
        positive = ("samples", "rollout_steps", "rollout_batch", "beta", "steps", "batch_size", "accumulation", "lr", "clip")
        for name in (*positive, "evaluation_prompts", "evaluation_images", "neighbours", "evaluation_steps", "checkpoint_every"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)!r} must be greater than 0; give a positive number")
        for name in ("collected", "clusters", "kept", "selected", "epochs", "real_samples", "validation", "warmup", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)!r} must not be negative; 0 leaves it out")
        for name in ("lora_rank", "lora_alpha") if self.lora_rank is not None else ():
            if getattr(self, name) < 1:  # at alpha 0 nothing is trained
                raise ValueError(f"{name}={getattr(self, name)!r} must be at least 1; lora_rank=None trains all weights")
        for name in ("caption_dropout", "ema", "eta", "weight_quantile", "pushing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must lie between 0 and 1")
        if self.selected > self.samples:
            raise ValueError(f"selected={self.selected} is more than the pool, samples={self.samples}; select fewer or sample more")
        if self.strategy not in ("all", "threshold", "manual") and not self.selected:
            raise ValueError(f"selected=0 with strategy={self.strategy!r} keeps nothing; say how many to keep")
        if self.sampler != "ddim" and self.eta:
            raise ValueError(f"eta={self.eta!r} belongs to sampler='ddim'; {self.sampler!r} draws no noise: leave eta at 0")
        if self.objective == "weighted" and self.error_in != "epsilon":
            raise ValueError(f"error_in={self.error_in!r} does not apply to objective='weighted'; choose its time_weight instead")
        if self.weight_sigma2 is not None and not self.weight_sigma2 > 0:
            raise ValueError(f"weight_sigma2={self.weight_sigma2!r} must be greater than 0; leave it out to calibrate it")
        for field_ in fields(self):
            value = getattr(self, field_.name)
            if value != field_.default and value not in (known := choices(field_.name) or (value,)):
                raise ValueError(f"{field_.name}={value!r} is not known; choose one of {list(known)}")

    def steps_for(self, examples: int, processes: int = 1) -> int:
        """Optimiser steps of a round that trains on so many examples."""
        return math.ceil(self.epochs * examples / (self.batch_size * self.accumulation * processes)) if self.epochs else self.steps

    def reached(self, examples: int, processes: int = 1) -> int:
        """How many of so many examples a round trains on: all, unless its steps end within the first epoch."""
        return min(examples, self.steps_for(examples, processes) * self.batch_size * self.accumulation * processes)

    def drawn(self, examples: int, processes: int = 1, cache: bool = False) -> int:
        """How many images a round of self-play has its opponent draw: for the examples it trains on, as nobody needs the others.

        For all, where weights compare images with one another, or where a `cache` of the opponent's errors is to serve longer rounds.
        """
        return examples if cache or self.weighting != "none" else self.reached(examples, processes)


_KINDS = {"int": "a whole number", "float": "a number", "bool": "True or False", "str": "text"}


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a setting's annotated type; which of several words are allowed is checked elsewhere."""
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    if get_origin(kind) is UnionType:
        return any(_fits(value, k) for k in get_args(kind))
    if get_origin(kind) is tuple:  # metrics
        return isinstance(value, (tuple, list)) and all(len(v) == 2 and _fits(v[0], str) and _fits(v[1], float) for v in value)
    return get_origin(kind) is Literal or isinstance(value, kind)


# Settings that change no result beyond rounding.
FREE = ("rollout_batch", "gradient_checkpointing", "checkpoint_every")
# Settings that runs made before them do not know: at these values they stay out of a run's identity.
_LATER = {"lora_rank": None, "sampler": "ddim", "prediction_type": "any", "error_in": "epsilon", "pushing": 1.0, "evaluation_part": "test"}
_FIELDS = {f.name: f for f in fields(Settings)}


def choices(name: str) -> tuple[str, ...]:
    """Return the words that a setting can be, from its type or its registry; none where it is no choice of words."""
    wanted = _FIELDS[name]
    if registry := wanted.metadata.get("registry"):
        module, _, table = registry.partition(":")
        return tuple(getattr(import_module(module), table))
    return get_args(wanted.type) if get_origin(wanted.type) is Literal else ()


@dataclass(frozen=True)
class Preset:
    """Default model, data and prompts, the settings of every round, and what rounds 1, 2, ... change (the last entry goes on).

    `prompts`: where recursive self-improvement has its prompts from; self-play's are the captions of its data. `scorers`: published
    ones that judge where the embedded do not know the images, each a name or name=path; no part of the identity.
    """

    model: str
    data: str
    settings: Settings
    rounds: tuple[Mapping[str, Any], ...] = field(default=({},))
    prompts: str = ""
    scorers: tuple[str, ...] = ()

    def for_round(self, index: int) -> Settings:
        """Settings of round `index` (1, 2, ...)."""
        return replace(self.settings, **self.rounds[min(index, len(self.rounds)) - 1])

    def all_rounds(self) -> list[Settings]:
        """Return the settings of every round that differs: 1, 2, ... to the last entry of `rounds`, which goes on."""
        return [self.for_round(index) for index in range(1, len(self.rounds) + 1)]

    def changed(self, **changes: Any) -> "Preset":
        """The same preset with some settings replaced in every round."""
        rounds = tuple({k: v for k, v in r.items() if k not in changes} for r in self.rounds)
        return replace(self, settings=replace(self.settings, **changes), rounds=rounds)

    def identity(self) -> dict[str, Any]:
        """What of the preset changes results, flat: {"lr": ..., "round 3 lr": ...}; what is off and came later is left out.

        So is what changes them by rounding alone (`FREE`): after an error of memory a run goes on with smaller batches.
        """
        flat = asdict(self.settings)
        off = {name for name, value in _LATER.items() if flat[name] == value}
        for name in off | set(FREE) | ({"lora_alpha"} if "lora_rank" in off else set()):
            del flat[name]
        for index, differences in enumerate(self.rounds, start=1):
            flat |= {f"round {index} {name}": value for name, value in differences.items()}
        return flat
