"""Load image-text sets: the winners of the shapes world, people's own captioned images, or labelled pairs such as Pick-a-Pic."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from selfimprove.data import streaming
from selfimprove.data.buckets import Frame, Size, account, fit, frame
from selfimprove.data.folders import check_there, list_images
from selfimprove.data.items import THREADS, Item, Listing, looks
from selfimprove.data.opening import fitted
from selfimprove.data.pairs import Shards, holds_pairs, paired
from selfimprove.data.shards import parquet_images
from selfimprove.data.splits import LEAST, group, kept_out
from selfimprove.draws import EVALUATION_SEED, count_images, example_id, image_of, key_hash, several_captions
from selfimprove.errors import DataError
from selfimprove.models.resolve import HUB
from selfimprove.scorers import SHAPES_SCORERS
from selfimprove.shapes.captions import Caption, caption
from selfimprove.shapes.image_sets import HELD_IN_SCENES, base_set, losers, winners
from selfimprove.shapes.render import IMAGE_SIZE, Drawing, render

SHOWN = 5  # examples of what is skipped, in the lines that are printed
STREAMS = {"test": "evaluation", "validation": "validation"}  # part -> stream that phrases the shapes world's prompts


@dataclass(frozen=True)
class ImageText:
    """A set of captioned images. `fetch(i)` returns image i, (3, H, W) in [0, 1]. No training reads the rows in `validation`.

    Row i is an image and one of its captions. The rows of an image with several captions share the first part of their ids (see
    `draws.image_of`); an epoch trains on one of them.

    `frames[i]` says at which size (H, W) image i is shown, and what of it. Images to train on may differ in size, all others do not.
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
    frames: list[Frame]
    skipped: list[str] = field(default_factory=list)  # what is not used, and why, one text each
    notes: list[str] = field(default_factory=list)  # how many images each part has, and what else is to be said of them
    scenes: list[Caption] | None = None
    scorers: tuple[str, ...] = ()  # names of learned scorers for this kind of image (see `scorers.load_scorers`)
    fetch_fresh: Callable[[int], Tensor] | None = field(default=None, repr=False)  # returns another real image of caption i
    fetch_loser: Callable[[int], Tensor] | None = field(default=None, repr=False)  # returns the loser of labelled pair i
    threads: int = 1  # how many images are decoded at once

    @property
    def examples(self) -> int:
        """Return the number of different images to train on; an image has a row per caption."""
        return count_images(tuple(self.ids[i] for i in self.train))

    def train_rows(self, images: int) -> list[int]:
        """Return the training rows of the first images, with all their captions."""
        first = set(list(dict.fromkeys(image_of(self.ids[i]) for i in self.train))[:images])
        return [i for i in self.train if image_of(self.ids[i]) in first]

    def account(self) -> list[str]:
        """Return in lines what of the data is used, and what is not and why: `SHOWN` examples of many."""
        return [*self.notes, f"images or rows skipped: {len(self.skipped)}", *shortened(self.skipped)]

    def images(self, rows: Sequence[int]) -> Float[Tensor, "b 3 h w"]:
        """Return the images of the given rows, which are of one size, stacked."""
        with ThreadPoolExecutor(self.threads) as pool:
            return torch.stack(list(pool.map(self.fetch, rows)) if self.threads > 1 else [self.fetch(i) for i in rows])

    def judged_on(self, prompts: Sequence[str], scenes: Sequence[Caption] | None, copies: int) -> "ImageText":
        """Return the same images with other evaluation prompts, `copies` images of each. Without `scenes` the result names no scorers."""
        repeated = None if scenes is None else [*scenes] * copies
        return replace(self, evaluation=indexed([*prompts] * copies), scenes=repeated, scorers=self.scorers if scenes else ())

    def evaluation_ids(self) -> list[str]:
        """Return the identity of every evaluation image (see `draws.example_id`)."""
        return [example_id(prompt, index) for prompt, index in self.evaluation]


def load_data(
    data: str, samples: int, validation: int, evaluation: int, image_size: Size, seed: int, part: str = "test",
    image_column: str = "", caption_column: str = "", buckets: Sequence[Size] = (),
) -> ImageText:  # fmt: skip
    """Load `samples` training and `validation` further images with captions, and `evaluation` prompts of the test or validation `part`.

    Of images that are given, the parts train, validation and test share no caption and no image, by content. Validation and test together
    hold at most a tenth of the captions, but at least one each. Neither `seed` nor `part` changes the split; `seed` chooses the training
    images among the rest. Of fewer than three different captions the parts share captions, but no image.

    `data` is "shapes" (the winners), "shapes-base" (the training set of the embedded model), captioned images in a form that
    `folders.list_images` reads, pairs in Pick-a-Pic's schema in shards, whose preferred images are the real ones, or the id owner/name of
    a data set of either kind on the hub, which is streamed as far as needed. `image_column` and `caption_column` name the columns of a
    table; if empty, those of a usual name are read. `buckets`: further sizes, of which an image that is trained on gets the one nearest to
    its shape; the loser of a pair gets the winner's.

    Raises:
        DataError: see `folders.list_images`, `pairs.Shards` and `streaming.streamed`; also if no image can be read, there are too few
            captions or images to split, or `part` is unknown.
    """
    if part not in STREAMS:
        raise DataError(f"evaluation_part={part!r} is not known; choose one of {list(STREAMS)}")
    if not data:
        raise DataError("data='' names nothing; give 'shapes' or a folder of images with metadata.jsonl")
    if data in ("shapes", "shapes-base"):
        return _shapes(data, samples, validation, evaluation, seed, part)
    check_there(data)
    path, counts = Path(data).expanduser(), (samples, validation, evaluation)
    sizes = list(dict.fromkeys([image_size, *buckets]))
    if not path.exists():
        return _streamed(data.removeprefix(HUB), counts, sizes, seed, part, image_column, caption_column)
    try:
        pairs = holds_pairs(path)
        listing, losers = paired(Shards(str(path))) if pairs else (list_images(path, image_column, caption_column), [])
    except OSError as error:  # such as a folder without permission
        raise DataError(f"data={data!r} cannot be read ({error}); mend that, or give another") from error
    in_order = bool(listing.items) and listing.items[0].in_shard
    return _assembled(path.name, str(path), listing, counts, sizes, seed, part, losers, in_order)


def printable(text: str) -> str:
    """Return a text in which parts of file names that are no Unicode are question marks."""
    return text.encode(errors="replace").decode()


def shortened(texts: Sequence[str]) -> list[str]:
    """Return the first texts, indented, and how many more there are."""
    more = [f"  and {len(texts) - SHOWN} more, in data.json of the run folder"] if len(texts) > SHOWN else []
    return [*(f"  {text}" for text in texts[:SHOWN]), *more]


def no_images() -> ImageText:
    """Return a set without images and evaluation prompts, for systems that need no real images."""

    def fetch(row: int) -> Tensor:
        raise DataError("no images were given; name a folder of images in data")

    return ImageText("no images", [], [], fetch, [], [], [], "no images", [])


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
        frames=[Frame((IMAGE_SIZE, IMAGE_SIZE), (IMAGE_SIZE, IMAGE_SIZE))] * count,
        scenes=prompts,
        scorers=SHAPES_SCORERS,
    )


def _assembled(
    name: str, source: str, listing: Listing, counts: tuple[int, int, int], sizes: Sequence[Size], seed: int, part: str,
    losers: Sequence[Item] = (), in_order: bool = False,
) -> ImageText:  # fmt: skip
    """Return the set of the items in a listing that can be read, split by caption and content; see `load_data`.

    `counts`: samples, validation, evaluation. `sizes`: the default one, and further ones of images to train on. `losers`: one per item, for
    pairs. `in_order`: train in the order of the source, so that each of its shards is read once; otherwise the set depends on contents and
    captions, not on names.
    """
    samples, validation, evaluation = counts
    seen = looks(source, [*listing.items, *losers])
    firsts, others = seen[: len(listing.items)], seen[len(listing.items) :]
    broken = [f"{item.name}: {each.problem}" for item, each in zip([*listing.items, *losers], seen, strict=True) if each.problem]
    skipped = [*listing.skipped, *broken]
    usable = [i for i, each in enumerate(firsts) if not each.problem and not (losers and others[i].problem)]
    if not in_order:  # other names of the same files are the same data
        usable.sort(key=lambda i: (firsts[i].digest, listing.items[i].captions))
    items, shown = [listing.items[i] for i in usable], [firsts[i] for i in usable]
    against, beaten = ([losers[i] for i in usable], [others[i] for i in usable]) if losers else ([], [])
    digest = hashlib.sha256(b"train, validation, test by caption and content\0")
    for item, *sides in zip(items, shown, *([beaten] if losers else []), strict=True):
        digest.update("\0".join([*(side.digest for side in sides), *item.captions, ""]).encode())
    rows = [(i, text) for i, item in enumerate(items) for text in item.captions]
    captions = [text for _, text in rows]
    ids = [
        example_id(text, k) if len(items[i].captions) == 1 else several_captions(shown[i].digest[:16], example_id(text, k))
        for (i, _), (text, k) in zip(rows, indexed(captions), strict=True)
    ]
    of_item = {i: row for row, (i, _) in reversed(list(enumerate(rows)))}  # the first row of each item
    said = "; ".join([*(listing.notes if losers else []), *skipped[:1]])
    total, kind = len(listing.items) + len(listing.skipped), "pairs" if losers else "images"
    found = f"data={source!r}: {len(items)} of {total} {kind} can be read{said and f' ({said})'}"
    groups, notes = group(items, shown + beaten, [ids[of_item[i]] for i in range(len(items))])
    parts = kept_out(groups, validation, evaluation, found)
    place = {group: number for number, group in enumerate(parts.validation)}
    free, prompted = set(groups).difference(*parts), {name: number for number, name in enumerate(getattr(parts, part))}
    train = sorted((i for i, g in enumerate(groups) if g in free), key=lambda i: key_hash(seed, "chosen", image_of(ids[of_item[i]])))
    chosen = train[:samples]
    if in_order:
        chosen.sort()
    held = sorted((i for i, g in enumerate(groups) if g in place), key=lambda i: place[groups[i]])
    judging = sorted((prompted[groups[i]], row) for row, (i, _) in enumerate(rows) if groups[i] in prompted)
    prompts = list(dict.fromkeys(captions[row] for _, row in judging))
    tested, order = len(items) - len(train) - len(held), {i: number for number, i in enumerate(chosen)}
    frames = [frame((each.height, each.width), sizes if i in order else sizes[:1]) for i, each in enumerate(shown)]
    beside = [frame((each.height, each.width), [mine.size]) for each, mine in zip(beaten, frames, strict=False)]
    notes = [
        f"{len(items)} images with {len(rows)} captions: {len(chosen)} to train on, {len(held)} in the validation part, {tested} in the "
        f"test part, {len(train) - len(chosen)} left over",
        *listing.notes, *notes, *account([frames[i] for i in chosen], sizes),
        *fit([*items, *against], [*frames, *beside]),
    ]  # fmt: skip

    def fetch(row: int) -> Tensor:
        i = rows[row][0]
        return fitted(items[i].image(shown[i]), frames[i].size)

    def fetch_loser(row: int) -> Tensor:
        i = rows[row][0]
        return fitted(against[i].image(beaten[i]), frames[i].size)

    return ImageText(
        name=name,
        captions=captions,
        ids=ids,
        fetch=fetch,
        fetch_loser=fetch_loser if losers else None,
        train=sorted((row for row, (i, _) in enumerate(rows) if i in order), key=lambda row: order[rows[row][0]]),
        validation=[of_item[i] for i in held[:validation]],
        evaluation=indexed([prompts[i % len(prompts)] for i in range(evaluation)]),
        fingerprint=digest.hexdigest(),
        frames=[frames[i] for i, _ in rows],
        skipped=[printable(text) for text in skipped],
        notes=[printable(text) for text in notes],
        threads=THREADS,
    )


def _streamed(source: str, counts: tuple[int, int, int], sizes: Sequence[Size], seed: int, part: str, *columns: str) -> ImageText:
    """Return the set of the first images or pairs of a hub data set that leave enough to train on after the split; of all if too few."""
    count = sum(counts)
    while True:
        folder = streaming.streamed(source, count, *columns)
        if holds_pairs(Path(folder)):
            listing, losers = paired(Shards(folder, count))
        else:  # of shards beyond these nothing depends
            listing, losers = parquet_images(sorted(Path(folder).glob("*.parquet"))[: -(-count // streaming.ROWS)], "", ""), []
            del listing.items[count:]
        ended, short = len(listing.items) < count, count  # too few prompts to split: double the count
        if ended or len({text for item in listing.items for text in item.captions}) >= LEAST:
            found = _assembled(source, folder, listing, counts, sizes, seed, part, losers, in_order=True)
            short = counts[0] - found.examples
        if short <= 0 or ended:
            return found
        count += short
