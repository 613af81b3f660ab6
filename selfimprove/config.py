"""Define the settings of a round."""

import math
from dataclasses import dataclass, field, fields
from importlib import import_module
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from selfimprove.errors import ArgumentError

BetaConvention = Literal["diffusion-dpo", "diffusers", "summed-half", "paper"]
GeneratedSource = Literal["rollout", "loser", "real", "real-reencoded"]
Shared = Literal["t+noise", "t", "nothing"]
ErrorIn = Literal["epsilon", "v", "velocity", "x0", "likelihood"]
PredictionType = Literal["any", "epsilon", "v_prediction", "flow_prediction"]
Precision = Literal["no", "bf16", "fp16"]
PromptSource = Literal["filtered", "plain", "template"]
Strategy = Literal["all", "random", "pool", "per-prompt", "threshold", "manual"]
Combination = Literal["rank", "zscore"]
Distance = Literal["l2", "l2-unscaled", "l2-scaled-twice", "rms", "per-channel"]
Reference = Literal["mean", "to-mean", "nearest", "two-sided"]
TimeWeight = Literal["snr", "one", "inverse-variance"]
OnCollapse = Literal["warn", "stop", "ignore"]


def registered(default: str, registry: str) -> Any:
    """Declare a setting whose choices are the keys of a registry, "module:NAME", imported only if the value is not the default."""
    return field(default=default, metadata={"registry": registry})


LANGUAGE_MODEL = "meta-llama/Meta-Llama-3-8B-Instruct"  # judges prompts if no other judge is named


@dataclass(frozen=True)
class Settings:
    """All settings that change a round's result, apart from model, data and seed.

    Change a setting with `--set name=value` on the command line, or with `Preset.changed(name=value)` in Python.
    """

    # Sphinx takes the words before a colon in a `#:` comment for a type, so these comments have no colon.
    # Examples: `samples` is the number of (image, caption) pairs per round, fewer if the data are fewer; in recursion, of images drawn.
    samples: int = 1024
    validation: int = 128  #: further images that are kept out of training, for the scores that need real images
    image_column: str = ""  #: column of `data`'s table that names the images; if empty, file_name or another usual name
    caption_column: str = ""  #: column that holds the captions; if empty, text, caption, prompt or another usual name
    resolution: int = 0  #: pixels of a side of the images, which are square; 0 for the size that the model's folder names
    aspect_ratio_buckets: bool = False  #: images to train on keep their shape, at about the same area, and opponents draw in the same shape

    # Rollout: how the opponent's images are sampled.
    sampler: str = registered("ddim", "selfimprove.models.samplers:SAMPLERS")  #: the papers use "ddim"; another sampler is another opponent
    rollout_steps: int = 50
    guidance: float = 7.5  #: classifier-free guidance scale; 1 means no guidance
    guidance_interval: tuple[float, ...] = ()  #: (low, high], noise levels b/a at which rollouts are guided, another opponent; () for all
    negative_prompt: str = ""  #: what images should not show; in the empty caption's place in guidance, of rollouts and evaluation
    eta: float = 0.0  #: for sampler "ddim" only; 0 is DDIM, 1 is DDPM
    rollout_batch: int = 16  #: prompts per batch at most, halved where memory holds fewer; changes the result by rounding at most
    generated_latents: Literal["reencoded", "raw"] = "reencoded"  #: "reencoded" decodes and encodes again, as the papers do; "raw" does not
    generated_source: GeneratedSource = "rollout"  #: "loser" of a labelled pair gives DPO; "real" images give null experiments

    # Prompts of recursive self-improvement: collected, filtered, then a new slice of `samples` prompts per round.
    prompt_source: PromptSource = "filtered"  #: "plain" skips the filters; "template" uses "a photo of a ..."
    judge: str = "rules"  #: id or folder of the language model that judges clarity and specificity, or "rules" (for the shapes world)
    collected: int = 0  #: number of prompts to collect if the source is endless (the shapes world)
    clusters: int = 0  #: number of K-means clusters of the diversity filter; 0 skips the filter
    kept: int = 0  #: number of prompts to keep, nearest to the cluster centres (without clusters, the first ones); 0 keeps all

    # Selection among the generated images.
    strategy: Strategy = "all"
    selected: int = 0  #: number of images to keep; for "threshold" the maximum, where 0 means no maximum
    threshold: float = 0.0  #: the lowest combined score that "threshold" keeps
    metrics: tuple[tuple[str, float], ...] = ()  #: pairs (name of a scorer, weight)
    combination: Combination = "rank"  #: combine several scores by the weighted mean of their ranks or of their z-scores

    # Weights by distance to the base model's samples, RSIDiff eq. (5).
    weighting: Literal["none", "distance"] = "none"
    distance: Distance = "l2"
    reference: Reference = "mean"
    neighbours: int = 5  #: number of neighbours for reference "nearest"
    weight_beta: float | None = None  #: largest distance with weight 1; None takes the `weight_quantile` of the references' own distances
    weight_sigma2: float | None = None  #: decay beyond `weight_beta`; None takes the references' largest distance minus that quantile
    weight_quantile: float = 0.9
    normalisation: Literal["count", "weights"] = "count"  #: divide by the number of samples, as eq. (6), or by the sum of weights
    time_weight: TimeWeight = "snr"  #: lambda_t of eq. (6); plain error in eps, in x0 ("one"), or in a flow's velocity

    # Further training data of a round of recursion: remedies for collapse that are known from other work.
    accumulate: bool = False  #: also train on the samples that earlier rounds selected
    real_samples: int = 0  #: number of real images added to the selected ones
    on_collapse: OnCollapse = "warn"

    # Objective.
    objective: Literal["spin", "sft", "weighted"] = "spin"
    opponent: Literal["previous", "base", "earlier"] = "previous"  #: "base" never changes; "earlier" draws one of all before (as SSPO)
    link: str = registered("logistic", "selfimprove.losses:LINKS")
    pushing: float = 1.0  #: factor of the generated side's errors; 0 leaves only the reweighted real side
    beta: float = 2000.0
    beta_convention: BetaConvention = "diffusion-dpo"
    prediction_type: PredictionType = "any"  #: what the model must predict; "any" accepts what its folder states
    error_in: ErrorIn = "epsilon"  #: what squared errors are of; the papers' eps, a flow's "velocity", ... (`Schedule.error_scale`)
    time_density: Literal["uniform", "logit-normal", "mode"] = "uniform"  #: of training times, as shares of the way to noise
    time_mean: float = 0.0  #: mean of the logit for "logit-normal"; above 0 is towards noise
    time_std: float = 1.0  #: standard deviation of the logit for "logit-normal"; scale of "mode"
    time_shift: float = 1.0  #: moves training times towards noise, s -> k s / (1 + (k - 1) s); released recipes of SD3 have 3
    shared: Shared = "t+noise"  #: draws that real and generated side share; the released code shares both, the formula "t"
    generated_noise: Literal["fresh", "own"] = "fresh"  #: "own" noises the opponent's image with the noise that it was drawn from
    caption_dropout: float = 0.0  #: share of captions that are replaced by the empty caption
    neon: float = 0.0  #: step away from self-training, start - neon * (trained - start), Neon's w; 0 keeps what was trained
    flip: bool = False  #: mirror half of the pairs, both sides of a pair alike

    # Training.
    steps: int = 60  #: optimiser steps per round
    epochs: int = 0  #: passes over the round's examples; replaces `steps` unless 0
    batch: int = 48  #: examples per optimiser step, over all processes, which must divide it
    micro_batch: int = 0  #: examples per process and forward pass; changes the result by rounding at most; 0 for a process's whole share
    lr: float = 2e-5
    warmup: int = 0  #: optimiser steps of linear warm-up, counted from the start of the round
    decay: bool = True  #: linear decay to zero after the warm-up
    weight_decay: float = 0.01
    clip: float = 1.0  #: largest norm of the gradient
    min_snr: float = 0.0  #: gamma of `losses.min_snr_weight`, for objectives "sft" and "weighted"; 0 weighs all time steps alike
    optimiser: Literal["adamw", "adamw8bit"] = "adamw"  #: "adamw8bit" is the one of the package bitsandbytes
    lora_rank: int | None = None  #: rank of the LoRA adapters to train; None trains all weights
    lora_alpha: int = 8  #: the adapter is scaled by alpha / rank
    lora_targets: str = ""  #: endings of the names of adapted layers, such as "to_q to_v"; "" for those usual in the model's family
    use_dora: bool = False  #: adapters that learn the length of weights apart from their direction (DoRA)
    ema: float = 0.0  #: decay of the average of weights, which becomes the player, at most (1 + n) / (10 + n) after n steps; 0 for none
    precision: Precision = "no"
    gradient_checkpointing: bool = False
    compile: bool = False  #: have torch compile the networks, which takes minutes at first, and pays in long runs
    checkpoint_every: int = 20  #: optimiser steps between the checkpoints from which a killed run continues

    # What is seen of a training.
    tracker: str = ""  #: any that accelerate knows, such as "wandb"; "none"; or "" for TensorBoard if it is installed
    sample_every: int = 0  #: optimiser steps between images of the same prompts and noise; 0 for none
    validate_every: int = 0  #: optimiser steps between errors on the images that are kept out of training; 0 for none

    # Evaluation.
    evaluation_prompts: int = 256
    evaluation_images: int = 1  #: per prompt
    evaluation_steps: int = 50
    evaluation_guidance: float = 7.5
    evaluation_part: Literal["test", "validation"] = "test"  #: whose prompts; choose settings on "validation"; ignored for a prompt file

    def __post_init__(self) -> None:
        for field_ in fields(self):
            check_kind(field_.name, getattr(self, field_.name))
        positive = ("samples", "rollout_steps", "rollout_batch", "beta", "steps", "batch", "lr", "clip", "evaluation_prompts", "time_shift")
        for name in (*positive, "evaluation_images", "neighbours", "evaluation_steps", "checkpoint_every"):
            if not getattr(self, name) > 0:
                raise ArgumentError(f"{name}={getattr(self, name)!r} must be greater than 0; give a positive number")
        counts = ("collected", "clusters", "kept", "selected", "epochs", "real_samples", "validation", "warmup", "micro_batch")
        for name in (*counts, "resolution", "min_snr", "sample_every", "validate_every", "weight_decay", "neon"):
            if getattr(self, name) < 0:
                raise ArgumentError(f"{name}={getattr(self, name)!r} must not be negative; 0 leaves it out")
        for name in ("lora_rank", "lora_alpha") if self.lora_rank is not None else ():
            if getattr(self, name) < 1:  # at alpha 0 nothing is trained
                raise ArgumentError(f"{name}={getattr(self, name)!r} must be at least 1; lora_rank=None trains all weights")
        for name in ("caption_dropout", "ema", "eta", "weight_quantile", "pushing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ArgumentError(f"{name}={getattr(self, name)!r} must lie between 0 and 1")
        if self.selected > self.samples:
            raise ArgumentError(f"selected={self.selected} is more than the pool, samples={self.samples}; select fewer or sample more")
        if self.strategy not in ("all", "threshold", "manual") and not self.selected:
            raise ArgumentError(f"selected=0 with strategy={self.strategy!r} keeps nothing; say how many to keep")
        if self.sampler != "ddim" and self.eta:
            raise ArgumentError(f"eta={self.eta!r} belongs to sampler='ddim'; {self.sampler!r} draws no noise: leave eta at 0")
        if self.generated_noise == "own" and (self.eta or self.generated_source != "rollout"):
            raise ArgumentError(
                f"generated_noise='own' needs images that their first noise decides: eta=0 and generated_source='rollout', not "
                f"eta={self.eta!r} and generated_source={self.generated_source!r}; leave it at 'fresh'"
            )
        if self.neon and (self.objective != "weighted" or self.lora_rank is not None):
            raise ArgumentError(f"neon={self.neon!r} steps away from training of all weights by objective='weighted', without LoRA; give 0")
        if self.objective == "weighted" and self.error_in != "epsilon":
            raise ArgumentError(f"error_in={self.error_in!r} does not apply to objective='weighted'; choose its time_weight instead")
        if self.min_snr and (self.objective == "spin" or self.time_weight != "snr"):
            raise ArgumentError(f"min_snr={self.min_snr!r} is for objective='sft', or 'weighted' with time_weight='snr'; leave it at 0")
        if self.guidance_interval and not (len(self.guidance_interval) == 2 and 0 <= self.guidance_interval[0] < self.guidance_interval[1]):
            raise ArgumentError(f"guidance_interval={self.guidance_interval!r} must be two noise levels, such as (0.28, 5.42); () for all")
        if self.guidance_interval and self.guidance == 1:
            raise ArgumentError(f"guidance_interval={self.guidance_interval!r} does nothing at guidance=1; leave it out, or raise guidance")
        if self.negative_prompt and self.guidance == self.evaluation_guidance == 1:
            raise ArgumentError(f"negative_prompt={self.negative_prompt!r} does nothing without guidance; leave it out, or raise guidance")
        if self.aspect_ratio_buckets and self.objective == "weighted" and not self.real_samples:
            raise ArgumentError("aspect_ratio_buckets=True is for real images to train on; leave it at False, or give real_samples")
        if self.aspect_ratio_buckets and self.objective == "spin" and self.weighting != "none":
            raise ArgumentError(f"weighting={self.weighting!r} compares images of one size; leave aspect_ratio_buckets at False")
        if self.weight_sigma2 is not None and not self.weight_sigma2 > 0:
            raise ArgumentError(f"weight_sigma2={self.weight_sigma2!r} must be greater than 0; leave it out to calibrate it")
        for field_ in fields(self):
            value = getattr(self, field_.name)
            if value != field_.default and value not in (known := choices(field_.name) or (value,)):
                raise ArgumentError(f"{field_.name}={value!r} is not known; choose one of {list(known)}")

    def share(self, processes: int) -> int:
        """Return how many examples of a step each of `processes` processes takes.

        Raises:
            ArgumentError: the number of processes does not divide the batch.
        """
        if self.batch % processes:
            dividing = [n for n in range(1, processes) if self.batch % n == 0]
            raise ArgumentError(
                f"batch={self.batch} cannot be shared equally by {processes} processes; start a number of processes that divides it, such "
                f"as {dividing[-1]}, or give a batch that is a multiple of {processes}"
            )
        return self.batch // processes

    def per_forward(self, processes: int = 1) -> int:
        """Return how many examples a process sends through the networks at once: its share of a step, or a `micro_batch` of it."""
        return min(self.micro_batch or self.batch, self.share(processes))

    def steps_for(self, examples: int) -> int:
        """Return the number of optimiser steps of a round that trains on `examples` examples."""
        return math.ceil(self.epochs * examples / self.batch) if self.epochs else self.steps

    def reached(self, examples: int) -> int:
        """Return how many of the `examples` examples a round trains on: all, unless its steps end within the first epoch."""
        return min(examples, self.steps_for(examples) * self.batch)

    def drawn_in(self, index: int) -> int:
        """Return the round whose draws give the opponent's images of round `index`: a frozen opponent keeps its images."""
        return 1 if self.opponent == "base" else index

    def drawn(self, examples: int, cache: bool = False) -> int:
        """Return for how many of the `examples` examples the opponent draws an image in a round of self-play.

        The opponent draws only for the examples that the round trains on (`reached`). It draws for every example if weights compare images
        with one another, or if a `cache` of its errors is kept for longer rounds.
        """
        return examples if cache or self.weighting != "none" else self.reached(examples)


_KINDS = {"int": "a whole number", "float": "a finite number", "bool": "True or False", "str": "text"}
_KINDS["resolution"] = "one whole number, the pixels of a side"
_KINDS["guidance_interval"] = "two noise levels, such as (0.28, 5.42)"


def _fits(value: Any, kind: Any) -> bool:
    """Return whether a value has the annotated type of a setting; the allowed words are checked elsewhere."""
    if kind in (int, float):
        finite = not isinstance(value, float) or math.isfinite(value)
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool) and finite
    if get_origin(kind) is UnionType:
        return any(_fits(value, k) for k in get_args(kind))
    if get_origin(kind) is tuple:
        if not isinstance(value, (tuple, list)):
            return False
        kinds = get_args(kind)
        kinds = kinds[:1] * len(value) if kinds[-1] is ... else kinds
        return len(value) == len(kinds) and all(map(_fits, value, kinds))
    return get_origin(kind) is Literal or isinstance(value, kind)


# Settings that change results by rounding at most.
FREE = ("rollout_batch", "micro_batch", "gradient_checkpointing", "checkpoint_every", "compile")
# Settings of how long a round trains: a finished round may be given more steps.
LENGTH = ("steps", "epochs")
# Settings of how players are judged and of what a sitting does: no player depends on them. Evaluations record them on their own.
JUDGING = (
    "evaluation_prompts", "evaluation_images", "evaluation_steps", "evaluation_guidance", "evaluation_part", "on_collapse", "tracker",
    "sample_every", "validate_every",
)  # fmt: skip
COLUMNS = ("image_column", "caption_column")
# Settings that came later: an identity names one only where it is not at its default, so that runs made before keep their identity.
LATER = (
    *("resolution", "aspect_ratio_buckets", "negative_prompt", "min_snr", "optimiser", "generated_noise", "neon"),
    *("time_density", "time_mean", "time_std", "time_shift", "lora_targets", "use_dora", "guidance_interval"),
)
_FIELDS = {f.name: f for f in fields(Settings)}


def check_kind(name: str, value: Any) -> None:
    """Raise an ArgumentError that names setting, value and type if a setting's value is of another type."""
    if not _fits(value, kind := _FIELDS[name].type):
        wanted = getattr(kind, "__name__", str(kind))
        raise ArgumentError(f"{name}={value!r} is of the wrong kind; give {_KINDS.get(name) or _KINDS.get(wanted, wanted)}")


def choices(name: str) -> tuple[str, ...]:
    """Return the words that a setting accepts, from its type or its registry; empty for a setting that is not a choice of words."""
    wanted = _FIELDS[name]
    if registry := wanted.metadata.get("registry"):
        module, _, table = registry.partition(":")
        return tuple(getattr(import_module(module), table))
    return get_args(wanted.type) if get_origin(wanted.type) is Literal else ()
