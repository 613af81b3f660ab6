"""Check what a user asks for, the parameters of a notebook or command, before anything else happens."""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any, ClassVar, TypeVar

from selfimprove.config import Settings, check_kind, choices
from selfimprove.errors import ArgumentError
from selfimprove.presets import PRESETS, Preset, choose_preset, get_preset

_IPYTHON = {"In", "Out", "get_ipython", "exit", "quit", "open", "request", "from_namespace", "Request", "RsiRequest", "CompareRequest"}


def _check_whole(name: str, value: Any, least: int, meaning: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ArgumentError(f"{name}={value!r} cannot be {meaning}; give a whole number from {least} on")


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        wanted = f"a name or a path, and to papermill one that looks like a number with -r: -r {name} VALUE"
        raise ArgumentError(f"{name}={value!r} must be text; give {'name=value, name=value' if name == 'set' else wanted}")


# name=value, up to the next ", name=" or the end; a value in quotation marks may hold anything but these
_SETTING = re.compile(
    r"""\s*((?:round\s+[1-9]\d?\s+)?\w+)\s*=\s*('[^']*'|"[^"]*"|.*?)\s*(?:,+(?=\s*(?:round\s+\d+\s+)?[A-Za-z_]\w*\s*=)|,?\s*\Z)""",
    re.DOTALL,
)
_WORDS = {"true": "True", "false": "False", "none": "None"}
_ELSEWHERE = {  # names in other trainers and in earlier versions
    "batch_size": "batch, micro_batch", "accumulation": "batch, micro_batch", "train_batch_size": "batch, micro_batch", "rank": "lora_rank",
    "gradient_accumulation_steps": "batch, micro_batch", "learning_rate": "lr", "lr_warmup_steps": "warmup", "max_train_steps": "steps",
    "num_train_epochs": "epochs", "max_grad_norm": "clip", "mixed_precision": "precision", "report_to": "tracker", "log_with": "tracker",
    "size": "resolution", "beta_dpo": "beta", "guidance_scale": "guidance", "num_inference_steps": "rollout_steps", "snr_gamma": "min_snr",
    "enable_bucket": "aspect_ratio_buckets", "aspect_ratio_bucketing": "aspect_ratio_buckets", "buckets": "aspect_ratio_buckets",
}  # fmt: skip


def changed_settings(given: str) -> dict[str, Any]:
    """Return the settings in a text such as "lr=1e-5, beta=5000"; `Settings` checks their ranges.

    "round 2 lr=1e-5" changes the second round alone. A value that is no number, True, False, None or tuple is taken as text. Text may stand
    in quotation marks, and must if it holds ", x=".

    Raises:
        ArgumentError: the text is no list of name=value, no setting has a name, a name is given twice, or a value is of another type.
    """
    known, changes, place = {f.name: f for f in fields(Settings)}, dict[str, Any](), 0
    while given[place:].strip():
        found = _SETTING.match(given, place)
        if not found:
            raise ArgumentError(f"set={given[place:].strip()!r} changes nothing; give name=value, name=value, such as lr=1e-5, beta=5000")
        key, value, place = *found.groups(), found.end()
        key = " ".join(key.split())
        name = key.split()[-1]
        if name not in known:
            near = _ELSEWHERE.get(name) or ", ".join(get_close_matches(name, known)) or "one of " + ", ".join(known)
            raise ArgumentError(f"set={name + '=' + value!r} names no setting; do you mean {near}?")
        if key in changes:
            raise ArgumentError(f"set={given!r} gives {key} twice; give one value")
        changes[key] = _value(name, known[name].type, value)
        check_kind(name, changes[key])
    return changes


def _value(name: str, kind: Any, text: str) -> Any:
    """Return the value that a text stands for, by the type of its setting; as text if it cannot be read."""
    quoted = text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
    if kind is str or choices(name):
        return quoted
    try:
        value = ast.literal_eval(_WORDS.get(quoted.lower(), quoted))
    except (ValueError, SyntaxError):
        return text
    return int(value) if kind is int and isinstance(value, float) and value.is_integer() else value  # 1e3


@dataclass(frozen=True)
class Request:
    """A request for a round of self-play. Empty strings mean the preset's model, data and scorers, the default run folder, the best device.

    The values come from users, so their types are checked: `iter` and `seed` must be whole numbers, the others text. An empty `preset`
    means the preset for what is given (`name`). `set` changes settings in every round, such as "lr=1e-5, beta=5000".

    Raises:
        ValueError: a value does not fit; names the parameter, the value and what to give instead.
    """

    iter: Any
    preset: Any = ""
    model: Any = ""
    data: Any = ""
    run: Any = ""
    seed: Any = 0
    device: Any = ""
    scorers: Any = ""
    set: Any = ""

    objectives: ClassVar[tuple[str, ...]] = ("spin", "sft")

    def __post_init__(self) -> None:
        _check_whole("iter", self.iter, 1, "the round to play")
        _check_whole("seed", self.seed, 0, "the seed")
        for name in (f.name for f in fields(self) if f.name not in ("iter", "seed")):
            _check_text(name, getattr(self, name))
        if get_preset(self.name).settings.objective not in self.objectives:
            fitting = [name for name, preset in PRESETS.items() if preset.settings.objective in self.objectives]
            raise ArgumentError(f"preset={self.preset!r} is of the other system; choose one of {fitting}")
        if self.device and self.device.split(":")[0] not in ("cpu", "cuda", "mps"):
            raise ArgumentError(f"device={self.device!r} is not known; give cpu, cuda, cuda:1 or mps, or leave it empty")

        self.chosen_preset()  # refuses values that do not fit their settings

    @property
    def name(self) -> str:
        """Return the name of the preset, or of the one for what is given."""
        return choose_preset(self.preset, self.model, getattr(self, "prompts", self.data), "weighted" in self.objectives)

    @property
    def said(self) -> list[str]:
        """Return a line on the choice of the preset; none if it was named, or is the embedded world's."""
        chosen = f"preset {self.name}: none was named, and what is given is your own"
        return [] if self.preset or self.name.startswith("shapes-") else [chosen]

    def chosen_preset(self) -> Preset:
        """Return the preset with the settings and the published scorers that are asked for: names or name=path with commas, or "none"."""
        preset = get_preset(self.name).changed(**changed_settings(self.set))
        if not self.scorers:
            return preset
        return replace(preset, scorers=tuple(s.strip() for s in self.scorers.split(",") if s.strip() and s != "none"))


@dataclass(frozen=True)
class RsiRequest(Request):
    """A request for a round of recursive self-improvement: a `Request` with the source of its prompts (empty: the preset's)."""

    prompts: Any = ""

    objectives: ClassVar[tuple[str, ...]] = ("weighted",)


@dataclass(frozen=True)
class CompareRequest:
    """A request to judge two pipelines on one set of prompts. The values come from users, so their types are checked.

    Raises:
        ValueError: a value does not fit; names the parameter, the value and what to give instead.
    """

    model_a: Any = "shapes"
    model_b: Any = ""
    prompts: Any = "shapes-held-in"
    count: Any = 64
    scorers: Any = "shapes"
    guidance: Any = "3"
    images: Any = 5
    steps: Any = 10

    def __post_init__(self) -> None:
        _check_whole("count", self.count, 0, "a number of prompts")
        _check_whole("images", self.images, 1, "a number of images")
        _check_whole("steps", self.steps, 1, "a number of steps")
        for name in ("model_a", "model_b", "prompts", "scorers"):
            _check_text(name, getattr(self, name))


Asked = TypeVar("Asked", bound=Request | CompareRequest)


def from_namespace(namespace: Mapping[str, Any], kind: type[Asked]) -> Asked:
    """Return the request that a notebook's globals make, right after its parameters cell.

    papermill only warns of a parameter that the notebook does not have, and enforces no types. This function checks both.

    Raises:
        ValueError: a parameter is unknown, or a value does not fit.
    """
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    given = {n: v for n, v in namespace.items() if not n.startswith("_") and n not in _IPYTHON}
    unknown = {n: v for n, v in given.items() if n not in known and isinstance(v, (str, int, float, bool, list, dict, type(None)))}
    if unknown:
        raise ArgumentError(f"unknown parameter {', '.join(sorted(unknown))}; this notebook takes {', '.join(sorted(known))}")
    return kind(**{n: v for n, v in given.items() if n in known})
