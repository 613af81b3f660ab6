"""Load image-text sets: the winners of the shapes world, a folder in the Hugging Face imagefolder convention, or Pick-a-Pic."""

import csv
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor
from tqdm.auto import tqdm

from selfimprove.data.pairs import LEAST, DataError, Shards, kept_out
from selfimprove.data.streaming import streamed
from selfimprove.draws import EVALUATION_SEED, example_id, key_hash
from selfimprove.scorers import SHAPES_SCORERS
from selfimprove.scorers.images import to_rgb
from selfimprove.shapes.captions import Caption, caption
from selfimprove.shapes.image_sets import HELD_IN_SCENES, base_set, losers, winners
from selfimprove.shapes.render import Drawing, render

STREAMS = {"test": "evaluation", "validation": "validation"}  # part -> stream that phrases the shapes world's prompts


@dataclass(frozen=True)
class ImageText:
    """A set of captioned images. `fetch(i)` returns image i, (3, H, W) in [0, 1]. No training reads the rows in `validation`.

    `evaluation` holds one (prompt, image index) per evaluation image. Its prompts come from one of the two parts kept out of training.
    `scenes` holds what each evaluation prompt says; it is None unless the truth about a prompt is known, as in the shapes world.
    """

    name: str
    captions: list[str]
    ids: list[str]
    fetch: Callable[[int], Tensor] = field(repr=False)
    train: list[int]
    validation: list[int]
    evaluation: list[tuple[str, int]]
    fingerprint: str
    skipped: list[str] = field(default_factory=list)
    scenes: list[Caption] | None = None
    scorers: tuple[str, ...] = ()  # names of learned scorers for this kind of image (see `scorers.load_scorers`)
    fetch_fresh: Callable[[int], Tensor] | None = field(default=None, repr=False)  # returns another real image of caption i
    fetch_loser: Callable[[int], Tensor] | None = field(default=None, repr=False)  # returns the loser of labelled pair i

    def images(self, rows: Sequence[int]) -> Float[Tensor, "b 3 h w"]:
        """Return the images of the given rows, stacked."""
        return torch.stack([self.fetch(i) for i in rows])

    def judged_on(self, prompts: Sequence[str], scenes: Sequence[Caption] | None, copies: int) -> "ImageText":
        """Return the same images with other evaluation prompts, `copies` images of each. Without `scenes` the result names no scorers."""
        repeated = None if scenes is None else [*scenes] * copies
        return replace(self, evaluation=indexed([*prompts] * copies), scenes=repeated, scorers=self.scorers if scenes else ())

    def evaluation_ids(self) -> list[str]:
        """Return the identity of every evaluation image (see `draws.example_id`)."""
        return [example_id(prompt, index) for prompt, index in self.evaluation]


def load_data(
    data: str, samples: int, validation: int, evaluation: int, image_size: tuple[int, int], seed: int, part: str = "test"
) -> ImageText:
    """Load `samples` training and `validation` further images with captions, and `evaluation` prompts of the test or validation `part`.

    For a folder or pairs, the parts train, validation and test share no caption. Validation and test together hold at most a tenth of the
    captions, but at least one each. Neither `seed` nor `part` changes the split; `seed` chooses the training images among the rest.

    `data` is "shapes" (the winners), "shapes-base" (the training set of the embedded model), a folder of images with `metadata.jsonl` or
    `metadata.csv` (columns `file_name` and `text`), or pairs in Pick-a-Pic's schema, whose preferred images are the real ones. Pairs are
    given as a parquet shard, a folder of shards, or the id owner/name of a data set on the hub, which is streamed as far as needed.
    A folder with fewer than three different captions is split by image.

    Raises:
        DataError: see `_read_metadata`, `pairs.Shards` and `streaming.streamed`; also if no image can be read, there are too few captions
            or images to split, or `part` is unknown.
    """
    if part not in STREAMS:
        raise DataError(f"evaluation_part={part!r} is not known; choose one of {list(STREAMS)}")
    if not data:
        raise DataError("data='' names nothing; give 'shapes' or a folder of images with metadata.jsonl")
    if data in ("shapes", "shapes-base"):
        return _shapes(data, samples, validation, evaluation, seed, part)
    path = Path(data).expanduser()
    if path.suffix == ".parquet" or (path.is_dir() and any(path.glob("*.parquet"))):
        return _pairs(path.name, Shards(data), samples, validation, evaluation, image_size, seed, part)
    if not path.exists() and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", data):
        return _pairs(data, _first_pairs(data, samples, validation, evaluation), samples, validation, evaluation, image_size, seed, part)
    return _folder(path, samples, validation, evaluation, image_size, seed, part)


def no_images() -> ImageText:
    """Return a set without images and evaluation prompts, for systems that need no real images."""

    def fetch(row: int) -> Tensor:
        raise DataError("no images were given; name a folder of images in data")

    return ImageText("no images", [], [], fetch, [], [], [], "no images")


def shapes_prompts(count: int, scenes: Tensor = HELD_IN_SCENES, stream: str = "evaluation") -> list[Caption]:
    """Return `count` full captions of the scenes, taken in turn, in the grammar's many phrasings. They do not depend on the training seed.

    Another `stream` phrases the same scenes anew: of 256 prompts, only two agree between "evaluation" and "validation".
    """
    order = sorted(range(len(scenes)), key=lambda i: key_hash(EVALUATION_SEED, stream, i))
    rows = [scenes[order[i % len(order)]].tolist() for i in range(count)]
    return [caption(tuple(s), EVALUATION_SEED, stream, i, kinds={"full": 1.0}) for i, s in enumerate(rows)]


def indexed(prompts: Sequence[str]) -> list[tuple[str, int]]:
    """Return each prompt with the number of its earlier occurrences, which is the index of the image wanted for it."""
    seen: dict[str, int] = {}
    indexed = []
    for prompt in prompts:
        indexed.append((prompt, seen.get(prompt, 0)))
        seen[prompt] = seen.get(prompt, 0) + 1
    return indexed


def _shapes(name: str, samples: int, validation: int, evaluation: int, seed: int, part: str) -> ImageText:
    count = samples + validation
    captions, drawn = winners(count, seed) if name == "shapes" else base_set(count, seed)
    again = winners(count, seed, copy=1).drawing if name == "shapes" else None
    lost = losers(count, seed).drawing if name == "shapes" else None

    def picture(drawn: Drawing, row: int) -> Tensor:
        return render(Drawing(*(part[row : row + 1] for part in drawn)))[0][0]

    texts = [c.text for c in captions]
    prompts = shapes_prompts(evaluation, stream=STREAMS[part])
    return ImageText(
        name=name,
        captions=texts,
        ids=[example_id(*pair) for pair in indexed(texts)],
        fetch=partial(picture, drawn),
        fetch_fresh=partial(picture, again) if again else None,
        fetch_loser=partial(picture, lost) if lost else None,
        train=list(range(samples)),
        validation=list(range(samples, samples + validation)),
        evaluation=indexed([p.text for p in prompts]),
        fingerprint=f"{'shapes winners' if name == 'shapes' else name} {samples}+{validation}",
        scenes=prompts,
        scorers=SHAPES_SCORERS,
    )


def _read_metadata(folder: Path) -> list[tuple[Path, str]]:
    """Return (image file, caption) of every row.

    Raises:
        DataError: the folder is missing or empty, has no metadata file, or has a row without a file name, a caption or an existing file.
    """
    if not folder.is_dir():
        raise DataError(f"data={str(folder)!r}: there is no such folder; give 'shapes' or a folder of images")
    if not any(folder.iterdir()):
        raise DataError(f"data={str(folder)!r} is empty; put images and a metadata.jsonl into it")
    files = [folder / name for name in ("metadata.jsonl", "metadata.csv") if (folder / name).exists()]
    if not files:
        raise DataError(
            f"data={str(folder)!r} has no metadata.jsonl or metadata.csv; "
            'write one row an image, such as {"file_name": "cat.png", "text": "a cat"}'
        )
    if files[0].suffix == ".csv":
        with files[0].open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    else:
        lines = files[0].read_text(encoding="utf-8").split("\n")  # unlike splitlines, keeps other line breaks inside a caption
        try:
            rows = [json.loads(line) for line in lines if line.strip()]
        except json.JSONDecodeError as error:
            raise DataError(f"{files[0].name} holds a line that is no JSON ({error}); write one object a line") from error
    if not rows:
        raise DataError(f"{files[0].name} has no rows; write one row an image")
    entries = []
    for number, row in enumerate(rows, start=1):
        name, text = row.get("file_name"), row.get("text")
        if not name or not isinstance(text, str):
            raise DataError(f"{files[0].name} row {number} lacks file_name or text; both columns are needed")
        if not text.strip():
            raise DataError(f"{files[0].name} row {number} ({name}) has an empty caption; write one or remove the row")
        if not (folder / name).is_file():
            raise DataError(f"{files[0].name} row {number} names {name!r}, which is not in the folder; add it or remove the row")
        entries.append((folder / name, text.strip()))
    return entries


def open_image(path: Path, size: tuple[int, int]) -> Float[Tensor, "3 h w"]:
    """Read an image file and fit it to `size` (see `fitted`).

    Raises:
        OSError: the file cannot be read as an image.
    """
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
        image.load()
    return fitted(image, size)


def fitted(image: Image.Image, size: tuple[int, int]) -> Float[Tensor, "3 h w"]:
    """Convert an image of any size and mode to RGB in [0, 1]: scaled to cover `size` (height, width), centre-cropped, alpha on white.

    Raises:
        ScorerError: the image has mode F, whose range is unknown.
    """
    if image.mode.startswith(("I", "F")):  # 16 bits or more: PIL would clip the values at 255
        image = to_rgb(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = ImageOps.fit(image.convert("RGB"), (size[1], size[0]), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255


def _folder(folder: Path, samples: int, validation: int, evaluation: int, image_size: tuple[int, int], seed: int, part: str) -> ImageText:
    entries = _read_metadata(folder)
    digest = hashlib.sha256(b"train, validation, test\0")  # another kind of split would be other data
    paths, captions, skipped = [], [], []
    for path, text in tqdm(entries, desc="reading images", leave=False):
        digest.update(f"{path.relative_to(folder)}\0{text}\0".encode())
        digest.update(path.read_bytes())
        try:
            open_image(path, image_size)
        except (OSError, ValueError, SyntaxError):  # raised by PIL for broken files
            skipped.append(path.relative_to(folder).as_posix())
            continue
        paths.append(path)
        captions.append(text)
    ids = [example_id(*pair) for pair in indexed(captions)]
    keys = captions if len(set(captions)) >= LEAST else ids
    parts = kept_out(keys, validation, evaluation, f"data={str(folder)!r}: {len(paths)} of {len(entries)} images can be read")
    held_out = {key: place for place, key in enumerate(parts.validation)}
    trainable, judging = set(keys).difference(*parts), getattr(parts, part)
    said = dict(zip(keys, captions, strict=True))
    return ImageText(
        name=folder.name,
        captions=captions,
        ids=ids,
        fetch=lambda i: open_image(paths[i], image_size),
        train=sorted((i for i, k in enumerate(keys) if k in trainable), key=lambda i: key_hash(seed, "chosen", ids[i]))[:samples],
        validation=sorted((i for i, k in enumerate(keys) if k in held_out), key=lambda i: held_out[keys[i]])[:validation],
        evaluation=indexed([said[judging[i % len(judging)]] for i in range(evaluation)]),
        fingerprint=digest.hexdigest(),
        skipped=skipped,
    )


def _first_pairs(source: str, samples: int, validation: int, evaluation: int) -> Shards:
    """Return the first pairs of a hub data set that leave `samples` pairs for training after the split; all pairs if there are too few."""
    count = samples + validation + evaluation
    while True:
        shards = Shards(streamed(source, count), count)
        captions = [row.prompt for row in shards.rows]
        short = count  # too few prompts to split: double the count
        if len(set(captions)) >= LEAST:
            away = set[str]().union(*kept_out(captions, validation, evaluation, source))
            short = samples - sum(caption not in away for caption in captions)
        if short <= 0 or len(captions) < count:
            return shards
        count += short


def _pairs(
    name: str, shards: Shards, samples: int, validation: int, evaluation: int, image_size: tuple[int, int], seed: int, part: str
) -> ImageText:
    """Build the set from pairs: winners are the real images, losers the images they were preferred to. A prompt is in one part only."""
    captions = [row.prompt for row in shards.rows]
    found = f"data={name!r} has {len(set(captions))} prompts with a preference ({shards.dropped})"
    parts = kept_out(captions, validation, evaluation, found)
    trainable, judging = set(captions).difference(*parts), getattr(parts, part)
    ids = [example_id(*pair) for pair in indexed(captions)]
    first_of = {caption: i for i, caption in reversed(list(enumerate(captions)))}
    rows = [i for i, caption in enumerate(captions) if caption in trainable]
    chosen = sorted(sorted(rows, key=lambda i: key_hash(seed, "chosen", ids[i]))[:samples])  # in shard order, to read each shard once

    def side(row: int, won: bool) -> Tensor:
        pair = shards.rows[row]
        return fitted(shards.image(pair, pair.first_wins == won), image_size)

    return ImageText(
        name=name,
        captions=captions,
        ids=ids,
        fetch=lambda i: side(i, True),
        fetch_loser=lambda i: side(i, False),
        train=chosen,
        validation=[first_of[p] for p in parts.validation[:validation]],
        evaluation=indexed([judging[i % len(judging)] for i in range(evaluation)]),
        fingerprint=shards.fingerprint(),
        skipped=[str(shards.dropped)] if shards.dropped else [],
    )
