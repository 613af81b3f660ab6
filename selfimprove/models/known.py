"""Write the configurations and tokenizers of the published models, which single-file checkpoints leave out."""

import gzip
import json
import shutil
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from selfimprove.models.converted import cache_folder
from selfimprove.models.weights import ModelError

HERE = Path(__file__).parent
FILES = {"scheduler": "scheduler_config.json", **{f"tokenizer{n}": "tokenizer_config.json" for n in ("", "_2", "_3")}}
CLIP, VOCABULARY, MERGES = "openai/clip-vit-large-patch14", "bpe_simple_vocab_16e6.txt.gz", 48_894
PACKAGES = ("open_clip", "clip")  # both ship the vocabulary under the name that CLIP's authors gave it
T5, T5_FILE = "google-t5/t5-base", "t5_tokenizer.json"  # the pieces of every T5 for English; the file's name in the cache


def changed(configuration: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration, {part: settings}, in which some settings are replaced, and parts added."""
    return {part: {**configuration.get(part, {}), **changes.get(part, {})} for part in {**configuration, **changes}}


def _known() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, parts in json.loads((HERE / "known.json").read_text()).items():
        base = found.get(parts.pop("like", ""), {})
        found[name] = changed(base, parts)
    return found


# What the published folders say where it is not diffusers' default. In the file, some entries hold the changes to the one they are like.
KNOWN: dict[str, dict[str, Any]] = _known()


def write_configurations(folder: Path, configuration: dict[str, Any]) -> Path:
    """Write a pipeline folder without weights and vocabularies, and return it."""
    index: dict[str, Any] = dict(configuration["model_index"])
    for part, settings in ((part, settings) for part, settings in configuration.items() if part != "model_index"):
        (folder / part).mkdir(parents=True)
        (folder / part / FILES.get(part, "config.json")).write_text(json.dumps(settings, indent=2))
        own = settings.get("tokenizer_class") or next(iter(settings.get("architectures", [])), None)
        index[part] = ["transformers", own] if own else ["diffusers", settings["_class_name"]]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


def write_known(folder: Path, configuration: dict[str, Any]) -> Path:
    """Write a pipeline folder without weights, and return it.

    Raises:
        ModelError: a vocabulary is not to be had.
    """
    write_configurations(folder, configuration)
    for part, settings in configuration.items():
        if settings.get("tokenizer_class") == "CLIPTokenizer":
            _write_vocabulary(folder / part)
        elif "tokenizer_class" in settings:
            cached = cache_folder() / T5_FILE
            remedy = f"or put the tokenizer.json of {T5} into {cache_folder()} as {T5_FILE}"
            shutil.copyfile(cached if cached.is_file() else _from_hub(T5, "tokenizer.json", "T5", remedy), folder / part / "tokenizer.json")
    return folder


def _from_hub(repository: str, file: str, whose: str, remedy: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, file))
    except Exception as error:  # the hub client raises many unrelated types
        raise ModelError(
            f"a checkpoint holds no tokenizer, and {whose}'s vocabulary is not here ({type(error).__name__}): give a pipeline folder "
            f"beside it, {remedy}"
        ) from error


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
    remedy = f"install open_clip_torch, or put its {VOCABULARY} into {cache_folder()}"
    return _from_hub(CLIP, "merges.txt", "CLIP", remedy).read_text(encoding="utf-8").splitlines()[1 : MERGES + 1]


def _write_vocabulary(folder: Path) -> None:
    """Write CLIP's vocabulary: 256 bytes, the same at a word's end, one token per merge, and the two marks."""
    merges = _merges()
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(b) for b in printable] + [chr(256 + n) for n in range(256 - len(printable))]  # in the order of CLIP's own code
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(m.split()) for m in merges), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
