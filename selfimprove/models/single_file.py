"""Turn a single-file checkpoint of Stable Diffusion 1.x or 2.x into a pipeline folder, without a network.

Such a file holds the weights alone, in the names of the original code. Its configuration is looked for in this order: what the user names
("file.safetensors as CONFIGURATION": a name in `KNOWN`, a folder or a hub id), the folder of the same name beside the file, the folder
that holds the file, and `KNOWN`. The tokenizer of `KNOWN` is CLIP's, made from its merges, which are found
in an installed package, in the cache, or on the hub.
"""

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint, infer_diffusers_model_type
from torch import Tensor
from tqdm.auto import tqdm

from selfimprove.files import sha256
from selfimprove.models.checks import check_names, check_weights, on_meta
from selfimprove.models.converted import converted
from selfimprove.models.known import KNOWN, changed, write_known
from selfimprove.models.weights import PICKLED, ModelError, brief, opened, read_config, shapes, used_files

# diffusers warns at every change of precision of a network that should keep modules in float32, though the list is empty
logging.getLogger("diffusers.models.modeling_utils").addFilter(lambda record: "in float32: []" not in record.getMessage())
CONVERTED = (("unet", UNet2DConditionModel, convert_ldm_unet_checkpoint), ("vae", AutoencoderKL, convert_ldm_vae_checkpoint))
PREFIXES = {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "text_encoder": "cond_stage_model."}
KINDS = {"v1": "sd1", "v2": "sd2"}  # diffusers' name of a kind of checkpoint -> ours of its usual configuration


def from_single_file(file: Path, named: str | Path = "") -> Path:
    """Return the pipeline folder of a checkpoint, converted once; `named`: a name in `KNOWN` or a folder of configurations; "" to look.

    Raises:
        ModelError: the file is pickled, cut off, no complete checkpoint of Stable Diffusion 1.x or 2.x, or its configuration is not known
            or does not fit.
    """
    if file.suffix in PICKLED:
        raise ModelError(
            f"model={str(file)!r} is pickled, and can run code when loaded; convert it to safetensors where you trust it, or get the "
            ".safetensors file that most publishers give beside it"
        )
    found = shapes([file])
    with opened(file) as weights:
        said, kept = weights.metadata() or {}, {weights.get_slice(n).get_dtype() for n in found if n.startswith(tuple(PREFIXES.values()))}
    dtype = torch.float16 if kept <= {"F16", "I64"} else torch.float32  # position numbers are I64; a mixture keeps every digit
    kind = _kind(file, found)
    beside = [folder for folder in (file.with_suffix(""), file.parent) if (folder / "model_index.json").exists()]
    folder = None if named in KNOWN else Path(named) if named else next(iter(beside), None)
    if folder:
        description: Any = {path.relative_to(folder).as_posix(): sha256(path) for path in _configurations(folder)}
        source = str(folder)
    else:
        source = str(named) or _usual(file, kind, found, said)
        marks = _marked(found, said)  # diffusers' PNDM knows no trailing steps
        description = changed(KNOWN[source], {"scheduler": marks | ({"_class_name": "DDIMScheduler"} if marks else {})})

    def make(target: Path) -> None:
        tqdm.write(f"model={str(file)!r} becomes a pipeline folder in {target.parent}, with the configuration {source!r}")
        with TemporaryDirectory() as place:
            pipeline = _read(file, folder or write_known(Path(place), description), found, dtype)
            pipeline.save_pretrained(target, safe_serialization=True)

    return converted(file.stem, {"format": 1, "file": sha256(file), "configuration": description}, make)


def _kind(file: Path, found: dict[str, Tensor]) -> str:
    if any(name.startswith("lora_") or ".lora" in name for name in found):
        raise ModelError(f'model={str(file)!r} is a LoRA, no model; add it to one: model="path/to/model + {file}"')
    kind = infer_diffusers_model_type(found)
    lacking = [part for part, prefix in PREFIXES.items() if not any(name.startswith(prefix) for name in found)]
    if kind not in KINDS or lacking == list(PREFIXES):
        what = f"of the kind {kind!r}" if kind not in KINDS else f"no checkpoint (its first tensor is {min(found, default='')!r})"
        raise ModelError(f"model={str(file)!r} is {what}; single files of Stable Diffusion 1.x and 2.x can be read, or a pipeline folder")
    if lacking:
        raise ModelError(f"model={str(file)!r} holds no {', '.join(lacking)}; give a complete checkpoint, or a pipeline folder")
    return kind


def _usual(file: Path, kind: str, found: dict[str, Tensor], said: dict[str, str]) -> str:
    """Return the name of a kind's usual configuration. Files of Stable Diffusion 2.x look alike, whether they predict eps or v."""
    if kind == "v1":
        return "sd1"
    prediction = _marked(found, said).get("prediction_type") or said.get("modelspec.prediction_type")
    if not prediction:
        raise ModelError(
            f"model={str(file)!r} is of Stable Diffusion 2.x and does not say whether it predicts eps (at 512 pixels) or v (at 768); "
            f'give model="{file} as sd2-base" or model="{file} as sd2"'
        )
    return "sd2" if prediction == "v_prediction" else "sd2-base"


def _marked(found: dict[str, Tensor], said: dict[str, str]) -> dict[str, Any]:
    """Return what a file says of its noise schedule: by its metadata (as sd-scripts writes them), or by tensors that only mark it."""
    predicts_v = "v_pred" in found or said.get("modelspec.prediction_type") in ("v", "v_prediction")
    zero = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if "ztsnr" in found else {}
    return ({"prediction_type": "v_prediction"} if predicts_v else {}) | zero


def _configurations(folder: Path) -> list[Path]:
    if not (folder / "model_index.json").exists():
        raise ModelError(f"{str(folder)!r} has no model_index.json; give a folder of a pipeline's configurations, or {', '.join(KNOWN)}")
    found = [path for path in used_files(folder) if path.suffix != ".safetensors" and ".index." not in path.name]
    for path in (path for path in (folder / "model_index.json", *found) if path.suffix == ".json"):
        read_config(path)
    return [folder / "model_index.json", *found]


def check_fit(configuration: Path, found: dict[str, Tensor]) -> None:
    """Raise ModelError if the UNet and the VAE of a checkpoint, tensors without data, are not those of a folder of configurations."""
    for part, kind, convert in CONVERTED:
        tensors = convert(found, read_config(configuration / part / "config.json"))
        check_weights(part, on_meta(kind, configuration / part), tensors)
        if (held := sum(name.startswith(PREFIXES[part]) for name in found)) != len(tensors):
            check_names(part, (), [f"{held} tensors, not {len(tensors)}"])


def _read(file: Path, configuration: Path, found: dict[str, Tensor], dtype: torch.dtype) -> StableDiffusionPipeline:
    try:
        check_fit(configuration, found)
        pipeline = StableDiffusionPipeline.from_single_file(
            str(file), config=str(configuration), local_files_only=True, dtype=dtype, requires_safety_checker=False, safety_checker=None,
            feature_extractor=None, image_encoder=None,
        )  # fmt: skip
        check_names("text_encoder", [name for name, weight in pipeline.text_encoder.named_parameters() if weight.is_meta], ())
    except Exception as error:  # diffusers raises many unrelated types
        said = error if isinstance(error, ModelError) else brief(error)
        raise ModelError(
            f"model={str(file)!r} does not fit its configuration ({said}); if that is not its own, put a folder with the right one, named "
            f'{file.stem!r}, beside the file, or name it: model="{file} as FOLDER"'
        ) from error
    return pipeline
