"""List the captioned images of a folder in the forms in which people have them, with what is left out and why."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from selfimprove.data.items import Item, Listing, stamp_of
from selfimprove.data.opening import SUFFIXES
from selfimprove.data.shards import CAPTIONS, parquet_images, tar_images, train_shards, within
from selfimprove.data.tables import (
    CAPTION_COLUMNS,
    EXAMPLE,
    FILE_COLUMNS,
    NAMES,
    Table,
    captions_of,
    choose_column,
    decode,
    is_image,
    open_parquet,
    read_table,
)
from selfimprove.errors import DataError

FORMS = (
    f"a metadata.jsonl with one row an image, such as {EXAMPLE} (or metadata.csv, .tsv, .parquet), a .txt or .caption file beside each "
    "image, parquet shards or tar archives"
)


class Files:
    """The files below a folder, by their paths in it; hidden ones are left out. Names are found in either Unicode form."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def names(self) -> dict[str, Path]:
        """Return every file by its path in the folder, in Unicode's composed form, in the order of these paths."""
        return {name: path for name, path in sorted(self._walk(self.folder, set()))}

    def _walk(self, folder: Path, seen: set[str]) -> Iterator[tuple[str, Path]]:
        if (place := os.path.realpath(folder)) in seen:  # a link to a folder above
            return
        seen.add(place)
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):
                continue
            if path.is_dir():
                yield from self._walk(path, seen)
            else:
                yield unicodedata.normalize("NFC", path.relative_to(self.folder).as_posix()), path

    def find(self, name: str, where: str) -> Path | None:
        """Return the file that a table names, or None if there is none; Windows' separators are read too.

        Raises:
            DataError: the name leads out of the folder.
        """
        for form in (name, name.replace("\\", "/")):
            path = within(self.folder, form, where)
            if path.is_file():
                return path
        inside = os.path.normpath(name.replace("\\", "/"))
        return self.names.get(unicodedata.normalize("NFC", inside))

    def other(self, name: str) -> str:
        """Return the file whose name differs from this one by capitals alone, or an empty text."""
        return next((each for each in self.names if each.casefold() == unicodedata.normalize("NFC", name).casefold()), "")


def list_images(path: Path, image_column: str = "", caption_column: str = "") -> Listing:
    """Return the captioned images of a folder, or of a table, a parquet shard or a tar archive in one.

    A folder is read in the first of these forms that it has: a metadata table; parquet shards with images, or tar archives (in it, in data/
    or in train/); the same or images in train/; metadata tables in folders below it; images with caption files beside them.

    Raises:
        DataError: there is nothing to read in these forms, or it cannot be read; see `tables`, `shards`.
    """
    columns, said = (image_column, caption_column), f"data={str(path)!r}"
    if path.is_file():
        if path.suffix == ".tar":
            return tar_images([path], caption_column)
        if path.suffix == ".parquet" and any(is_image(field.type) for field in open_parquet(path).schema_arrow):
            return parquet_images([path], *columns)
        if path.suffix in (".jsonl", ".csv", ".tsv", ".parquet"):
            return _of_tables(path.parent, [path], *columns)
        raise DataError(f"{said} is a file of a kind that is not read; give a folder with {FORMS}")
    if not path.is_dir():
        raise DataError(f"{said}: there is no such folder; give 'shapes' or a folder of images")
    if not any(path.iterdir()):
        raise DataError(f"{said} is empty; put images and a metadata.jsonl into it")
    found = _of_folder(path, *columns)
    if not found and (path / "train").is_dir():
        found = _of_folder(path / "train", *columns) or _beside(path / "train")
        others = sorted(p.name + "/" for p in path.iterdir() if p.is_dir() and p.name != "train" and not p.name.startswith("."))
        if found and others:
            found.notes.append(f"only train/ is read, not {', '.join(others[:5])}")
    if not found and (tables := [p for name, p in Files(path).names.items() if name.rpartition("/")[2] in NAMES]):
        found = _of_tables(path, [p for p in tables if p == next(t for t in _tables(p.parent))], *columns)
    found = found or _beside(path)
    if not found:
        known = [name for name in Files(path).names if name.lower().endswith((".parquet", ".csv", ".jsonl", ".tsv", ".tar.gz", ".tgz"))]
        there = f"; it has {', '.join(known[:3])}, which are read as data=... if they name images" if known else ""
        raise DataError(f"{said} has no metadata.jsonl or metadata.csv; write one row an image: {FORMS} are read{there}")
    return found


def _tables(folder: Path) -> list[Path]:
    return [folder / name for name in NAMES if (folder / name).is_file()]


def _of_folder(folder: Path, image_column: str, caption_column: str) -> Listing | None:
    """Return what the tables or shards of a folder list; None if it has none."""
    if tables := _tables(folder):
        found = _of_tables(folder, tables[:1], image_column, caption_column)
        found.notes += [f"{table.name} is not read, as there is {tables[0].name}" for table in tables[1:]]
        return found
    shards, notes = train_shards(folder, ".parquet")
    if shards and any(is_image(field.type) for shard in shards for field in open_parquet(shard).schema_arrow):
        found = parquet_images(shards, image_column, caption_column)
        found.notes += notes
        return found
    archives, notes = train_shards(folder, ".tar")
    if not archives:
        return None
    found = tar_images(archives, caption_column)
    found.notes += notes
    return found


def _of_tables(folder: Path, tables: list[Path], image_column: str, caption_column: str) -> Listing:
    """Return the images that tables name, each with all its captions."""
    captions: dict[Path, list[str]] = {}
    listing, repeated = Listing(), list[str]()
    for path in tables:
        table, files = read_table(path), Files(path.parent)
        for where, file, given in table_rows(table, image_column, caption_column):
            found = files.find(file, where)
            if not found and Path(file).suffix.lower() not in SUFFIXES:
                raise DataError(f"{where} names {file[:80]!r}, which is not in the folder and no name of an image; mend a shifted column")
            if not found:
                other = files.other(file)
                listing.skipped.append(f"{file}: named in {where}, but not in the folder" + (f", which has {other!r}" if other else ""))
                continue
            known = captions.setdefault(found, [])
            if set(given) <= set(known):
                repeated.append(where)
            known += [text for text in given if text not in known]
    for found, texts in captions.items():
        listing.items.append(_item(folder, found, tuple(texts)))
    listed, files = {os.path.realpath(path) for path in captions}, Files(folder)
    images = [name for name, path in files.names.items() if path.suffix.lower() in SUFFIXES and os.path.realpath(path) not in listed]
    listing.skipped += [f"{name}: in the folder, but not named in {', '.join(p.name for p in tables[:2])}" for name in images]
    if repeated:
        listing.notes.append(f"{len(repeated)} rows repeat an earlier one: {', '.join(repeated[:3])}")
    if beside := [name for name in files.names if name.endswith(CAPTIONS)]:
        listing.notes.append(f"{len(beside)} text files are not read, as there is {tables[0].name}: {', '.join(beside[:3])}")
    return listing


def table_rows(table: Table, image_column: str, caption_column: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield where a row stands, the file that it names, and its captions.

    Raises:
        DataError: a column is missing, or a row lacks a file name or a caption that is text.
    """
    file = choose_column(table.columns, image_column, FILE_COLUMNS, "image_column", table.path.name)
    others = [column for column in table.columns if column != file]
    text = choose_column(others, caption_column, CAPTION_COLUMNS, "caption_column", table.path.name)
    for where, fields in table.rows:
        name = fields.get(file)
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{where} has no file name in {file!r} ({name!r:.50}); write one or remove the row")
        if text not in fields:
            raise DataError(f"{where} ({name}) lacks {text!r}; both {file} and {text} are needed")
        yield where, name.strip(), captions_of(fields[text], f"{where} ({name.strip()})")


def _beside(folder: Path) -> Listing | None:
    """Return the images that have a caption file beside them; None if no image has one."""
    files = Files(folder)
    listing, used = Listing(), set[Path]()
    for name, path in files.names.items():
        if path.suffix.lower() not in SUFFIXES:
            continue
        beside = [p for p in (*(path.with_suffix(ending) for ending in CAPTIONS), path.with_name(path.name + ".txt")) if p.is_file()]
        used.update(beside)
        texts = [" ".join(decode(p.read_bytes(), p).split()) for p in beside]
        if len(set(texts)) > 1:
            raise DataError(f"{name} has several caption files ({', '.join(p.name for p in beside)}) that differ; keep one")
        if not texts or not texts[0]:
            listing.skipped.append(f"{name}: " + ("its caption file is empty" if texts else f"no caption file ({path.stem}.txt) beside it"))
            continue
        listing.items.append(_item(folder, path, captions_of(texts[0], str(beside[0]), free=True)))
    left = [name for name, path in files.names.items() if path.suffix.lower() not in SUFFIXES and path not in used]
    kinds = Counter(Path(name).suffix for name in left)
    if left:
        listing.notes.append(f"{len(left)} files are no images and belong to none ({', '.join(kinds)}): {', '.join(left[:3])}")
    return listing if used else None


def _item(folder: Path, path: Path, captions: tuple[str, ...]) -> Item:
    name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
    return Item(name, captions, path.read_bytes, stamp_of(path))
