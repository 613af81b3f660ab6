"""Read labelled pairs: two images of one prompt and which one was preferred, from Pick-a-Pic's parquet shards or the shapes world.

A shard has the columns `caption`, `jpg_0`, `jpg_1` (encoded images), `label_0`, `label_1` (1, 0, or 0.5 for a tie) and `has_label`.
`streaming` writes such shards from a data set on the hub.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
from PIL import Image

from selfimprove.data.items import Item, Listing, stamp_of
from selfimprove.data.opening import ImageError, open_image
from selfimprove.data.shards import Dropped, read_cell, train_shards
from selfimprove.data.tables import NAMES, SHARDS, ArrowFile, captions_of, numbered_rows, open_shard
from selfimprove.errors import DataError
from selfimprove.scorers.images import eight_bit
from selfimprove.shapes import image_sets
from selfimprove.shapes.render import render

IMAGES = ("jpg_0", "jpg_1")
LABELS = (*IMAGES, "label_0", "label_1")  # a data set with one of these is of pairs
COLUMNS = ("caption", *LABELS, "has_label")


@dataclass(frozen=True)
class LabelledPair:
    """Two images of one prompt, and whether the first was preferred."""

    prompt: str
    first: Image.Image
    second: Image.Image
    first_wins: bool


def shapes_pairs(count: int, seed: int) -> Iterator[LabelledPair]:
    """Yield pairs of the shapes world, labelled by a Bradley-Terry coin on true utility (see `shapes.image_sets.pairs`)."""
    captions, first, second, first_wins = image_sets.pairs(count, seed)
    images = [eight_bit(render(side)[0].clamp(0, 1)) for side in (first, second)]
    for caption, one, other, won in zip(captions, *images, first_wins.tolist(), strict=True):
        yield LabelledPair(caption.text, one, other, won)


class Row(NamedTuple):
    """A labelled row. `group` is its row group, `place` its index in that group, and `number` its number in the shard, from 1."""

    prompts: tuple[str, ...]
    first_wins: bool
    shard: Path
    group: int
    place: int
    number: int

    def __str__(self) -> str:
        return f"{self.shard}, row {self.number}"


def holds_pairs(path: Path) -> bool:
    """Return whether a shard, or a folder of shards without a metadata table, has columns of labelled pairs."""
    if path.suffix in SHARDS and not path.is_dir():
        return not {*LABELS}.isdisjoint(open_shard(path).schema_arrow.names)
    shards = [] if any((path / name).is_file() for name in NAMES) else train_shards(path, ".parquet")[0]
    return any(holds_pairs(shard) for shard in shards)


class Shards:
    """Pairs in parquet shards. Labels are read and checked at once; images are read on demand, one row group at a time.

    `rows` holds the pairs with a preference, in order; with `limit`, only that many. `dropped` counts the rows without one.
    `notes` name shards of other parts than train, which are not read.

    Raises:
        DataError: there is no shard, one is damaged, a column is missing, or a row has no caption or invalid labels (the message names file
            and row).
    """

    def __init__(self, source: str, limit: int | None = None) -> None:
        path = Path(source).expanduser()
        paths, self.notes = train_shards(path, ".parquet") if path.is_dir() else ([path], [])
        if not paths or not paths[0].is_file():
            raise DataError(f"data={source!r} has no parquet shard; give a shard or a folder of shards")
        self.rows: list[Row] = []
        self.dropped = Dropped()
        for shard in paths:
            if limit is not None and len(self.rows) >= limit:
                break
            file = open_shard(shard)
            missing = [c for c in COLUMNS if c not in file.schema_arrow.names]
            if missing:
                raise DataError(
                    f"data={str(shard.parent)!r}: {shard.name} lacks the columns {missing}; a Pick-a-Pic shard has {list(COLUMNS)}: rename "
                    "or add them"
                )
            self._index(file, shard)
        self.rows = self.rows[:limit]

    def _index(self, file: pq.ParquetFile | ArrowFile, shard: Path) -> None:
        self.dropped.add_recorded(file)
        columns = [c for c in COLUMNS if c not in IMAGES]
        for number, (group, place, row) in enumerate(numbered_rows(file, shard, columns), start=1):
            where = f"{shard}, row {number}"
            won = self.dropped.first_wins(row, where)
            if won is not None:
                self.rows.append(Row(captions_of(row["caption"], where, free=True), won, shard, group, place, number))

    def __iter__(self) -> Iterator[LabelledPair]:
        for row in self.rows:
            yield LabelledPair(row.prompts[0], self.image(row, True), self.image(row, False), row.first_wins)

    def item(self, row: Row, first: bool) -> Item:
        """Return the first or the second image of a row, unread."""
        name = IMAGES[0 if first else 1]
        read = partial(read_cell, row.shard, row.group, row.place, name, IMAGES)
        return Item(f"{row}, {name}", row.prompts, read, stamp_of(row.shard), in_shard=True)

    def image(self, row: Row, first: bool) -> Image.Image:
        """Return the first or the second image of a row (see `opening.open_image`).

        Raises:
            DataError: the image is null or cannot be read. The message names file, row and column.
        """
        item = self.item(row, first)
        try:
            return open_image(item.read())
        except OSError as error:
            raise DataError(f"{row}, {error}; mend or remove the row") from error
        except ImageError as error:
            raise DataError(f"{item.name} is no image ({error}); mend or remove the row") from error


def paired(shards: Shards) -> tuple[Listing, list[Item]]:
    """Return the images of pairs that were preferred, which are the real ones, and those to which they were preferred."""
    notes = [*([str(shards.dropped)] if shards.dropped else []), *shards.notes]
    preferred = [shards.item(row, row.first_wins) for row in shards.rows]
    return Listing(preferred, [], notes), [shards.item(row, not row.first_wins) for row in shards.rows]
