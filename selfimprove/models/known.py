"""Write the configurations and the tokenizer of Stable Diffusion 1.x and 2.x, which single-file checkpoints leave out."""

import gzip
import json
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from selfimprove.models.converted import cache_folder
from selfimprove.models.weights import ModelError

HERE = Path(__file__).parent
FILES = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}
CLIP, VOCABULARY, MERGES = "openai/clip-vit-large-patch14", "bpe_simple_vocab_16e6.txt.gz", 48_894
PACKAGES = ("open_clip", "clip")  # both ship the vocabulary under the name that CLIP's authors gave it
CLASSES = {"tokenizer": "CLIPTokenizer", "text_encoder": "CLIPTextModel"}


def changed(configuration: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration, {part: settings}, in which some settings are replaced."""
    return {part: {**settings, **changes.get(part, {})} for part, settings in configuration.items()}


# What the published folders say where it is not diffusers' default; the file holds sd1's, and the changes of the others.
KNOWN: dict[str, dict[str, Any]] = json.loads((HERE / "known.json").read_text())
KNOWN |= {name: changed(KNOWN["sd1"], changes) for name, changes in KNOWN.items()}


def write_known(folder: Path, configuration: dict[str, Any]) -> Path:
    """Write a pipeline folder without weights, and return it."""
    index: dict[str, Any] = {"_class_name": "StableDiffusionPipeline"}
    for part, settings in configuration.items():
        (folder / part).mkdir(parents=True)
        (folder / part / FILES.get(part, "config.json")).write_text(json.dumps(settings, indent=2))
        index[part] = ["transformers", CLASSES[part]] if part in CLASSES else ["diffusers", settings["_class_name"]]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    _write_vocabulary(folder / "tokenizer")
    return folder


def _merges() -> list[str]:
    """Return CLIP's 48,894 merges: from `SELFIMPROVE_CACHE`, from an installed package that ships them, or from the hub.

    Raises:
        ModelError: none of these has them.
    """
    places = [cache_folder() / VOCABULARY]
    for package in PACKAGES:
        with suppress(ImportError, ValueError):
            spec = find_spec(package)
            places += [Path(folder) / VOCABULARY for folder in (spec.submodule_search_locations or [] if spec else [])]
    for place in places:
        if place.is_file():
            return gzip.decompress(place.read_bytes()).decode().splitlines()[1 : MERGES + 1]
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(CLIP, "merges.txt")).read_text(encoding="utf-8").splitlines()[1 : MERGES + 1]
    except Exception as error:  # the hub client raises many unrelated types
        raise ModelError(
            f"a checkpoint holds no tokenizer, and CLIP's vocabulary is not here ({type(error).__name__}): give a pipeline folder beside "
            f"it, install open_clip_torch, or put its {VOCABULARY} into {cache_folder()}"
        ) from error


def _write_vocabulary(folder: Path) -> None:
    """Write CLIP's vocabulary: 256 bytes, the same at a word's end, one token per merge, and the two marks."""
    merges = _merges()
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(b) for b in printable] + [chr(256 + n) for n in range(256 - len(printable))]  # in the order of CLIP's own code
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(m.split()) for m in merges), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
