"""Read captioned images out of parquet shards, as `datasets` writes them, and out of tar archives, as webdataset writes them."""

import json
import os
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selfimprove.data import tables
from selfimprove.data.items import Item, Listing, stamp_of
from selfimprove.data.opening import SUFFIXES
from selfimprove.errors import DataError

CAPTIONS = (".txt", ".caption", ".TXT")  # endings of the files that hold the caption of the image of the same name
_lock = Lock()


def train_shards(folder: Path, ending: str) -> tuple[list[Path], list[str]]:
    """Return the shards of a folder in `datasets`' layout, only those of its train part, and notes on the others.

    Where parquet shards are asked for, the arrow files of `datasets`' save_to_disk serve as well.

    Raises:
        DataError: the data set was saved in parts of which none is called train, or what describes it is damaged.
    """
    if ending == ".parquet" and (saved := _saved(folder)):
        return saved
    for place in (folder, folder / "data", folder / "train"):
        found = sorted(p for p in place.glob(f"*{ending}") if p.is_file() and p.name not in tables.NAMES and not p.name.startswith("."))
        train = [p for p in found if p.name.startswith("train")]
        if others := [p.name for p in found if p not in train] if train else []:
            return train, [f"{len(others)} files of other parts than train are not read: {', '.join(others[:5])}"]
        if found:
            return found, []
    return [], []


def _saved(folder: Path) -> tuple[list[Path], list[str]] | None:
    """Return the arrow files of a data set that was saved to disk, and notes on its other parts; None if the folder holds none.

    Other arrow files, such as those in which `datasets` keeps what it has computed, are left alone.
    """
    parts, described = folder / "dataset_dict.json", (folder / "state.json", folder / "dataset_info.json")
    if not parts.is_file() and not all(path.is_file() for path in described):
        return None
    try:
        splits = json.loads(parts.read_bytes())["splits"] if parts.is_file() else []
        place = folder / "train" if splits else folder
        files = [place / each["filename"] for each in json.loads((place / "state.json").read_bytes())["_data_files"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{folder} is damaged, or has no part called train ({error}); give the folder of a part, or save it again"
        ) from error
    return files, [f"only the part train is read, not {', '.join(n for n in splits if n != 'train')}"] * (len(splits) > 1)


class Dropped(Counter[str]):
    """Numbers of rows that are not used: `ties` and `unlabelled` ones have no preference.

    In a streamed set, `incomplete` rows lack a caption or an image, and `unreadable` rows have an image that cannot be read.
    """

    def __str__(self) -> str:
        return "rows dropped: " + ", ".join(f"{count} {name}" for name, count in sorted(self.items()) if count)

    def add_recorded(self, shard: pq.ParquetFile | tables.ArrowFile) -> None:
        """Add the rows that were dropped while a shard was streamed."""
        self.update(json.loads((shard.schema_arrow.metadata or {}).get(b"dropped", b"{}")))

    def first_wins(self, row: Mapping[str, Any], where: str) -> bool | None:
        """Return whether the first image of a row was preferred. A tie or an unlabelled row is counted, and the result is None.

        Raises:
            DataError: the labels are not 1 and 0, 0 and 1, or 0.5 each.
        """
        labels = (row["label_0"], row["label_1"])
        if not row["has_label"]:
            self["unlabelled"] += 1
        elif labels not in ((1, 0), (0, 1), (0.5, 0.5)):  # null and NaN are not valid either, and equal none of these
            raise DataError(
                f"{where}: the labels {labels[0]} and {labels[1]} must be 1 and 0, 0 and 1, or 0.5 each; mend or remove the row"
            )
        elif labels[0] == 0.5:
            self["ties"] += 1
        else:
            return bool(labels[0] == 1)
        return None


@lru_cache(maxsize=2)
def _group(shard: Path, stamp: tuple[int, int], group: int, column: tuple[str, ...]) -> pa.Table:
    """Return a row group; `stamp` makes a changed file another one. Rows are read in order, so a cache of two groups is enough."""
    return tables.read_group(tables.open_shard(shard), shard, group, list(column))


def read_cell(shard: Path, group: int, place: int, column: str, columns: tuple[str, ...]) -> bytes:
    """Return the encoded image in a cell: bytes, a structure of bytes and path, or the path of a file below the shard's folder.

    `columns`: those that are read at once. Raises OSError if the cell is null or the file is not there.
    """
    with _lock:
        value: Any = _group(shard, stamp_of(shard), group, columns)[column][place].as_py()
    if isinstance(value, dict):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) and value:
        return within(shard.parent, value, f"{shard}, {column}").read_bytes()
    raise OSError(f"{column} is null" if not value else f"{column} holds no image: {str(value)[:50]!r}")


def within(folder: Path, name: str, where: str) -> Path:
    """Return the path that a table gives, taken from `folder`; links inside the folder may lead out of it.

    Raises:
        DataError: the path leads out of the folder.
    """
    path = Path(os.path.normpath(folder.absolute() / name))
    if not (path.is_relative_to(os.path.normpath(folder.absolute())) or path.is_relative_to(folder.resolve())):
        raise DataError(f"{where} names {name!r}, which lies outside {str(folder)!r}; move the file into it, or give a folder above both")
    return path


def parquet_images(shards: Sequence[Path], image_column: str, caption_column: str) -> Listing:
    """Return the images of parquet shards with a column of encoded images and one of captions.

    Raises:
        DataError: a shard is damaged, a column is missing, or a caption is no text. The message names file and row.
    """
    listing, dropped = Listing(), Dropped()
    for shard in shards:
        file = tables.open_shard(shard)
        dropped.add_recorded(file)
        kinds = {each.name: tables.is_image(each.type) for each in file.schema_arrow}
        pictures = [name for name, image in kinds.items() if image or name == image_column]
        image, text = tables.choose_columns(list(kinds), pictures, str(shard), image_column, caption_column)
        for number, (group, place, row) in enumerate(tables.numbered_rows(file, shard, [text]), start=1):
            name, read = f"{shard.name}, row {number}", partial(read_cell, shard, group, place, image, (image,))
            listing.items.append(Item(name, tables.captions_of(row[text], name, free=True), read, stamp_of(shard), in_shard=True))
    if not listing.items:
        raise DataError(f"{', '.join(p.name for p in shards)} has no rows; give shards with images")
    listing.notes += [str(dropped)] * bool(dropped)
    return listing


def tar_images(archives: Sequence[Path], caption_column: str) -> Listing:
    """Return the images of tar archives. An image and its caption, a txt, caption or json member, have one name but for the ending.

    Raises:
        DataError: an archive is cut off, compressed or none, or a caption is no text. The message names archive and member.
    """
    listing = Listing()
    for archive in archives:
        members: dict[str, dict[str, tuple[int, int]]] = {}
        try:
            with tarfile.open(archive, "r:") as tar:
                for member in tar:
                    if member.isfile() and not PurePosixPath(member.name).name.startswith("."):
                        stem, ending = os.path.splitext(member.name)
                        members.setdefault(stem, {})[ending.lower()] = member.offset_data, member.size
        except (tarfile.TarError, OSError, EOFError) as error:
            raise DataError(f"{archive} is cut off or no tar archive ({error}); replace it, and unpack a compressed one") from error
        stamp = stamp_of(archive)
        for stem, parts in members.items():
            where = f"{archive.name}/{stem}"
            pictures = [ending for ending in parts if ending in SUFFIXES]
            texts = [ending for ending in (*CAPTIONS, ".json") if ending in parts]
            if len(pictures) != 1 or not texts:
                said = "no caption (.txt or .json)" if not texts else f"several images ({', '.join(pictures)})" if pictures else "no image"
                listing.skipped.append(f"{where}: {said}")
                continue
            value: Any = tables.decode(_slice(archive, *parts[texts[0]]), where + texts[0])
            if texts[0] == ".json":
                value = _field(value, where + texts[0], caption_column)
            read = partial(_slice, archive, *parts[pictures[0]])
            listing.items.append(Item(where + pictures[0], tables.captions_of(value, where + texts[0], free=True), read, stamp))
    return listing


def _field(text: str, where: str, caption_column: str) -> Any:
    try:
        row = json.loads(text)
    except ValueError as error:
        raise DataError(f"{where} is no JSON ({error}); mend or remove it") from error
    if not isinstance(row, dict):
        raise DataError(f"{where} holds no object; write one with a text")
    return row[tables.choose_column(list(row), caption_column, tables.CAPTION_COLUMNS, "caption_column", where)]


def _slice(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(offset)
        found = stream.read(size)
    if len(found) < size:
        raise DataError(f"{path} is cut off; replace it")
    return found
