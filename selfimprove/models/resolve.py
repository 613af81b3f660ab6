"""Turn what a user names as a model into a pipeline folder: a folder, a checkpoint or a hub id, and LoRAs that are added to it."""

import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

import torch
from peft.utils import get_peft_model_state_dict

from selfimprove.files import sha256
from selfimprove.models.converted import converted
from selfimprove.models.known import KNOWN
from selfimprove.models.lora import FILE
from selfimprove.models.original import read_original
from selfimprove.models.pipeline import Diffuser, load_diffuser
from selfimprove.models.players import write_pipeline
from selfimprove.models.single_file import from_single_file
from selfimprove.models.weights import VARIANTS, WEIGHTS, ModelError, brief, check_finite, find_weights, model_hash, read_config, shapes
from selfimprove.shapes import MAKERS, MODELS

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # owner/name, of a model or of a data set
HUB = "hub:"  # what begins with it is a hub id, whatever folders there are
FILES = re.compile(r"\.(safetensors|parquet|arrow|tar|zip|gz|csv|tsv|json|jsonl|ndjson|txt)$", re.IGNORECASE)  # ends no name on the hub


def resolve_model(model: str | Path) -> Path:
    """Return the pipeline folder of a model.

    `model` is one of: "shapes" or "shapes-flow"; a pipeline folder; a single-file checkpoint, "file.safetensors" or "file.safetensors as
    CONFIGURATION" (see `single_file`); a hub id, "owner/name" or "hub:owner/name@revision", whose safetensors are downloaded. LoRAs may
    follow, each fused into the start: "MODEL + lora.safetensors + 0.5 * other.safetensors". A name "owner/name" is not sought on the hub
    if "owner" is a folder here, which makes it a path with a slip of the pen.

    Raises:
        ModelError: there is no such folder or file, the hub did not give it, or a part cannot be read.
    """
    text = str(model)
    base, *added = [text] if _exists(text) else [part.strip() for part in text.split(" + ")]
    folder = _base(base)
    return _fused(folder, [_adapter(each) for each in added]) if added else folder


def _base(text: str) -> Path:
    if text in MODELS:
        if not (MODELS[text] / "model_index.json").exists():
            raise ModelError(f"model={text!r}: its weights are not in {MODELS[text]}; make them: {MAKERS[text]}")
        return MODELS[text]
    name, named, configuration = text.rpartition(" as ")
    if not named or _exists(text):
        name, configuration = text, ""
    path = Path(name).expanduser()
    if _exists(name) and path.is_file():
        if configuration and configuration not in KNOWN:
            local = Path(configuration).expanduser() if _exists(configuration) else None
            return from_single_file(path, local or _pipeline_of(configuration, read_original(path).lacking))
        return from_single_file(path, configuration)
    if configuration:
        raise ModelError(f"model={text!r}: there is no file {name!r} to be read as {configuration!r}; check the path")
    return path if _exists(name) else _pipeline_of(text)


def _exists(text: str) -> bool:
    return os.path.exists(os.path.expanduser(text))  # False for what is too long to be a path, where pathlib raises


def _pipeline_of(name: str, parts: Iterable[str] = tuple(WEIGHTS)) -> Path:
    """Return the local copy of a hub repository's pipeline: plain weights where it has them, else shards or a variant such as fp16.

    `parts`: those whose weights are needed.
    """
    folder = _snapshot(name, *(f"{part}/{WEIGHTS[part]}.safetensors" for part in parts))
    lacking: list[str] = []
    for part, stem in ((part, WEIGHTS[part]) for part in parts if (folder / part).is_dir()):
        found = find_weights(folder / part)
        wanted = found.files if found else [folder / part / f"{stem}{variant}.safetensors" for variant in VARIANTS]
        lacking += [path.relative_to(folder).as_posix() for path in wanted if not path.exists()]
    return _snapshot(name, *lacking) if lacking else folder


def _snapshot(name: str, *weights: str) -> Path:
    """Return the local copy of a hub repository, with its configurations and the weights that it has of these."""
    identity, _, revision = name.removeprefix(HUB).partition("@")
    if not is_hub_id(name):
        raise ModelError(
            no_such("model", name, "'shapes', 'shapes-flow', a pipeline folder, a .safetensors checkpoint, or a hub id owner/name")
        )
    from huggingface_hub import snapshot_download  # only here: everything else works without a hub

    try:
        return Path(snapshot_download(identity, revision=revision or None, allow_patterns=["*.json", "*.txt", "README.md", *weights]))
    except Exception as error:  # the hub client raises many unrelated types
        raise ModelError(
            f"model={name!r}: no such folder here, and the hub did not give it ({type(error).__name__}); "
            "check the name and the connection, or give a local folder"
        ) from error


def is_hub_id(name: str) -> bool:
    """Return whether a name that is no path here is sought on the hub; one that begins with a folder here or ends like a file is a slip."""
    slip = name.startswith("runs/") or os.path.exists(name.partition("/")[0]) or bool(FILES.search(name))
    return bool(HUB_ID.fullmatch(name.removeprefix(HUB).partition("@")[0])) and (name.startswith(HUB) or not slip)


def no_such(argument: str, name: str, forms: str) -> str:
    """Return a message on a path that is not here: the entry of its folder with the most similar name, and what may be given."""
    path = Path(name).expanduser()
    there = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
    near = "".join(f", but {str(path.parent / n)!r}" for n in get_close_matches(path.name, there, 1))
    hub = f"; if one of the hub is meant, write {HUB}{name}" if HUB_ID.fullmatch(name) else ""
    return f"{argument}={name!r}: there is no such file or folder{near}; give {forms}{hub}"


def _adapter(text: str) -> tuple[Path, float]:
    """Return the file and the factor of "path", "folder" or "factor * path"."""
    number, star, rest = text.partition("*")
    if star and not re.fullmatch(r"\s*-?\d*\.?\d+\s*", number):
        raise ModelError(f"model: {text!r} is no LoRA; write 'path' or 'factor * path', such as '0.8 * style.safetensors'")
    factor, path = float(number) if star else 1.0, Path((rest if star else text).strip()).expanduser()
    file = path / FILE if path.is_dir() else path
    if not file.is_file() or file.suffix != ".safetensors":
        raise ModelError(f"model: the LoRA {str(path)!r} is no .safetensors file, nor a folder with {FILE}; check the path")
    return file, factor


def _fused(folder: Path, adapters: list[tuple[Path, float]]) -> Path:
    """Return the pipeline folder of a model with LoRAs fused into its UNet and text encoder, made once."""
    made_from = {"format": 1, "model": model_hash(folder), "adapters": [[sha256(file), factor] for file, factor in adapters]}
    for file, _ in adapters:
        if odd := [name for name in shapes([file]) if "dora_scale" in name]:  # diffusers would leave these out
            raise ModelError(f"the LoRA {str(file)!r} is a DoRA ({odd[0]}), which diffusers cannot read; give a plain LoRA")
        check_finite([file])

    def make(target: Path) -> None:
        diffuser = load_diffuser(folder, torch.device("cpu"))
        pipeline, part = diffuser.pipeline, diffuser.family.part
        pipeline.register_modules(**{part: diffuser.denoiser})
        for file, factor in adapters:
            changed = _add(diffuser, file)
            pipeline.fuse_lora(components=changed, lora_scale=factor)
            pipeline.unload_lora_weights()
        write_pipeline(target, getattr(pipeline, part), folder)
        for encoder in diffuser.family.given(read_config(folder / "model_index.json")):
            for path in (target / encoder.part).iterdir():
                path.unlink()
            getattr(pipeline, encoder.part).save_pretrained(target / encoder.part)

    return converted("+".join(file.parent.name if file.name == FILE else file.stem for file, _ in adapters), made_from, make)


def _add(diffuser: Diffuser, file: Path) -> list[str]:
    """Add a LoRA to a pipeline as diffusers does, and return the parts that it changes; every tensor of it must have found its layer."""
    pipeline = diffuser.pipeline
    config = {f"{diffuser.family.part}_config": diffuser.shape.config}  # by which names of other programs are read
    try:
        wanted = pipeline.lora_state_dict(str(file.parent), weight_name=file.name, **config)
        wanted = wanted[0] if isinstance(wanted, tuple) else wanted
        pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name="start")
    except Exception as error:  # the loaders raise many unrelated types
        raise ModelError(f"the LoRA {str(file)!r} cannot be added to this model ({brief(error)})") from error
    parts = [diffuser.family.part, *(e.part for e in diffuser.family.encoders)]
    networks = {part: network for part in parts if getattr(network := getattr(pipeline, part, None), "peft_config", None)}
    held = sum(len(get_peft_model_state_dict(network, adapter_name="start")) for network in networks.values())
    if held != len(wanted):
        raise ModelError(f"the LoRA {str(file)!r} has {len(wanted)} tensors, of which {held} have a layer here; give one of this kind")
    return list(networks)
