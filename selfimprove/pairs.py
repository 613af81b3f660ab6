"""Labelled pairs: two images of one prompt and which was preferred; from Pick-a-Pic's parquet shards, or of the shapes world.

Columns read of a shard: `caption`, `jpg_0`, `jpg_1` (encoded images), `label_0`, `label_1` (1, 0, or .5 for a tie) and `has_label`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image
from torch import Tensor

from selfimprove.data import DataError
from selfimprove.shapes import image_sets
from selfimprove.shapes.render import render

COLUMNS = ("caption", "jpg_0", "jpg_1", "label_0", "label_1", "has_label")


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
    images = [[_picture(image) for image in render(side)[0]] for side in (first, second)]
    for caption, one, other, won in zip(captions, *images, first_wins.tolist(), strict=True):
        yield LabelledPair(caption.text, one, other, won)


def _picture(image: Tensor) -> Image.Image:
    return Image.fromarray((image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


@dataclass
class Dropped:
    """Rows that decide nothing."""

    ties: int = 0
    unlabelled: int = 0

    def __str__(self) -> str:
        return f"{self.ties} ties and {self.unlabelled} unlabelled rows dropped"


@dataclass
class Shards:
    """Parquet shards, checked; iterating reads one row group at a time and counts what is dropped.

    Raises:
        DataError: no shard there, a column missing; on reading, a null image or caption, labels that do not sum to one, or
            bytes that are no image, each with the file and the row.
    """

    source: str
    dropped: Dropped = field(default_factory=Dropped)

    def __post_init__(self) -> None:
        path = Path(self.source).expanduser()
        self.paths = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if not self.paths or not self.paths[0].is_file():
            raise DataError(f"pairs={self.source!r} has no parquet shard; give a shard or a folder of shards")
        for shard in self.paths:
            missing = [c for c in COLUMNS if c not in pq.read_schema(shard).names]
            if missing:
                raise DataError(f"{shard} lacks the columns {missing}; a Pick-a-Pic shard has {list(COLUMNS)}")

    def __iter__(self) -> Iterator[LabelledPair]:
        self.dropped.ties = self.dropped.unlabelled = 0
        for shard in self.paths:
            number = 0
            for batch in pq.ParquetFile(shard).iter_batches(batch_size=64, columns=list(COLUMNS)):
                for row in batch.to_pylist():
                    number += 1
                    pair = self._pair(row, f"{shard}, row {number}")
                    if pair:
                        yield pair

    def _pair(self, row: dict, where: str) -> LabelledPair | None:
        if not row["has_label"]:
            self.dropped.unlabelled += 1
            return None
        if row["label_0"] is None or row["label_1"] is None or abs(row["label_0"] + row["label_1"] - 1) > 1e-6:
            raise DataError(f"{where}: the labels {row['label_0']} and {row['label_1']} do not sum to one; mend or remove the row")
        if row["label_0"] == 0.5:
            self.dropped.ties += 1
            return None
        if not row["caption"]:
            raise DataError(f"{where} has no caption; mend or remove the row")
        first, second = (self._open(row[name], f"{where}, {name}") for name in ("jpg_0", "jpg_1"))
        return LabelledPair(row["caption"], first, second, row["label_0"] > 0.5)

    def _open(self, encoded: bytes | None, where: str) -> Image.Image:
        if not encoded:
            raise DataError(f"{where} is null; mend or remove the row")
        try:
            image = Image.open(BytesIO(encoded))
            image.load()
        except OSError as error:
            raise DataError(f"{where} is no image ({error}); mend or remove the row") from error
        return image
