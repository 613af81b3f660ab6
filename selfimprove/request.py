"""Check what a user asks for, the parameters of a notebook or command, before anything else happens."""

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

from selfimprove.config import Preset, Settings
from selfimprove.errors import ArgumentError
from selfimprove.presets import PRESETS, get_preset

_IPYTHON = {"In", "Out", "get_ipython", "exit", "quit", "open", "request", "from_namespace", "Request", "RsiRequest", "CompareRequest"}


def _check_whole(name: str, value: Any, least: int, meaning: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ArgumentError(f"{name}={value!r} cannot be {meaning}; give a whole number from {least} on")


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise ArgumentError(
            f"{name}={value!r} must be text; give a name or a path, and to papermill one that looks like a number with -r: -r {name} VALUE"
        )


def changed_settings(given: Sequence[str]) -> dict[str, Any]:
    """Return the settings in texts of the form "name=value", or "round 2 name=value". A value that is no Python literal is taken as text.

    Raises:
        ValueError: a text has no "=", no setting has that name, or a number is needed and the value is text.
    """
    known, changes = {f.name: f.default for f in fields(Settings)}, {}
    for text in given:
        key, found, value = text.partition("=")
        name = re.sub(r"^round [1-9]\d? ", "", key)
        if name in ("batch_size", "accumulation"):
            raise ArgumentError(
                f"set={text!r} names a setting of earlier versions; give batch=N for the examples per optimiser step over all processes, "
                "and micro_batch=N for those that a process sends through its networks at once"
            )
        if not found or name not in known:
            raise ArgumentError(f"set={text!r} changes nothing; give name=value with one of {', '.join(known)}")
        try:
            changes[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            changes[key] = value
        if isinstance(changes[key], float) and changes[key].is_integer() and isinstance(known[name], int):
            changes[key] = int(changes[key])  # 1e3
        if isinstance(known[name], (int, float)) and not isinstance(changes[key], (int, float)):
            raise ArgumentError(f"{name}={value!r} must be a number, or True or False")
    return changes


@dataclass(frozen=True)
class Request:
    """A request for a round of self-play. Empty strings mean the preset's model, data and scorers, the default run folder, the best device.

    The values come from users, so their types are checked: `iter` and `seed` must be whole numbers, the others text.

    Raises:
        ValueError: a value does not fit; names the parameter, the value and what to give instead.
    """

    iter: Any
    preset: Any = "shapes-spin"
    model: Any = ""
    data: Any = ""
    run: Any = ""
    seed: Any = 0
    device: Any = ""
    scorers: Any = ""

    objectives: ClassVar[tuple[str, ...]] = ("spin", "sft")

    def __post_init__(self) -> None:
        _check_whole("iter", self.iter, 1, "the round to play")
        _check_whole("seed", self.seed, 0, "the seed")
        for name in (f.name for f in fields(self) if f.name not in ("iter", "seed")):
            _check_text(name, getattr(self, name))
        if get_preset(self.preset).settings.objective not in self.objectives:
            fitting = [name for name, preset in PRESETS.items() if preset.settings.objective in self.objectives]
            raise ArgumentError(f"preset={self.preset!r} is of the other system; choose one of {fitting}")
        if self.device and self.device.split(":")[0] not in ("cpu", "cuda", "mps"):
            raise ArgumentError(f"device={self.device!r} is not known; give cpu, cuda, cuda:1 or mps, or leave it empty")

    def chosen_preset(self) -> Preset:
        """Return the preset with the published scorers that are asked for: names or name=path separated by commas, or "none"."""
        preset = get_preset(self.preset)
        if not self.scorers:
            return preset
        return replace(preset, scorers=tuple(s.strip() for s in self.scorers.split(",") if s.strip() and s != "none"))


@dataclass(frozen=True)
class RsiRequest(Request):
    """A request for a round of recursive self-improvement: a `Request` with the source of its prompts (empty: the preset's)."""

    preset: Any = "shapes-rsi"
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
