"""Load the published scorers: whose weights they use, which files they need and where from, and how each is assembled."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from selfimprove.scorers.blip import ImageRewardScorer, read_image_reward
from selfimprove.scorers.checkpoints import fetch, fill, read_state
from selfimprove.scorers.clip import AestheticScorer, ClipScorer, ClipTowers, RewardHead, processor_pixels, published_head, read_clip
from selfimprove.scorers.hpsv3 import Hpsv3Scorer, read_hpsv3, read_words
from selfimprove.scorers.images import ScorerError, crop_square, fit_square, squares
from selfimprove.scorers.interface import BatchScorer, Scorer
from selfimprove.scorers.openclip import clean_text, read_hps

CLIP_L, CLIP_H, BERT = "openai/clip-vit-large-patch14", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "google-bert/bert-base-uncased"
HPS, QWEN = "xswu/HPSv2", "Qwen/Qwen2-VL-7B-Instruct"
MODEL_FILES = ("model.safetensors", "pytorch_model.bin")  # of a CLIPModel folder; from the hub only the first is downloaded
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt", "vocab.txt")
PROCESSOR_FILE = "preprocessor_config.json"
SIZE = 224  # pixels: input size of every published network here


Shared = dict[tuple[Path, Path], ClipTowers]  # networks that the scorers of one call share


@dataclass(frozen=True)
class Asked:
    """A scorer that was asked for: its name, version and checkpoint, its device and batch size, and the towers it may share."""

    name: str
    version: str
    weights: Path
    device: torch.device
    batch_size: int
    shared: Shared

    def towers(self, weights: Path, tokenizer: Path) -> ClipTowers:
        """Return the CLIP of these weights. Scorers of the same call share one instance."""
        return self.shared.setdefault((weights, tokenizer), ClipTowers(partial(read_clip, weights), tokenizer, self.device))

    def beside(self, wanted: Sequence[str], needed: Sequence[str]) -> Path:
        """Return the checkpoint's own folder if it holds one of the files `needed`, else a folder downloaded from the hub."""
        if any((self.weights.parent / file).is_file() for file in needed):
            return self.weights.parent
        return fetch(self.name, PUBLISHED_SCORERS[self.name].beside, wanted, needed[0])


def _clip(asked: Asked) -> BatchScorer:
    """Build a scorer from a CLIPModel folder with its own processor: text alignment or PickScore."""
    tokenizer = asked.beside(TOKENIZER_FILES, ("tokenizer.json", "vocab.json"))
    towers = asked.towers(asked.weights, tokenizer)
    pixels = processor_pixels(asked.beside((PROCESSOR_FILE,), (PROCESSOR_FILE,)))
    return ClipScorer(asked.name, asked.version, towers, pixels, True, asked.batch_size)


def _hps(asked: Asked) -> BatchScorer:
    """Build HPSv2 or HPSv2.1 from an open_clip checkpoint in transformers' classes."""
    tokenizer = asked.beside(TOKENIZER_FILES, ("tokenizer.json", "vocab.json"))
    towers = ClipTowers(partial(read_hps, asked.weights), tokenizer, asked.device, clean_text)
    return ClipScorer(asked.name, asked.version, towers, partial(squares, fit=fit_square, size=SIZE), False, asked.batch_size)


def _image_reward(asked: Asked) -> BatchScorer:
    tokenizer = asked.beside(TOKENIZER_FILES, ("tokenizer.json", "vocab.txt"))
    read = partial(read_image_reward, asked.weights)
    return ImageRewardScorer(asked.name, asked.version, read, tokenizer, asked.device, asked.batch_size)


def _hpsv3(asked: Asked) -> BatchScorer:
    tokenizer = asked.beside(TOKENIZER_FILES, ("tokenizer.json", "vocab.json"))
    read = partial(read_hpsv3, asked.weights, asked.device)
    return Hpsv3Scorer(asked.name, asked.version, read, read_words(asked.weights.parent), tokenizer, asked.device, asked.batch_size)


def _aesthetic(asked: Asked) -> BatchScorer:
    """Build the aesthetic scorer: a head on the embeddings of the CLIP beside it."""
    clip = _clip_weights(asked.beside(("config.json", MODEL_FILES[0], *TOKENIZER_FILES), ("config.json",)))
    cropped = partial(squares, fit=crop_square, size=SIZE)

    def read_head() -> RewardHead:
        return fill(published_head, read_state(asked.weights), asked.weights)

    return AestheticScorer(asked.name, asked.version, asked.towers(clip, clip.parent), cropped, read_head, asked.batch_size)


@dataclass(frozen=True)
class Published:
    """Where the files of a scorer are, and which function assembles it.

    `file` is a checkpoint in the hub repository; it is empty for a CLIPModel folder. `beside` is the hub repository of tokenizer and
    processor (for `aesthetic`, of the CLIP), used if they do not lie beside the checkpoint. `build` makes the scorer from an `Asked`.
    """

    repository: str
    file: str
    beside: str
    page: str
    build: Callable[[Asked], BatchScorer]


PUBLISHED_SCORERS = {
    # text alignment, 100 * cosine
    "clip": Published(CLIP_L, "", CLIP_L, "https://github.com/openai/CLIP", _clip),
    # about 20 to 22; the authors' README loads this model with the processor of CLIP_H
    "pickscore": Published("yuvalkirstain/PickScore_v1", "", CLIP_H, "https://github.com/yuvalkirstain/PickScore", _clip),
    # cosines of about 0.2 to 0.3; according to their README the two versions are not comparable
    "hpsv2": Published(HPS, "HPS_v2_compressed.pt", CLIP_H, "https://github.com/tgxs002/HPSv2", _hps),
    "hpsv2.1": Published(HPS, "HPS_v2.1_compressed.pt", CLIP_H, "https://github.com/tgxs002/HPSv2", _hps),
    # averages over models of about 0 to 11; a file of 17 GB
    "hpsv3": Published("MizzenAI/HPSv3", "HPSv3.safetensors", QWEN, "https://github.com/MizzenAI/HPSv3", _hpsv3),
    # v1.0, about -2 to 2
    "imagereward": Published("THUDM/ImageReward", "ImageReward.pt", BERT, "https://github.com/zai-org/ImageReward", _image_reward),
    # LAION's predictor v2 (SAC + Logos + AVA1), about 1 to 10; its head lies only in a git repository
    "aesthetic": Published(
        "",
        "sac+logos+ava1-l14-linearMSE.pth",
        CLIP_L,
        "https://github.com/christophschuhmann/improved-aesthetic-predictor",
        _aesthetic,
    ),
}


def load_published(specs: Sequence[str], device: torch.device, batch_size: int = 16) -> dict[str, Scorer]:
    """Return published scorers by bare name. Files are found or downloaded now; weights are loaded at first use.

    A spec is a name of `PUBLISHED_SCORERS`, or `name=path` with a checkpoint file or a folder. If the folder also holds the tokenizer (and
    the processor, or the CLIP), no connection is needed.

    Raises:
        ScorerError: a name is unknown, or a file cannot be found or downloaded.
    """
    shared: Shared = {}
    scorers: dict[str, Scorer] = {}
    for spec in specs:
        name, _, given = spec.partition("=")
        if name not in PUBLISHED_SCORERS:
            raise ScorerError(
                f"scorers={[name]} are not known; choose from {list(PUBLISHED_SCORERS)}, each alone or with '=path/to/checkpoint'"
            )
        source, weights = PUBLISHED_SCORERS[name], _weights(name, given)
        if given:
            version = f"{weights.name if source.file else weights.parent.name} (local)"
        else:
            version = "/".join(filter(None, (source.repository, source.file)))
        scorers[name] = source.build(Asked(name, version, weights, device, batch_size, shared))
    return scorers


def _weights(name: str, given: str) -> Path:
    """Return the checkpoint that was given, or the published one."""
    source = PUBLISHED_SCORERS[name]
    if not given:
        if not source.repository:
            raise ScorerError(f"{name} is not on the model hub: download {source.file} from {source.page} and give '{name}=path/to/it'")
        wanted = (source.file,) if source.file else ("config.json", MODEL_FILES[0])
        return fetch(name, source.repository, wanted, wanted[-1]) / wanted[-1]
    path = Path(given).expanduser()
    others = {other.file for other in PUBLISHED_SCORERS.values()} - {source.file}
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
