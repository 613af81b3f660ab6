"""The published scorers: whose weights, which files, where from, and how each is put together."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from selfimprove.scorers.blip import ImageRewardScorer, read_image_reward
from selfimprove.scorers.checkpoints import fetch, fill, read_state
from selfimprove.scorers.clip import AestheticScorer, ClipScorer, ClipTowers, processor_pixels, read_clip
from selfimprove.scorers.heads import published_head
from selfimprove.scorers.hps_package import HpsPackageScorer
from selfimprove.scorers.images import ScorerError, crop_square, fit_square, squares
from selfimprove.scorers.interface import BatchScorer, Scorer
from selfimprove.scorers.openclip import clean_text, read_hps

CLIP_L, CLIP_H, BERT = "openai/clip-vit-large-patch14", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "google-bert/bert-base-uncased"
HPS = "xswu/HPSv2"
MODEL_FILES = ("model.safetensors", "pytorch_model.bin")  # of a CLIPModel folder; the hub is asked for the first
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt", "vocab.txt")
PROCESSOR_FILE = "preprocessor_config.json"
SIZE = 224  # pixels, of every published network here


@dataclass(frozen=True)
class Published:
    """Where a scorer's files are. `file`: a checkpoint in the hub repository, empty for a CLIPModel folder; `beside`: the hub
    repository of tokenizer and processor (for `aesthetic`, of the CLIP) where they do not lie beside the checkpoint.
    """

    repository: str
    file: str
    beside: str
    page: str


PUBLISHED = {
    # text alignment, 100 * cosine
    "clip": Published(CLIP_L, "", CLIP_L, "https://github.com/openai/CLIP"),
    # about 20..22; its authors' README loads this model with the processor of CLIP_H
    "pickscore": Published("yuvalkirstain/PickScore_v1", "", CLIP_H, "https://github.com/yuvalkirstain/PickScore"),
    # cosines of about .2 to .3; the two versions are not comparable, says their README
    "hpsv2": Published(HPS, "HPS_v2_compressed.pt", CLIP_H, "https://github.com/tgxs002/HPSv2"),
    "hpsv2.1": Published(HPS, "HPS_v2.1_compressed.pt", CLIP_H, "https://github.com/tgxs002/HPSv2"),
    # v1.0, about -2..2
    "imagereward": Published("THUDM/ImageReward", "ImageReward.pt", BERT, "https://github.com/zai-org/ImageReward"),
    # LAION's predictor v2 (SAC + Logos + AVA1), about 1..10; its head lies in a git repository only
    "aesthetic": Published(
        "", "sac+logos+ava1-l14-linearMSE.pth", CLIP_L, "https://github.com/christophschuhmann/improved-aesthetic-predictor"
    ),
}


def load_published(specs: Sequence[str], device: torch.device, batch_size: int = 16) -> dict[str, Scorer]:
    """Scorers by bare name. Files are found (or downloaded) now, weights are read at first use.

    A spec is a name of `PUBLISHED`, or `name=path` with a checkpoint file or a folder. A folder that holds tokenizer (and
    processor, or CLIP) beside the checkpoint needs no connection. `hpsv2=package` and `hpsv2.1=package`: `HpsPackageScorer`.

    Raises:
        ScorerError: a name is not known, or a file cannot be had.
    """
    shared: dict[tuple[Path, Path], ClipTowers] = {}  # `clip` and `aesthetic` share one network
    scorers: dict[str, Scorer] = {}
    for spec in specs:
        name, _, given = spec.partition("=")
        if name not in PUBLISHED:
            raise ScorerError(f"scorers={[name]} are not known; choose from {list(PUBLISHED)}, each alone or with '=path/to/checkpoint'")
        scorers[name] = _load(name, given, device, batch_size, shared)
    return scorers


def _load(name: str, given: str, device: torch.device, batch_size: int, shared: dict[tuple[Path, Path], ClipTowers]) -> BatchScorer:
    source = PUBLISHED[name]
    if source.repository == HPS and given == "package":
        return HpsPackageScorer(name)
    weights = _weights(name, given)
    if given:
        version = f"{weights.name if source.file else weights.parent.name} (local)"
    else:
        version = "/".join(filter(None, (source.repository, source.file)))
    if name == "imagereward":
        tokenizer = _beside(name, weights, TOKENIZER_FILES, ("tokenizer.json", "vocab.txt"))
        return ImageRewardScorer(name, version, partial(read_image_reward, weights), tokenizer, device, batch_size)
    if name == "aesthetic":
        clip = _clip_weights(_beside(name, weights, ("config.json", MODEL_FILES[0], *TOKENIZER_FILES), ("config.json",)))
        towers = shared.setdefault((clip, clip.parent), ClipTowers(partial(read_clip, clip), clip.parent, device))
        cropped = partial(squares, fit=crop_square, size=SIZE)
        return AestheticScorer(name, version, towers, cropped, lambda: fill(published_head, read_state(weights), weights), batch_size)
    tokenizer = _beside(name, weights, TOKENIZER_FILES, ("tokenizer.json", "vocab.json"))
    if source.file:
        towers = ClipTowers(partial(read_hps, weights), tokenizer, device, clean_text)
        return ClipScorer(name, version, towers, partial(squares, fit=fit_square, size=SIZE), False, batch_size)
    towers = shared.setdefault((weights, tokenizer), ClipTowers(partial(read_clip, weights), tokenizer, device))
    pixels = processor_pixels(_beside(name, weights, (PROCESSOR_FILE,), (PROCESSOR_FILE,)))
    return ClipScorer(name, version, towers, pixels, True, batch_size)


def _weights(name: str, given: str) -> Path:
    """The checkpoint: what was given, or the published one."""
    source = PUBLISHED[name]
    if not given:
        if not source.repository:
            raise ScorerError(f"{name} is not on the model hub: download {source.file} from {source.page} and give '{name}=path/to/it'")
        wanted = (source.file,) if source.file else ("config.json", MODEL_FILES[0])
        return fetch(name, source.repository, wanted, wanted[-1]) / wanted[-1]
    path = Path(given).expanduser()
    others = {other.file for other in PUBLISHED.values()} - {source.file}
    if path.name in others:
        raise ScorerError(f"{name}={given!r} is another scorer's checkpoint; {name} needs {source.file or 'a CLIPModel folder'}")
    if path.is_dir():
        path = path / source.file if source.file else _clip_weights(path)
    if not path.is_file():
        raise ScorerError(f"{name}={given!r}: there is no file {str(path)!r}; get it from {source.page}")
    return path


def _clip_weights(folder: Path) -> Path:
    for file in MODEL_FILES:
        if (folder / "config.json").is_file() and (folder / file).is_file():
            return folder / file
    raise ScorerError(f"{str(folder)!r} is no CLIPModel folder: config.json and {' or '.join(MODEL_FILES)} are needed")


def _beside(name: str, weights: Path, wanted: Sequence[str], needed: Sequence[str]) -> Path:
    """The checkpoint's own folder if it holds one of the needed files, else the hub's."""
    if any((weights.parent / file).is_file() for file in needed):
        return weights.parent
    return fetch(name, PUBLISHED[name].beside, wanted, needed[0])
