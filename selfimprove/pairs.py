"""Labelled pairs: two images of one prompt and which was preferred; from Pick-a-Pic's parquet shards, or of the shapes world.

Columns read of a shard: `caption`, `jpg_0`, `jpg_1` (encoded images), `label_0`, `label_1` (1, 0, or .5 for a tie) and `has_label`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from PIL import Image

from selfimprove.scorers.images import eight_bit
from selfimprove.shapes import image_sets
from selfimprove.shapes.render import render

IMAGES = ("jpg_0", "jpg_1")
COLUMNS = ("caption", *IMAGES, "label_0", "label_1", "has_label")


class DataError(ValueError):
    """The data cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class LabelledPair:
    """Two images of one prompt, and whether the first was preferred."""

    prompt: str
    first: Image.Image
    second: Image.Image
    first_wins: bool


def shapes_pairs(count: int, seed: int) -> Iterator[LabelledPair]:
    """Pairs of the shapes world, labelled by a Bradley-Terry coin on true utility (see `shapes.image_sets.pairs`)."""
    captions, first, second, first_wins = image_sets.pairs(count, seed)
    images = [eight_bit(render(side)[0].clamp(0, 1)) for side in (first, second)]
    for caption, one, other, won in zip(captions, *images, first_wins.tolist(), strict=True):
        yield LabelledPair(caption.text, one, other, won)


@dataclass
class Dropped:
    """Rows that decide nothing."""

    ties: int = 0
    unlabelled: int = 0

    def __str__(self) -> str:
        return f"{self.ties} ties and {self.unlabelled} unlabelled rows dropped"


class Row(NamedTuple):
    """Where a pair that decides something lies: shard, row group, place in the group; its number in the shard, from 1."""

    prompt: str
    first_wins: bool
    shard: Path
    group: int
    place: int
    number: int

    def __str__(self) -> str:
        return f"{self.shard}, row {self.number}"


class Shards:
    """Parquet shards, their labels read and checked; images are read by row group when asked for.

    `rows`: the pairs that decide something, in order; `dropped`: how many do not.

    Raises:
        DataError: no shard there, a column missing, a row without caption or with labels that do not sum to one (with file and row).
    """

    def __init__(self, source: str) -> None:
        path = Path(source).expanduser()
        paths = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if not paths or not paths[0].is_file():
            raise DataError(f"pairs={source!r} has no parquet shard; give a shard or a folder of shards")
        self.rows: list[Row] = []
        self.dropped = Dropped()
        for shard in paths:
            missing = [c for c in COLUMNS if c not in pq.read_schema(shard).names]
            if missing:
                raise DataError(f"{shard} lacks the columns {missing}; a Pick-a-Pic shard has {list(COLUMNS)}")
            self._index(shard)

    def _index(self, shard: Path) -> None:
        file, number = pq.ParquetFile(shard), 0
        for group in range(file.num_row_groups):
            for place, row in enumerate(file.read_row_group(group, columns=[c for c in COLUMNS if c not in IMAGES]).to_pylist()):
                number += 1
                where = f"{shard}, row {number}"
                if not row["has_label"]:
                    self.dropped.unlabelled += 1
                elif row["label_0"] is None or row["label_1"] is None or abs(row["label_0"] + row["label_1"] - 1) > 1e-6:
                    raise DataError(f"{where}: the labels {row['label_0']} and {row['label_1']} do not sum to one; mend or remove the row")
                elif row["label_0"] == 0.5:
                    self.dropped.ties += 1
                elif not row["caption"]:
                    raise DataError(f"{where} has no caption; mend or remove the row")
                else:
                    self.rows.append(Row(row["caption"], row["label_0"] > 0.5, shard, group, place, number))

    def __iter__(self) -> Iterator[LabelledPair]:
        for row in self.rows:
            yield LabelledPair(row.prompt, self.image(row, True), self.image(row, False), row.first_wins)

    def image(self, row: Row, first: bool) -> Image.Image:
        """The first or the second image of a row.

        Raises:
            DataError: it is null, or no image; names file, row and column.
        """
        name = IMAGES[0 if first else 1]
        encoded = _group(row.shard, row.group)[name][row.place].as_py()
        if not encoded:
            raise DataError(f"{row}, {name} is null; mend or remove the row")
        try:
            image = Image.open(BytesIO(encoded))
            image.load()
        except OSError as error:
            raise DataError(f"{row}, {name} is no image ({error}); mend or remove the row") from error
        return image


@lru_cache(maxsize=2)
def _group(shard: Path, group: int) -> Any:
    """The encoded images of a row group; rows are asked for in order, so the last two are enough."""
    return pq.ParquetFile(shard).read_row_group(group, columns=list(IMAGES))
