"""List the captioned images of a folder in the forms in which people have them, with what is left out and why."""

import os
import unicodedata
from collections.abc import Collection, Iterator
from pathlib import Path

from selfimprove.data import tables
from selfimprove.data.items import Item, Listing, stamp_of
from selfimprove.data.opening import SUFFIXES
from selfimprove.data.shards import CAPTIONS, parquet_images, tar_images, train_shards, within
from selfimprove.data.tables import FORMS, Table, captions_of, decode, holds_images
from selfimprove.errors import DataError
from selfimprove.models.resolve import is_hub_id, no_such
from selfimprove.presets import EMBEDDED

PACKED = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".rar")  # endings of what is to be unpacked first


class Files:
    """The files below a folder but hidden ones. `names`: each by its path in it, in Unicode's composed form; `broken`: links to nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.broken, self._seen = folder, list[str](), set[str]()
        self.names = dict(sorted(self._walk(folder)))

    def _walk(self, folder: Path) -> Iterator[tuple[str, Path]]:
        if (place := os.path.realpath(folder)) in self._seen:  # a link to a folder above
            return
        self._seen.add(place)
        for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
            name = unicodedata.normalize("NFC", path.relative_to(self.folder).as_posix())
            if path.is_dir():
                yield from self._walk(path)
            elif path.is_file():
                yield name, path
            else:
                self.broken.append(f"{name}: no file, or a link that leads nowhere")

    def find(self, name: str, where: str) -> Path | None:
        """Return the file that a table names, or None if there is none. Windows' separators and either Unicode form are read too.

        Raises:
            DataError: the name leads out of the folder.
        """
        for form in (name, name.replace("\\", "/")):
            path = within(self.folder, form, where)
            if path.is_file():
                return path
        return self.names.get(unicodedata.normalize("NFC", os.path.normpath(name.replace("\\", "/"))))

    def other(self, name: str) -> str:
        """Return, for a message, the file whose name differs from this one by capitals alone, or an empty text."""
        same = (n for n in self.names if n.casefold() == unicodedata.normalize("NFC", name).casefold())
        return next((f", which has {n!r}" for n in same), "")

    def left(self, used: Collection[Path]) -> list[str]:
        """Return a note on the files that are neither images nor `used`."""
        left = [name for name, path in self.names.items() if path.suffix.lower() not in SUFFIXES and path not in used]
        return [f"files that are no images and are not read: {len(left)} ({', '.join(left[:3])})"] if left else []


def check_there(data: str) -> None:
    """Raise DataError if `data` is neither embedded, nor a file or folder here, nor, by its form, the id of a data set on the hub."""
    if data not in EMBEDDED and not os.path.exists(os.path.expanduser(data)) and not is_hub_id(data):
        raise DataError(no_such("data", data, "'shapes' or a folder of images, a table, a shard, a tar archive, or a hub id owner/name"))


def list_images(path: Path, image_column: str = "", caption_column: str = "") -> Listing:
    """Return the captioned images of a folder, or of a table, a parquet shard or a tar archive in one.

    A folder is read in the first of these forms that it has: a metadata table; parquet shards with images, or tar archives (in it, in data/
    or in train/); the same or images in train/; metadata tables in folders below it; images with caption files beside them.

    Raises:
        DataError: there is nothing to read in these forms, or it cannot be read; see `tables`, `shards`.
    """
    columns, said = (image_column, caption_column), f"data={str(path)!r}"
    if path.is_file():
        if path.suffix == ".tar" or (path.suffix in tables.SHARDS and holds_images([path])):
            return tar_images([path], caption_column) if path.suffix == ".tar" else parquet_images([path], *columns)
        if path.suffix in (".jsonl", ".csv", ".tsv", ".parquet"):
            return _of_tables(path.parent, [path], *columns)
        if path.name.lower().endswith(PACKED):
            raise DataError(f"{said} is packed; unpack it (tar -xf, unzip, zstd -d), and give the folder or the file that comes out")
        raise DataError(f"{said} is a file of a kind that is not read; give a folder with {FORMS}")
    if not any(path.iterdir()):
        raise DataError(f"{said} is empty; put images and a metadata.jsonl into it")
    found = _of_folder(path, *columns)
    for train in (path / "train", path / "data" / "train"):
        if not found and train.is_dir() and (found := _of_folder(train, *columns) or _beside(train)):
            others = sorted(p.name + "/" for p in train.parent.iterdir() if p.is_dir() and p != train and not p.name.startswith("."))
            found.notes += [f"only train/ is read, not {', '.join(others[:5])}"] * bool(others)
    names = {} if found else Files(path).names
    if below := [p for p in names.values() if p.name in tables.NAMES and p == _tables(p.parent)[0]]:
        found = _of_tables(path, below, *columns)
    found = found or _beside(path)
    if not found:
        packed = [name for name in names if name.lower().endswith(PACKED)]
        others = packed or [name for name, path in names.items() if path.suffix.lower() not in SUFFIXES] or [*names]
        there = f"it has {', '.join(others[:3])}; " + "unpack that, or " * bool(packed) if names else ""
        raise DataError(
            f"{said} has no metadata.jsonl or metadata.csv; {there}write one row an image: {FORMS} are read, and a table "
            "of another name where data names it"
        )
    return found


def _tables(folder: Path) -> list[Path]:
    return [folder / name for name in tables.NAMES if (folder / name).is_file()]


def _of_folder(folder: Path, image_column: str, caption_column: str) -> Listing | None:
    """Return what the tables or shards of a folder list; None if it has none."""
    if found := _tables(folder):
        return _of_tables(folder, found[:1], image_column, caption_column)
    shards, notes = train_shards(folder, ".parquet")
    if shards and holds_images(shards):
        listing = parquet_images(shards, image_column, caption_column)
    else:
        shards, notes = train_shards(folder, ".tar")
        listing = tar_images(shards, caption_column)
    listing.notes += notes
    listing.skipped += [f"{p.name}: packed; unpack it to have it read" for p in sorted(folder.iterdir()) if p.name.lower().endswith(PACKED)]
    return listing if shards else None


def _of_tables(folder: Path, listed: list[Path], image_column: str, caption_column: str) -> Listing:
    """Return the images that tables name, each with all its captions."""
    captions: dict[Path, list[str]] = {}
    listing, repeated, names = Listing(), list[str](), ", ".join(p.name for p in listed[:2])
    for path in listed:
        table, files = tables.read_table(path), Files(path.parent)
        for where, file, given in table_rows(table, image_column, caption_column):
            found = files.find(file, where)
            if not found and Path(file).suffix.lower() not in SUFFIXES:
                raise DataError(f"{where} names {file[:80]!r}, which is not in the folder and no name of an image; mend a shifted column")
            if not found:
                listing.skipped.append(f"{file}: named in {where}, but not in the folder{files.other(file)}")
                continue
            known = captions.setdefault(found, [])
            repeated += [where] if set(given) <= set(known) else []
            known += [text for text in given if text not in known]
    listing.items += [_item(folder, path, tuple(texts)) for path, texts in captions.items()]
    used, files = {os.path.realpath(path) for path in captions}, Files(folder)
    others = [name for name, path in files.names.items() if path.suffix.lower() in SUFFIXES and os.path.realpath(path) not in used]
    listing.skipped += [*files.broken, *(f"{name}: in the folder, but not named in {names}" for name in others)]
    listing.notes += [f"rows that repeat an earlier one: {len(repeated)} ({', '.join(repeated[:3])})"] if repeated else []
    listing.notes += files.left(listed)
    return listing


def table_rows(table: Table, image_column: str, caption_column: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield where a row stands, the file that it names, and its captions.

    Raises:
        DataError: a column is missing, or a row lacks a file name or a caption that is text.
    """
    file = tables.choose_column(table.columns, image_column, tables.FILE_COLUMNS, "image_column", table.path.name)
    others = [column for column in table.columns if column != file]
    text = tables.choose_column(others, caption_column, tables.CAPTION_COLUMNS, "caption_column", table.path.name)
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
    listing.skipped += files.broken
    listing.notes += files.left(used)
    return listing if used else None


def _item(folder: Path, path: Path, captions: tuple[str, ...]) -> Item:
    name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
    return Item(name, captions, path.read_bytes, stamp_of(path))
