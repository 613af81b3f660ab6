"""Read labelled pairs: two images of one prompt and which one was preferred, from Pick-a-Pic's parquet shards or the shapes world.

A shard has the columns `caption`, `jpg_0`, `jpg_1` (encoded images), `label_0`, `label_1` (1, 0, or 0.5 for a tie) and `has_label`.
`streaming` writes such shards from a data set on the hub.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from PIL import Image

from selfimprove.draws import EVALUATION_SEED, key_hash
from selfimprove.errors import SelfImproveError
from selfimprove.scorers.images import eight_bit
from selfimprove.shapes import image_sets
from selfimprove.shapes.render import render

IMAGES = ("jpg_0", "jpg_1")
COLUMNS = ("caption", *IMAGES, "label_0", "label_1", "has_label")
LEAST = 3  # different captions needed for a split into training, validation and test
SAMPLED = 1 << 16  # leading bytes per row group and image column that enter a fingerprint


class DataError(SelfImproveError):
    """The data cannot be used; the message says why and what to do."""


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


@dataclass
class Dropped:
    """Counts of rows without a preference: ties and unlabelled rows. In a streamed set, `incomplete` rows lack a caption or an image."""

    ties: int = 0
    unlabelled: int = 0
    incomplete: int = 0

    def __bool__(self) -> bool:
        return bool(self.ties or self.unlabelled or self.incomplete)

    def __str__(self) -> str:
        incomplete = f", {self.incomplete} incomplete" if self.incomplete else ""
        return f"{self.ties} ties and {self.unlabelled} unlabelled{incomplete} rows dropped"

    def first_wins(self, row: Mapping[str, Any], where: str) -> bool | None:
        """Return whether the first image of a row was preferred. A tie or an unlabelled row is counted, and the result is None.

        Raises:
            DataError: the labels are not 1 and 0, 0 and 1, or 0.5 each.
        """
        labels = (row["label_0"], row["label_1"])
        if not row["has_label"]:
            self.unlabelled += 1
        elif labels not in ((1, 0), (0, 1), (0.5, 0.5)):  # null and NaN are not valid either, and equal none of these
            raise DataError(
                f"{where}: the labels {labels[0]} and {labels[1]} must be 1 and 0, 0 and 1, or 0.5 each; mend or remove the row"
            )
        elif labels[0] == 0.5:
            self.ties += 1
        else:
            return bool(labels[0] == 1)
        return None


class KeptOut(NamedTuple):
    """Captions kept out of training: models are judged on `test`, and settings are chosen on `validation`."""

    test: list[str]
    validation: list[str]


def kept_out(captions: Sequence[str], validation: int, evaluation: int, found: str) -> KeptOut:
    """Choose the captions of the test and the validation part by hash. `captions` has one entry per image.

    Each part has up to max(`validation`, `evaluation`) captions: at most a twentieth of the captions and of the images, but at least one
    caption. A caption with more than a twentieth of the images is kept out only if there is no other choice.

    Raises:
        DataError: there are fewer than three different captions. The message opens with `found`.
    """
    images, limit = Counter(captions), len(captions) / 20
    if len(images) < LEAST:
        raise DataError(f"{found}; at least {LEAST} are needed, to train on, to validate and to test by")
    order = sorted(images, key=lambda c: (images[c] > limit, key_hash(EVALUATION_SEED, "split", c)))
    most = min(max(validation, evaluation), max(1, len(order) // 20))
    parts = []
    for _ in KeptOut._fields:
        count = 1
        while count < most and sum(images[c] for c in order[: count + 1]) <= limit:
            count += 1
        parts.append(order[:count])
        order = order[count:]
    return KeptOut(*parts)


class Row(NamedTuple):
    """A labelled row. `group` is its row group, `place` its index in that group, and `number` its number in the shard, from 1."""

    prompt: str
    first_wins: bool
    shard: Path
    group: int
    place: int
    number: int

    def __str__(self) -> str:
        return f"{self.shard}, row {self.number}"


class Shards:
    """Pairs in parquet shards. Labels are read and checked at once; images are read on demand, one row group at a time.

    `rows` holds the pairs with a preference, in order; with `limit`, only that many. `dropped` counts the rows without one.

    Raises:
        DataError: there is no shard, a column is missing, or a row has no caption or invalid labels (the message names file and row).
    """

    def __init__(self, source: str, limit: int | None = None) -> None:
        path = Path(source).expanduser()
        paths = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if not paths or not paths[0].is_file():
            raise DataError(f"data={source!r} has no parquet shard; give a shard or a folder of shards")
        self.rows: list[Row] = []
        self.dropped = Dropped()
        for shard in paths:
            if limit is not None and len(self.rows) >= limit:
                break
            missing = [c for c in COLUMNS if c not in pq.read_schema(shard).names]
            if missing:
                raise DataError(
                    f"data={source!r}: {shard.name} lacks the columns {missing}; a Pick-a-Pic shard has {list(COLUMNS)}: rename or add them"
                )
            self._index(shard)
        self.rows = self.rows[:limit]

    def _index(self, shard: Path) -> None:
        file, number = pq.ParquetFile(shard), 0
        if recorded := (file.schema_arrow.metadata or {}).get(b"dropped"):  # rows dropped while this shard was streamed
            counts = asdict(self.dropped)
            self.dropped = Dropped(**{name: counts[name] + count for name, count in json.loads(recorded).items()})
        for group in range(file.num_row_groups):
            for place, row in enumerate(file.read_row_group(group, columns=[c for c in COLUMNS if c not in IMAGES]).to_pylist()):
                number += 1
                where = f"{shard}, row {number}"
                won = self.dropped.first_wins(row, where)
                if won is None:
                    continue
                if not row["caption"]:
                    raise DataError(f"{where} has no caption; mend or remove the row")
                self.rows.append(Row(row["caption"], won, shard, group, place, number))

    def fingerprint(self) -> str:
        """Return the SHA-256 of captions and labels and, per row group and image column, of the sizes and the first 64 KiB."""
        digest = hashlib.sha256("\0".join(f"{r.prompt}\0{r.first_wins}" for r in self.rows).encode())
        groups: dict[Path, dict[int, None]] = {}
        for row in self.rows:
            groups.setdefault(row.shard, {})[row.group] = None
        for shard, numbers in groups.items():
            footer = pq.read_metadata(shard)
            with shard.open("rb") as stream:
                for part in map(footer.row_group, numbers):
                    for column in (part.column(i) for i in range(part.num_columns)):
                        if column.path_in_schema not in IMAGES:
                            continue
                        size = column.total_compressed_size
                        digest.update(f"\0{size} {column.total_uncompressed_size}\0".encode())
                        stream.seek(column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset)
                        digest.update(stream.read(min(size, SAMPLED)))
        return digest.hexdigest()

    def __iter__(self) -> Iterator[LabelledPair]:
        for row in self.rows:
            yield LabelledPair(row.prompt, self.image(row, True), self.image(row, False), row.first_wins)

    def image(self, row: Row, first: bool) -> Image.Image:
        """Return the first or the second image of a row.

        Raises:
            DataError: the image is null or cannot be read. The message names file, row and column.
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
    """Return the encoded images of a row group. Rows are read in order, so a cache of two groups is enough."""
    return pq.ParquetFile(shard).read_row_group(group, columns=list(IMAGES))
