"""Write a player as a pipeline folder that plain diffusers can load."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from selfimprove.models.weights import DENOISERS, PARTS, TOKENIZER_FILES, WEIGHTS, find_weights, read_config

ENDINGS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")
LINKED = 64 * 2**20  # bytes from which weights of other parts are linked into a player's folder, not copied


def write_pipeline(folder: Path, denoiser: Any, base: Path) -> None:
    """Write a complete pipeline folder: the player's denoiser, and the parts that the base's `model_index.json` names beside it.

    Of the parts that are loaded here only the files that are loaded travel; a variant such as fp16 gets the plain names, by which plain
    diffusers finds it. Everything is copied but weights of `LINKED` bytes or more, which are hard links where that is possible: nothing
    that programs write in place is shared with the base. A part that is absent, or whose weights are (the hub's safety checker is not
    downloaded), becomes null in the index, as diffusers expects of an omitted part.
    """
    index = read_config(base / "model_index.json")
    own = next(part for part in index if part in DENOISERS)
    denoiser.save_pretrained(folder / own, safe_serialization=True)
    config = json.loads((folder / own / "config.json").read_text())
    config.pop("_name_or_path", None)  # where the base lay: no part of what the player is
    (folder / own / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    parts = [part for part in index if (base / part).is_dir() and part != own]
    absent = [part for part in parts if part not in PARTS and (base / part / "config.json").exists() and not _has_weights(base / part)]
    absent += [part for part, named in index.items() if isinstance(named, list) and not (base / part).is_dir()]
    (folder / "model_index.json").write_text(json.dumps(index | {part: [None, None] for part in absent}, indent=2) + "\n")
    for part in (part for part in parts if part not in absent):
        copy_part(base / part, folder / part)


def copy_part(part: Path, to: Path) -> None:
    """Copy what a player gets of a pipeline's part into a folder, or link it."""
    for path, name in _travelling(part).items():
        target, source = to / name, path.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if source.suffix != ".safetensors" or source.stat().st_size < LINKED:
                raise OSError("copied")
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)


def _travelling(part: Path) -> dict[Path, Path | str]:
    """Return the files of a part that a player gets, with their names there."""
    if part.name not in PARTS:
        return {path: path.relative_to(part) for path in sorted(part.rglob("*")) if path.is_file()}
    names = ("config.json", "scheduler_config.json", *TOKENIZER_FILES)
    found: dict[Path, Path | str] = {part / name: name for name in names if (part / name).exists()}
    if part.name in WEIGHTS and (weights := find_weights(part)):
        single = f"{WEIGHTS[part.name]}.safetensors"
        found |= {path: path.name if weights.index_file else single for path in weights.files}
        if weights.index_file:
            found[weights.index_file] = f"{single}.index.json"
    return found


def _has_weights(part: Path) -> bool:
    """Return whether plain diffusers, which is asked for no variant, finds the weights of a part."""
    return any((part / f"{stem}{ending}").exists() for stem in ("model", "pytorch_model", "diffusion_pytorch_model") for ending in ENDINGS)
