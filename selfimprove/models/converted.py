"""Keep pipeline folders that are made from other forms of a model, each made once: whole or not at all, under a lock, and verified."""

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from selfimprove.files import remove_unfinished, replacing
from selfimprove.models.weights import ModelError, model_hash

VARIABLE = "SELFIMPROVE_CACHE"  # the environment variable that names the folder of what can be made again
VERSIONS = ("_diffusers_version", "transformers_version", "_name_or_path")  # of who converted and where: no part of what a model is


def cache_folder() -> Path:
    """Return the folder of what can be made again: that of `SELFIMPROVE_CACHE`, or `selfimprove` in the user's cache folder."""
    return Path(os.environ.get(VARIABLE) or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "selfimprove").expanduser()


def converted(name: str, made_from: dict[str, Any], make: Callable[[Path], None]) -> Path:
    """Return the pipeline folder that `make` writes, from the cache if it is there and intact.

    The cache is the folder of `SELFIMPROVE_CACHE`, or `selfimprove` in the user's cache folder. `made_from`: everything that the folder
    depends on, as JSON; equal values share one folder. `name`: for people who look into the cache.

    Raises:
        ModelError: the cache cannot be written.
    """
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:12]
    place = cache_folder() / "models" / f"{name[:80]}-{key}"
    if _is_intact(place, made_from):
        return place / "pipeline"
    try:
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(place / "lock"):
            if not _is_intact(place, made_from):  # else another process has made it meanwhile
                remove_unfinished(place)
                with replacing(place / "pipeline") as unfinished:
                    make(unfinished)
                    for path in unfinished.rglob("*.json"):
                        _forget_versions(path)
                with replacing(place / "made_from.json") as unfinished:
                    unfinished.write_text(json.dumps({"made_from": made_from, "hash": model_hash(place / "pipeline")}, indent=1))
    except OSError as error:
        raise ModelError(
            f"the pipeline folder of {name!r} cannot be written into {str(place)!r} ({error}); name a folder with enough space by the "
            f"environment variable {VARIABLE}"
        ) from error
    return place / "pipeline"


def _is_intact(place: Path, made_from: dict[str, Any]) -> bool:
    try:
        there = json.loads((place / "made_from.json").read_text())
        if there == {"made_from": made_from, "hash": model_hash(place / "pipeline")}:
            return True
        warnings.warn(f"{place} is not what was written there: it is made again", stacklevel=3)
    except (OSError, ValueError):  # not there, or cut off; a ModelError is a ValueError
        pass
    return False


def _forget_versions(path: Path) -> None:
    """Remove from a configuration what differs between versions of diffusers, so that a conversion made again is the same model."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(found, dict) and found.keys() & set(VERSIONS):
        path.write_text(json.dumps({k: v for k, v in found.items() if k not in VERSIONS}, indent=2) + "\n", encoding="utf-8")
