"""Recognise single files in the names of the original code: their family, the parts they hold, and whether these fit a configuration."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import torch
import transformers
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint, infer_diffusers_model_type
from torch import Tensor

from selfimprove.models.checks import check_names, check_weights, on_meta
from selfimprove.models.families import FAMILIES
from selfimprove.models.family import Family
from selfimprove.models.weights import PICKLED, ModelError, brief, opened, read_config, shapes

DENOISER, VAE = "model.diffusion_model.", ("first_stage_model.", "vae.")
CLIP_L, CLIP_G, T5 = (f"text_encoders.{name}.transformer." for name in ("clip_l", "clip_g", "t5xxl"))
OPEN_CLIP = ("cond_stage_model.model.", "conditioner.embedders.1.model.")  # text encoders in the names of open_clip
PREFIXES: dict[str, dict[str, tuple[str, ...]]] = {  # pipeline -> part with weights -> how the names of its tensors may begin
    "StableDiffusionPipeline": {"unet": (DENOISER,), "vae": VAE, "text_encoder": ("cond_stage_model.transformer.", OPEN_CLIP[0])},
    "StableDiffusionXLPipeline": {
        "unet": (DENOISER,), "vae": VAE, "text_encoder": ("conditioner.embedders.0.transformer.",), "text_encoder_2": (OPEN_CLIP[1],),
    },
    "StableDiffusion3Pipeline": {
        "transformer": (DENOISER, ""), "vae": VAE, "text_encoder": (CLIP_L,), "text_encoder_2": (CLIP_G,), "text_encoder_3": (T5,),
    },
    "FluxPipeline": {"transformer": (DENOISER, ""), "vae": VAE, "text_encoder": (CLIP_L,), "text_encoder_2": (T5,)},
}  # fmt: skip
MARKS = {  # how the names of a denoiser's tensors begin, in no family before it -> pipeline
    "joint_blocks": "StableDiffusion3Pipeline", "double_blocks": "FluxPipeline", "label_emb": "StableDiffusionXLPipeline",
    "input_blocks": "StableDiffusionPipeline",
}  # fmt: skip
KINDS = ("v1", "v2", "xl_base", "sd3", "sd35_medium", "sd35_large", "flux-dev", "flux-schnell")  # diffusers' names of what is read
READ = "single files of Stable Diffusion 1.x, 2.x, XL, 3, 3.5 and FLUX.1 can be read, or a pipeline folder"
HALF = "give the file of the same model in half precision"
REFUSED = (  # names that only such files have, what these are, and the remedy
    (r"^lora_|\.lora", "is a LoRA, no model", 'add it to one: model="path/to/model + {file}"'),
    (r"^control(net)?_", "is a ControlNet, no model", "give a text-to-image model"),
    (r"scaled_fp8$|\.(scale_weight|scale_input|weight_scale|input_scale|absmax|quant_map|comfy_quant)\b|quant_state", "is quantised", HALF),
)
DIFFUSERS = re.compile(r"(^|\.)((single_)?transformer_blocks|down_blocks|up_blocks)\.\d")
NARROW, WIDE = ("F8_E4M3", "F8_E5M2", "I64"), ("F16", "BF16", "F32", "F64")  # types of which half precision loses nothing; all others


class Original(NamedTuple):
    """What a single file is: its family, the name of its usual configuration, its metadata, and the tensors, without data, of each part.

    `usual`: "" for Stable Diffusion 2.x, whose two kinds look alike. `prefixes`: how the names of a part's tensors begin. `dtype`: the
    smallest of float16, bfloat16 and float32 in which the weights lose nothing.
    """

    family: Family
    usual: str
    found: dict[str, Tensor]
    parts: dict[str, dict[str, Tensor]]
    prefixes: dict[str, str]
    said: dict[str, str]
    dtype: torch.dtype

    @property
    def lacking(self) -> list[str]:
        """Return the parts with weights that a pipeline of the family may have, and the file has not."""
        return [part for part in PREFIXES[self.family.pipeline] if part not in self.parts]


def read_original(file: Path) -> Original:
    """Return what a single file is. Only its header is read.

    Raises:
        ModelError: the file is pickled, cut off, quantised, in the names of diffusers, or no model of a known family.
    """
    if file.suffix in PICKLED:
        raise ModelError(
            f"model={str(file)!r} is pickled, and can run code when loaded; convert it to safetensors where you trust it, or get the "
            ".safetensors file that most publishers give beside it"
        )
    if file.suffix == ".gguf":
        raise ModelError(f"model={str(file)!r} is quantised; {HALF}, as .safetensors")
    with opened(file) as weights:
        types = {name: weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118 - safe_open is no mapping
        said = weights.metadata() or {}
    return recognise(file, shapes([file]), types, said)


def recognise(file: Path, found: dict[str, Tensor], types: dict[str, str], said: dict[str, str]) -> Original:
    """Return what a file of tensors of such names, shapes and safetensors types is; for errors see `read_original`."""
    for names, what, remedy in REFUSED:
        if any(re.search(names, name) for name in found):
            raise ModelError(f"model={str(file)!r} {what}; {remedy.format(file=file)}")
    try:
        kind = infer_diffusers_model_type(found)
    except (KeyError, UnboundLocalError):  # a tensor is lacking or of a shape that diffusers does not know, which `check_fit` names
        kind = "v1"
    if kind not in KINDS:
        raise ModelError(f"model={str(file)!r} is of the kind {kind!r}; {READ}")
    cores = {name.removeprefix(DENOISER).partition(".")[0] for name in found}
    if any(name.startswith("cond_stage_model.") for name in found):
        cores.discard("label_emb")  # a class embedding of Stable Diffusion 1.x and 2.x, not XL's of sizes
    if not cores & MARKS.keys():
        named = next(filter(DIFFUSERS.search, found), "")
        what = f"has a name of diffusers ({named!r}), as files in a pipeline folder have; give that folder"
        nothing = f"is no checkpoint (its first tensor is {min(found, default='')!r}); {READ}"
        raise ModelError(f"model={str(file)!r} {what if named else nothing}")
    if odd := [f"{name} is of {t}" for name, t in types.items() if t not in NARROW + WIDE and found[name].ndim > 1]:
        raise ModelError(f"model={str(file)!r} is quantised ({odd[0]}); {HALF}")
    pipeline = next(MARKS[mark] for mark in MARKS if mark in cores)
    held = {part: [p for p in ps if any(name.startswith(p) for name in found)][:1] for part, ps in PREFIXES[pipeline].items()}
    prefixes = {part: there[0] for part, there in held.items() if there}
    parts = {part: {name: weight for name, weight in found.items() if name.startswith(p)} for part, p in prefixes.items()}
    wide = {types[name] for tensors in parts.values() for name in tensors if types[name] in WIDE}
    dtype = torch.float16 if wide == {"F16"} else torch.bfloat16 if wide <= {"BF16"} else torch.float32
    return Original(FAMILIES[pipeline], _usual(pipeline, kind, found), found, parts, prefixes, said, dtype)


def _usual(pipeline: str, kind: str, found: dict[str, Tensor]) -> str:
    if pipeline == "StableDiffusionPipeline":
        return "sd1" if kind != "v2" else ""
    marks = {mark: any(mark in name for name in found) for mark in (".attn2.", ".ln_q.", "guidance_in.")}
    if pipeline == "StableDiffusion3Pipeline":
        return "sd35-medium" if marks[".attn2."] else "sd35-large" if marks[".ln_q."] else "sd3"
    return "sdxl" if pipeline == "StableDiffusionXLPipeline" else "flux-dev" if marks["guidance_in."] else "flux-schnell"


def check_fit(configuration: Path, original: Original) -> None:
    """Raise ModelError if a part of a file is not that of a folder of configurations. Names are translated by diffusers' conversions."""
    family, kinds = original.family, {e.part: e.kind for e in original.family.encoders}
    for part, own in original.parts.items():
        if part in kinds:
            _check_text(part, getattr(transformers, kinds[part]), configuration / part, original.prefixes[part], own)
            continue
        kind = getattr(diffusers, family.network if part == family.part else "AutoencoderKL")
        network, config, rest = on_meta(kind, configuration / part), read_config(configuration / part / "config.json"), dict(own)
        try:
            tensors = SINGLE_FILE_LOADABLE_CLASSES[kind.__name__]["checkpoint_mapping_fn"](checkpoint=rest, config=config)
        except KeyError as error:  # a tensor that diffusers asks for
            raise ModelError(f"{part}: its weights lack {error.args[0]}; give weights and config.json of one model") from error
        check_weights(part, network, tensors)
        if part == "transformer":  # these conversions take out what they use
            check_names(part, (), rest)
        elif len(own) != len(tensors):
            check_names(part, (), [f"{len(own)} tensors, not {len(tensors)}"])


def _check_text(part: str, kind: Any, configuration: Path, prefix: str, own: dict[str, Tensor]) -> None:
    """Raise ModelError if a text encoder lacks tensors or has them in other shapes; what else such files hold is not read."""
    try:
        with torch.device("meta"):
            network = kind(kind.config_class.from_pretrained(configuration))
    except Exception as error:  # a configuration can be wrong in many ways
        raise ModelError(f"{str(configuration / 'config.json')!r} makes no {kind.__name__} ({brief(error)})") from error
    stripped = {name.removeprefix(prefix): weight for name, weight in own.items()}
    tensors = convert_open_clip_checkpoint(network, own, prefix) if prefix in OPEN_CLIP else stripped
    if not hasattr(network, "text_model"):
        tensors = {name.removeprefix("text_model."): weight for name, weight in tensors.items()}
    given = {"encoder.embed_tokens.weight"} | ({"text_projection.weight"} if prefix == CLIP_L else set())  # `shared`; diffusers' identity
    wanted = {name: tuple(weight.shape) for name, weight in network.named_parameters() if name not in given}
    other = [f"{n} is of {tuple(tensors[n].shape)}, not {s}" for n, s in wanted.items() if n in tensors and tuple(tensors[n].shape) != s]
    check_names(part, wanted.keys() - tensors.keys(), (), other)
