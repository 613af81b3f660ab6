"""Refuse what cannot be trained, or what plain diffusers would read otherwise, before anything expensive: each error names its file."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfimprove.models.families import FAMILIES
from selfimprove.models.family import Encoder, Family
from selfimprove.models.network import Conditioning, denoise
from selfimprove.models.weights import WEIGHTS, ModelError, brief, check_finite, check_pointer, needed_weights, read_config

UNUSED = ("text_projection", "vision_model", "visual_projection", "logit_scale")  # what CLIP files hold beside the text encoder
SD1_SIZE = 64  # the `sample_size` that diffusers assumes where its versions before 0.9 have written a smaller one
FLOW = "FlowMatchEulerDiscreteScheduler"
VOCABULARY = ({"tokenizer.json"}, {"vocab.json", "merges.txt"}, {"spiece.model"})  # of these files a tokenizer needs one set


def family_of(folder: Path) -> tuple[Family, dict[str, Any]]:
    """Return the family of a pipeline folder, and what its `model_index.json` says.

    Raises:
        ModelError: the file cannot be read, or the pipeline is of no known family.
    """
    index = read_config(folder / "model_index.json")
    kind = str(index.get("_class_name") or "StableDiffusionPipeline")
    if kind not in FAMILIES:
        raise ModelError(f"model={str(folder)!r} is a {kind}; pipelines that can be trained: {', '.join(FAMILIES)}")
    return FAMILIES[kind], index


def check_files(folder: Path) -> Family:
    """Return the family of a pipeline folder, if its files can be those of a model that is trained here; no network is built.

    Raises:
        ModelError: the pipeline is of no known family, a part is missing or of another class, a file is cut off, broken or a pointer, or
            weights are pickled or not finite.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        raise ModelError(f"model={str(folder)!r} is empty or no folder; give a diffusers pipeline folder, or a .safetensors checkpoint")
    if not (folder / "model_index.json").exists():
        has = ", ".join(sorted(path.name for path in folder.iterdir())[:3])
        raise ModelError(f"model={str(folder)!r} has no model_index.json, but {has}; give the folder that has it, or a .safetensors file")
    family, index = family_of(folder)
    for part, classes in _parts(family, index).items():
        if not (folder / part).is_dir():
            raise ModelError(f"model={str(folder)!r} has no {part}/ folder; give a complete pipeline")
        named = index.get(part)
        if not isinstance(named, list) or len(named) != 2 or not named[1]:
            raise ModelError(f"{str(folder / 'model_index.json')!r} names no class for {part}; give a complete pipeline")
        said = {folder / "model_index.json": named[1]}
        if part in WEIGHTS:
            said[folder / part / "config.json"] = read_config(folder / part / "config.json").get("_class_name", classes[0])
            check_finite(needed_weights(folder / part).files)
        for file, name in said.items():
            if classes and name not in classes:
                raise ModelError(f"{str(file)!r}: its {part} is a {name}; what can be trained has {' or '.join(classes)} there")
    return family


def _parts(family: Family, index: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return the parts that a pipeline must have, with their possible classes; () for any."""
    texts = family.given(index)
    networks = {family.part: (family.network,), "vae": ("AutoencoderKL",), **{e.part: (e.kind,) for e in texts}}
    return networks | {e.tokenizer: e.tokenizers for e in texts} | {"scheduler": ()}


def on_meta(kind: Any, folder: Path) -> Any:
    """Return the network of a part on the meta device: its configuration, names and shapes, but no weights."""
    config = read_config(folder / "config.json")
    try:
        with torch.device("meta"):
            return kind.from_config(config)
    except Exception as error:  # a configuration can be wrong in many ways
        raise ModelError(f"{str(folder / 'config.json')!r} makes no {kind.__name__} ({brief(error)})") from error


def check_weights(where: str, network: Any, found: dict[str, Tensor]) -> None:
    """Raise ModelError if tensors are missing, unknown to a network on the meta device, or of other shapes."""
    wanted = network.state_dict()
    network._fix_state_dict_keys_on_load(found)  # names of attention layers in files before diffusers 0.10
    sizes = {name: (tuple(found[name].shape), tuple(weight.shape)) for name, weight in wanted.items() if name in found}
    other = [f"{name} is of {there}, not {here}" for name, (there, here) in sizes.items() if there != here]
    check_names(where, wanted.keys() - found.keys(), found.keys() - wanted.keys(), other)


def check_names(where: str, lacking: Any, surplus: Any, other: Any = ()) -> None:
    """Raise ModelError, which names the first of them, if there are tensors that are missing, that nothing reads, or of other shapes."""
    for names, what in ((lacking, "lack"), (surplus, "hold, unknown to its config.json,"), (other, "do not fit its config.json:")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ModelError(f"{where}: its weights {what} {min(names)}{more}; give weights and config.json of one model")


def as_diffusers_reads(denoiser: Any, config: dict[str, Any]) -> Any:
    """Give a UNet the `sample_size` that StableDiffusionPipeline gives it: 64 if diffusers before 0.9 has written a smaller number."""
    size = denoiser.config.get("sample_size")
    if re.match(r"0\.[0-8]\b", str(config.get("_diffusers_version"))) and isinstance(size, int) and size < SD1_SIZE:
        denoiser.register_to_config(sample_size=SD1_SIZE)
    return denoiser


def check_sizes(folder: Path, family: Family, denoiser: Any, vae: Any) -> None:
    """Raise ModelError if denoiser and VAE differ in channels, the image size is not known, or a UNet is given the guidance."""
    where, channels, size = f"model={str(folder)!r}", family.channels(denoiser.config), denoiser.config.get("sample_size")
    if channels != vae.config.latent_channels:
        raise ModelError(
            f"{where}: its {family.called} takes {channels} channels, its VAE makes {vae.config.latent_channels} "
            "(an inpainting or otherwise conditioned model, or parts of two models); give a text-to-image model"
        )
    factor, asked = vae_factor(vae), size or family.default_size
    sides = [asked, asked] if isinstance(asked, int) else asked
    if not isinstance(sides, (list, tuple)) or len(sides) != 2 or not all(type(n) is int and n > 0 for n in sides):
        raise ModelError(
            f"{str(folder / family.part / 'config.json')!r}: sample_size={size!r} says no size of images; write the side in pixels, "
            f"divided by {factor}, there: {512 // factor} for images of 512 pixels"
        )
    if denoiser.config.get("time_cond_proj_dim") is not None:
        raise ModelError(f"{where}: its UNet wants the guidance as an input (time_cond_proj_dim), as distilled ones do; give another model")


def check_text(folder: Path, encoder: Encoder, network: Any, tokenizer: Any) -> None:
    """Raise ModelError if a tokenizer does not fit its text encoder: it makes more tokens than the encoder takes, or unknown ones."""
    limit, positions, rows = tokenizer.model_max_length, getattr(network.config, "max_position_embeddings", None), network.config.vocab_size
    if positions and limit > positions:
        said = "does not say model_max_length" if limit > 1e9 else f"says model_max_length={limit}"
        file = str(folder / encoder.tokenizer / "tokenizer_config.json")
        raise ModelError(f'{file!r} {said}, and the text encoder takes {positions} tokens; write "model_max_length": {positions} there')
    if (largest := max(tokenizer.get_vocab().values())) >= rows:
        raise ModelError(
            f"model={str(folder)!r}: its {encoder.tokenizer} has tokens up to number {largest}, its text encoder has {rows}; "
            "give parts of one model"
        )


def check_networks(folder: Path, family: Family, denoiser: Any, vae: Any, given: Conditioning) -> None:
    """Raise if the parts do not work together. Denoiser and VAE, on the meta device, are called once with what a run gives them.

    Raises:
        ModelError: the denoiser wants other inputs than (x_t, t, `given`), or does not return what it takes.
    """
    where, factor, size = f"model={str(folder)!r}", vae_factor(vae), family.latent_size(denoiser.config)
    noisy = torch.empty(1, family.channels(denoiser.config), *size, device="meta")
    try:
        with torch.no_grad():
            drawn = denoise(denoiser, noisy, torch.ones(1, device="meta"), given.to(torch.device("meta")))
            image = vae.decode(drawn).sample
    except Exception as error:  # each network has its own way to miss an input
        words = " and ".join(f"{name} ({' x '.join(map(str, tensor.shape[1:])) or 1})" for name, tensor in given.tensors.items())
        raise ModelError(
            f"{where}: its {family.called} and VAE cannot be called with a noisy latent, a time and the {words} alone ({brief(error)}); "
            f"give a text-to-image model of the kind of a {family.pipeline}"
        ) from error
    if drawn.shape != noisy.shape or image.shape[2:] != (size[0] * factor, size[1] * factor):
        said = f"from {tuple(noisy.shape)} its {family.called} makes {tuple(drawn.shape)} and its VAE {tuple(image.shape)}"
        raise ModelError(f"{where}: {said}; give a model whose {family.called} returns what it takes")


def vae_factor(vae: Any) -> int:
    """Return how many pixels of a side a VAE turns into one."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def load_tokenizer(part: Path, kind: str) -> Any:
    """Load the tokenizer in a folder, of a class of transformers; ModelError if its vocabulary is missing, or a file is broken."""
    there = {path.name for path in part.iterdir()}
    if not any(files <= there for files in VOCABULARY):
        raise ModelError(f"model part {str(part)!r} has neither tokenizer.json nor vocab.json and merges.txt; give a complete pipeline")
    for path in sorted(part.iterdir()):
        if path.suffix == ".json":
            read_config(path)
        elif path.suffix == ".txt":
            check_pointer(path)
    import transformers  # see `samplers`

    try:
        return getattr(transformers, kind).from_pretrained(part)
    except Exception as error:  # the loader raises many unrelated types
        raise ModelError(f"model part {str(part)!r} cannot be loaded ({brief(error)})") from error


def load_scheduler(folder: Path, family: Family) -> Any:
    """Return the scheduler of a flow as it is, or DDIM on the model's betas, as StableDiffusionPipeline reads them.

    That is, latents are not clipped, and `steps_offset` is 1.

    Raises:
        ModelError: there is no file, or it is of the other kind than the family; it names no `beta_schedule`, another class would make
            another schedule of it, or it asks for what latents cannot have (dynamic thresholding) or for a prediction that is neither eps
            nor v.
    """
    file = folder / "scheduler" / "scheduler_config.json"
    config = read_config(file)
    import diffusers  # see `samplers`

    if family.flow:
        if config.get("_class_name") != FLOW:
            raise ModelError(f"{str(file)!r} is of a {config.get('_class_name')}; a {family.pipeline} is trained on a {FLOW}")
        return diffusers.FlowMatchEulerDiscreteScheduler.from_config(config)
    if "beta_schedule" not in config:  # DDIM would accept the file, with a schedule that the model never saw
        raise ModelError(
            f"model={str(folder)!r} has a scheduler without beta_schedule, {config.get('_class_name')!r} (of a flow-matching model?); "
            "give a model that denoises by betas, as Stable Diffusion 1.x and 2.x do"
        )
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise ModelError(f"model={str(folder)!r} predicts {prediction!r}; only models of epsilon or v_prediction can be trained")
    if config.get("thresholding"):
        raise ModelError(f'{str(file)!r} asks for dynamic thresholding, which is for pixels, not for latents; write "thresholding": false')
    named = getattr(diffusers, str(config.get("_class_name")), diffusers.DDIMScheduler)
    try:
        scheduler = diffusers.DDIMScheduler.from_config(config, clip_sample=False, steps_offset=1)
        own = getattr(named.from_config(config), "alphas_cumprod", scheduler.alphas_cumprod)
    except Exception as error:  # NotImplementedError: a beta_schedule that diffusers does not know
        raise ModelError(f"model={str(folder)!r}: its scheduler cannot be used: {error}") from error
    if own.shape != scheduler.alphas_cumprod.shape or not torch.allclose(own, scheduler.alphas_cumprod, rtol=0, atol=1e-6):
        remedy = "save it again by scheduler.save_pretrained, which writes all values"
        raise ModelError(f"{str(file)!r}: {named.__name__} makes another noise schedule of it than DDIM, of values left out; {remedy}")
    return scheduler
