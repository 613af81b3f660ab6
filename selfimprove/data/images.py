"""Image-text sets: the shapes world's winners, anyone's folder in the Hugging Face imagefolder convention, or Pick-a-Pic."""

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

STREAMS = {"test": "evaluation", "validation": "validation"}  # of the shapes world's prompts, by the part that judges


@dataclass(frozen=True)
class ImageText:
    """Captioned images. `fetch(i)` gives image i, (3, H, W) in [0, 1]; rows of `validation` are never trained on.

    `evaluation`: prompts of the evaluation, of one of the two parts kept out of training, with the index of the image wanted for each;
    `scenes`: where the truth about a prompt is known (the shapes world), what each evaluation prompt says.
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
    scorers: tuple[str, ...] = ()  # learned scorers that know this kind of image, by name (`scorers.load_scorers`)
    fetch_fresh: Callable[[int], Tensor] | None = field(default=None, repr=False)  # another real image of caption i
    fetch_loser: Callable[[int], Tensor] | None = field(default=None, repr=False)  # what image i was preferred to, in labelled pairs

    def images(self, rows: Sequence[int]) -> Float[Tensor, "b 3 h w"]:
        """The images of some rows, stacked."""
        return torch.stack([self.fetch(i) for i in rows])

    def judged_on(self, prompts: Sequence[str], scenes: Sequence[Caption] | None, copies: int) -> "ImageText":
        """The same images, with these evaluation prompts and `copies` images of each."""
        repeated = None if scenes is None else [*scenes] * copies
        return replace(self, evaluation=indexed([*prompts] * copies), scenes=repeated, scorers=self.scorers if scenes else ())

    def evaluation_ids(self) -> list[str]:
        """The identity of every evaluation image."""
        return [example_id(prompt, index) for prompt, index in self.evaluation]


def load_data(
    data: str, samples: int, validation: int, evaluation: int, image_size: tuple[int, int], seed: int, part: str = "test"
) -> ImageText:
    """`samples` training and `validation` further images with captions, and `evaluation` prompts, of the test or the validation part.

    Three parts share no caption: train, validation, test. The latter two, together a tenth at most but one caption each, are the same
    for every `seed` and either `part`; which of the rest are trained on depends on the seed.

    `data` is "shapes" (the winners), "shapes-base" (what the embedded model was trained on), a folder of images with
    `metadata.jsonl` or `metadata.csv` (columns `file_name` and `text`), or pairs in Pick-a-Pic's schema, whose preferred images are the
    real ones: a parquet shard, a folder of them, or the id owner/name of a data set on the hub, of which the first pairs needed are
    streamed. A folder with fewer than three different captions is split by image.

    Raises:
        DataError: see `_read_metadata`, `pairs.Shards` and `streaming.streamed`; also when no image can be read, too few captions or images
            are there to be split, or the part is not known.
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
    """No images and no prompts to be judged on yet: for a system that needs no real images."""

    def fetch(row: int) -> Tensor:
        raise DataError("no images were given; name a folder of images in data")

    return ImageText("no images", [], [], fetch, [], [], [], "no images")


def shapes_prompts(count: int, scenes: Tensor = HELD_IN_SCENES, stream: str = "evaluation") -> list[Caption]:
    """Full captions of scenes, each scene in turn, in the grammar's many phrasings; the same whatever the training seed.

    Another `stream` phrases the same scenes anew: of 256 prompts of "evaluation" and of "validation" two agree.
    """
    order = sorted(range(len(scenes)), key=lambda i: key_hash(EVALUATION_SEED, stream, i))
    rows = [scenes[order[i % len(order)]].tolist() for i in range(count)]
    return [caption(tuple(s), EVALUATION_SEED, stream, i, kinds={"full": 1.0}) for i, s in enumerate(rows)]


def indexed(prompts: Sequence[str]) -> list[tuple[str, int]]:
    """Each prompt with how often it came before: the identity of the image wanted for it."""
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
    """(image file, caption) of every row.

    Raises:
        DataError: folder missing or empty, no metadata file, a row without file or caption, or naming a file that is not there.
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
        lines = files[0].read_text(encoding="utf-8").split("\n")  # a caption may hold other line breaks
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
    """The image of a file, see `fitted`.

    Raises:
        OSError: the file cannot be read as an image.
    """
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
        image.load()
    return fitted(image, size)


def fitted(image: Image.Image, size: tuple[int, int]) -> Float[Tensor, "3 h w"]:
    """An image of any size and mode as RGB in [0, 1]: shorter side resized to fit, centre cropped, alpha laid on white.

    Raises:
        ScorerError: mode F, whose range is unknown.
    """
    if image.mode.startswith(("I", "F")):  # 16 bits and more: PIL would clip them at 255
        image = to_rgb(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = ImageOps.fit(image.convert("RGB"), (size[1], size[0]), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255


def _folder(folder: Path, samples: int, validation: int, evaluation: int, image_size: tuple[int, int], seed: int, part: str) -> ImageText:
    entries = _read_metadata(folder)
    digest = hashlib.sha256(b"train, validation, test\0")  # folders that were split otherwise are other data
    paths, captions, skipped = [], [], []
    for path, text in tqdm(entries, desc="reading images", leave=False):
        digest.update(f"{path.relative_to(folder)}\0{text}\0".encode())
        digest.update(path.read_bytes())
        try:
            open_image(path, image_size)
        except (OSError, ValueError, SyntaxError):  # what PIL raises for broken files
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
    """The first pairs of a data set on the hub that leave `samples` to train on, however many are kept out; all, if there are fewer."""
    count = samples + validation + evaluation
    while True:
        shards = Shards(streamed(source, count), count)
        captions = [row.prompt for row in shards.rows]
        short = count  # as long as there are too few prompts to be split
        if len(set(captions)) >= LEAST:
            away = set[str]().union(*kept_out(captions, validation, evaluation, source))
            short = samples - sum(caption not in away for caption in captions)
        if short <= 0 or len(captions) < count:
            return shards
        count += short


def _pairs(
    name: str, shards: Shards, samples: int, validation: int, evaluation: int, image_size: tuple[int, int], seed: int, part: str
) -> ImageText:
    """Pick-a-Pic: winners are the real images, losers what they were preferred to. A prompt is in one part alone."""
    captions = [row.prompt for row in shards.rows]
    found = f"data={name!r} has {len(set(captions))} prompts with a preference ({shards.dropped})"
    parts = kept_out(captions, validation, evaluation, found)
    trainable, judging = set(captions).difference(*parts), getattr(parts, part)
    ids = [example_id(*pair) for pair in indexed(captions)]
    first_of = {caption: i for i, caption in reversed(list(enumerate(captions)))}
    rows = [i for i, caption in enumerate(captions) if caption in trainable]
    chosen = sorted(sorted(rows, key=lambda i: key_hash(seed, "chosen", ids[i]))[:samples])  # in the shards' order, to read each once

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
