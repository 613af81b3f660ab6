"""Name, read and hash the files of a pipeline folder: precisely those that are loaded. Every error names its file."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from selfimprove.errors import SelfImproveError
from selfimprove.files import sha256

DENOISERS = ("unet", "transformer")  # of these a pipeline has one
WEIGHTS = {
    "unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model", "transformer": "diffusion_pytorch_model",
    "text_encoder_2": "model", "text_encoder_3": "model",
}  # fmt: skip
TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")
PARTS = (*WEIGHTS, *TOKENIZERS, "scheduler")  # that are loaded; a pipeline has some of them
VARIANTS = ("", ".fp16", ".bf16")  # the first one that a part has is loaded; others, such as ".non_ema", are another model
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "spiece.model"),
)
PICKLED = (".bin", ".pt", ".pth", ".ckpt")


class ModelError(SelfImproveError):
    """The model cannot be used; the message says why and what to do."""


def brief(error: Exception) -> str:
    """Return the kind and the beginning of a library's error, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


class Weights(NamedTuple):
    """The weights of one part: files in a fixed order, their variant (None: plain names), and the index of several shards, else None."""

    files: tuple[Path, ...]
    variant: str | None
    index_file: Path | None


def find_weights(folder: Path) -> Weights | None:
    """Return the weights that a part is loaded from, or None: shards or a single file, as diffusers and transformers choose.

    Raises:
        ModelError: the index of shards cannot be read.
    """
    stem = WEIGHTS.get(folder.name, "model")
    for variant in VARIANTS:
        single, index = folder / f"{stem}{variant}.safetensors", folder / f"{stem}.safetensors.index{variant}.json"
        if index.exists() and not (stem == "model" and single.exists()):  # transformers prefers a single file, diffusers shards
            shards = read_config(index).get("weight_map")
            if not isinstance(shards, dict) or not shards:
                raise ModelError(f"{str(index)!r} has no weight_map; save or download the model again")
            return Weights(tuple(folder / name for name in sorted(set(shards.values()))), variant[1:] or None, index)
        if single.exists():
            return Weights((single,), variant[1:] or None, None)
    return None


def needed_weights(folder: Path) -> Weights:
    """Return the weights of a part that needs them.

    Raises:
        ModelError: there are none, or only pickled ones, or a shard is missing.
    """
    found = find_weights(folder)
    if found is None:
        there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        if pickled := [name for name in there if name.endswith(PICKLED)]:
            raise ModelError(
                f"model part {str(folder)!r} has only pickled weights ({pickled[0]}), which can run code when loaded; "
                "convert them: pipeline.save_pretrained(folder, safe_serialization=True)"
            )
        others = ", ".join(name for name in there if name.endswith(".safetensors"))
        remedy = f", only {others}; rename the one that you mean" if others else "; give a complete pipeline"
        raise ModelError(f"model part {str(folder)!r} has no {WEIGHTS.get(folder.name, 'model')}.safetensors{remedy}")
    if missing := [path for path in found.files if not path.exists()]:
        raise ModelError(f"{str(missing[0])!r} is missing, which the index of shards beside it names; download the model again")
    return found


def check_pointer(path: Path) -> None:
    """Raise if a file is only the pointer that git leaves where git-lfs has not fetched the contents."""
    try:
        with path.open("rb") as file:
            beginning = file.read(40)
    except PermissionError as error:
        raise ModelError(f"{str(path)!r} may not be read; change its permissions") from error
    if beginning.startswith(b"version https://git-lfs"):
        raise ModelError(f"{str(path)!r} is a pointer of git-lfs, not the file itself; fetch it: git lfs pull")


def read_config(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of a model.

    Raises:
        ModelError: the file is missing, empty, broken, a pointer of git-lfs, or holds something else.
    """
    try:
        check_pointer(path)
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ModelError(f"{str(path)!r} is missing; give a complete pipeline, as pipeline.save_pretrained writes it") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{str(path)!r} is empty, cut off or no JSON ({error}); download or save the model again") from error
    if not isinstance(found, dict):
        raise ModelError(f"{str(path)!r} holds no JSON object but {type(found).__name__}; download or save the model again")
    return found


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file.

    Raises:
        ModelError: the file is cut off, a pointer of git-lfs, or no safetensors file.
    """
    check_pointer(path)
    try:
        with safe_open(path, "pt") as weights:
            yield weights
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{str(path)!r} is cut off or no safetensors file ({error}); download or save it again") from error


def shapes(files: Sequence[Path]) -> dict[str, Tensor]:
    """Return a tensor without data for every tensor of safetensors files, by name. Only headers are read."""
    found: dict[str, Tensor] = {}
    for path in files:
        with opened(path) as weights:
            found |= {name: torch.empty(weights.get_slice(name).get_shape(), device="meta") for name in weights.keys()}  # noqa: SIM118
    return found


def check_finite(files: Sequence[Path]) -> None:
    """Raise ModelError if a tensor of safetensors files holds NaN or infinity."""
    for path in files:
        with opened(path) as weights:
            for name in weights.keys():  # noqa: SIM118 - safe_open is no mapping
                values = weights.get_tensor(name)
                if not bool(
                    torch.isfinite(values.float() if values.dtype.itemsize == 1 else values).all()
                ):  # 8-bit floats have no isfinite
                    raise ModelError(f"model part {str(path.parent)!r}: the weight {name!r} holds NaN or infinity; give an intact model")


def used_files(folder: Path) -> list[Path]:
    """Return the files of a pipeline folder that are loaded, in a fixed order: weights, configurations, tokenizer; nothing beside them."""
    found = [weights for part in WEIGHTS if (weights := find_weights(folder / part))]
    wanted = [path for weights in found for path in (*weights.files, *([weights.index_file] if weights.index_file else []))]
    wanted += [folder / part / "config.json" for part in WEIGHTS]
    wanted += [folder / "scheduler" / "scheduler_config.json", *(folder / part / name for part in TOKENIZERS for name in TOKENIZER_FILES)]
    return [path for path in wanted if path.exists()]


def model_hash(folder: Path, *parts: str) -> str:
    """Return the identity of a model wherever it lies: the SHA-256 of the names and hashes of `used_files`; `parts`: only of these.

    Raises:
        ModelError: there is no such folder, or no denoiser in it.
    """
    files = used_files(folder)
    if not any(path.parent.name in DENOISERS and path.suffix == ".safetensors" for path in files):
        raise ModelError(
            f"model={str(folder)!r} has no weights of a UNet or transformer; restore the folder or, if it is a player's, delete the folder "
            "of its round and those of later rounds to have them played again"
        )
    lines = [f"{path.relative_to(folder).as_posix()} {sha256(path)}" for path in files if path.parent.name in (parts or PARTS)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
