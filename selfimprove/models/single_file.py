"""Turn a single-file checkpoint, as people download and share them, into a pipeline folder, without a network.

Such a file holds weights alone, in the names of the original code. Its configuration is looked for in this order: what the user names
("file.safetensors as CONFIGURATION": a name in `KNOWN`, a folder or a hub id), the folder of the same name beside the file, the folder
that holds the file, and `KNOWN`. What the file lacks, such as the text encoders of FLUX.1, is that folder's. The tokenizers of `KNOWN` are
made from CLIP's merges, which are found in an installed package, in the cache, or on the hub, and of T5's, in the cache or on the hub.
"""

import json
import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diffusers
from tqdm.auto import tqdm

from selfimprove.files import sha256
from selfimprove.models.converted import converted
from selfimprove.models.known import KNOWN, changed, write_configurations, write_known
from selfimprove.models.original import Original, check_fit, read_original
from selfimprove.models.players import copy_part
from selfimprove.models.weights import ModelError, brief, find_weights, needed_weights, read_config, used_files

# diffusers warns at every change of precision of a network that should keep modules in float32, though the list is empty, and of parts
# that are left out
for module, words in (("models.modeling_utils", "in float32: []"), ("pipelines.pipeline_utils", "=None of type")):
    logging.getLogger(f"diffusers.{module}").addFilter(lambda record, words=words: words not in record.getMessage())  # type: ignore[misc]


def from_single_file(file: Path, named: str | Path = "") -> Path:
    """Return the pipeline folder of a checkpoint, converted once; `named`: a name in `KNOWN` or a folder; "" to look.

    Raises:
        ModelError: the file is none that `read_original` reads, lacks a part that the folder lacks too, or its configuration is not known
            or does not fit.
    """
    original = read_original(file)
    family, marks = original.family, _marked(original)
    beside = [folder for folder in (file.with_suffix(""), file.parent) if (folder / "model_index.json").exists()]
    folder = None if named in KNOWN else Path(named) if named else next(iter(beside), None)
    source = str(folder or named or original.usual or _usual(file, original))
    kept = _configurations(folder) if folder else []
    index = read_config(folder / "model_index.json") if folder else KNOWN[source]["model_index"]
    if (kind := index.get("_class_name", "StableDiffusionPipeline")) != family.pipeline:
        raise ModelError(f"model={str(file)!r} is of a {family.pipeline}, {source!r} of a {kind}; name a configuration of the same kind")
    taken = [part for part in original.lacking if folder and find_weights(folder / part)]
    absent = [part for part in original.lacking if part not in taken]
    if lacking := [part for part in absent if part not in family.optional]:
        raise ModelError(
            f"model={str(file)!r} holds no {', '.join(lacking)}; give a complete checkpoint, or name a pipeline folder, or a hub id, "
            f'that has the rest: model="{file} as FOLDER"'
        )
    absent += [encoder.tokenizer for encoder in family.encoders if encoder.part in absent]
    if folder:
        kept += [path for part in taken for path in needed_weights(folder / part).files]
        description: Any = {path.relative_to(folder).as_posix(): sha256(path) for path in kept}
    else:  # diffusers' PNDM knows no trailing steps
        known = {part: settings for part, settings in KNOWN[source].items() if part not in absent}
        description = changed(known, {"scheduler": marks | ({"_class_name": "DDIMScheduler"} if marks else {})})
    with TemporaryDirectory() as place:
        _check(file, folder or write_configurations(Path(place) / "checked", description), original)

        def make(target: Path) -> None:
            tqdm.write(f"model={str(file)!r} becomes a pipeline folder in {target.parent}, with the configuration {source!r}")
            configuration = folder or write_known(Path(place) / "known", description)
            _read(file, configuration, original, [*absent, *taken]).save_pretrained(target, safe_serialization=True)
            for part in taken:
                copy_part(configuration / part, target / part)
            made = read_config(target / "model_index.json") | {part: index[part] for part in taken}
            (target / "model_index.json").write_text(json.dumps(made, indent=2) + "\n")

        return converted(file.stem, {"format": 2, "file": sha256(file), "configuration": description}, make)


def _usual(file: Path, original: Original) -> str:
    """Return the name of the usual configuration of Stable Diffusion 2.x, whose files look alike, whether they predict eps or v."""
    prediction = _marked(original).get("prediction_type") or original.said.get("modelspec.prediction_type")
    if not prediction:
        raise ModelError(
            f"model={str(file)!r} is of Stable Diffusion 2.x and does not say whether it predicts eps (at 512 pixels) or v (at 768); "
            f'give model="{file} as sd2-base" or model="{file} as sd2"'
        )
    return "sd2" if prediction == "v_prediction" else "sd2-base"


def _marked(original: Original) -> dict[str, Any]:
    """Return what a file says of its noise schedule: by its metadata (as sd-scripts writes them), or by tensors that only mark it."""
    if original.family.flow:
        return {}
    predicts_v = "v_pred" in original.found or original.said.get("modelspec.prediction_type") in ("v", "v_prediction")
    zero = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if "ztsnr" in original.found else {}
    return ({"prediction_type": "v_prediction"} if predicts_v else {}) | zero


def _configurations(folder: Path) -> list[Path]:
    if not (folder / "model_index.json").exists():
        raise ModelError(f"{str(folder)!r} has no model_index.json; give a folder of a pipeline's configurations, or {', '.join(KNOWN)}")
    found = [path for path in used_files(folder) if path.suffix != ".safetensors" and ".index." not in path.name]
    for path in (path for path in (folder / "model_index.json", *found) if path.suffix == ".json"):
        read_config(path)
    return [folder / "model_index.json", *found]


def _check(file: Path, configuration: Path, original: Original) -> None:
    try:
        check_fit(configuration, original)
    except Exception as error:  # diffusers raises many unrelated types
        said = error if isinstance(error, ModelError) else brief(error)
        raise ModelError(
            f"model={str(file)!r} does not fit its configuration ({said}); if that is not its own, put a folder with the right one, named "
            f'{file.stem!r}, beside the file, or name it: model="{file} as FOLDER"'
        ) from error


def _read(file: Path, configuration: Path, original: Original, without: list[str]) -> Any:
    """Return the pipeline that plain diffusers makes of a file, without some parts."""
    texts = {part for encoder in original.family.encoders for part in (encoder.part, encoder.tokenizer)}
    nothing: dict[str, Any] = dict.fromkeys([*without, *(part for part in original.family.optional if part not in texts)])
    if "safety_checker" in nothing:
        nothing["requires_safety_checker"] = False
    try:
        kind = getattr(diffusers, original.family.pipeline)
        pipeline = kind.from_single_file(str(file), config=str(configuration), local_files_only=True, dtype=original.dtype, **nothing)
    except Exception as error:  # diffusers raises many unrelated types
        raise ModelError(f"model={str(file)!r} cannot be read by diffusers ({brief(error)})") from error
    for part in original.parts:
        network = getattr(pipeline, part)
        if any(weight.is_meta for weight in network.parameters()):  # T5's second name of its embeddings, which files leave out
            network.set_input_embeddings(network.get_input_embeddings())
    return pipeline
