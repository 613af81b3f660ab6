"""Write files whole or not at all, and know them again by their contents."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import PartialState

from selfimprove.errors import SelfImproveError

UNFINISHED = ".unfinished"  # the ending of every temporary name: the next one who holds the folder's lock removes what a killed one left
_hashes: dict[tuple[int, int, int, int], str] = {}


class DamagedFileError(SelfImproveError):
    """A file is missing, cut off, changed or of another origin; the message names the file and says how to go on."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, for a file or a folder; when the block ends well, sync it and put it in `path`'s place.

    The name is unique among processes and hosts. If the block fails, what it wrote is removed and `path` is as before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished, before = (path.with_name(f"{path.name}.{uuid4().hex[:12]}{UNFINISHED}") for _ in range(2))
    try:
        yield unfinished
        for file in sorted(unfinished.rglob("*")) if unfinished.is_dir() else [unfinished]:
            if file.is_file():
                _sync(file)
        if path.is_dir() and not path.is_symlink():  # a folder cannot be replaced in one step
            path.rename(before)
        unfinished.replace(path)
        _sync(path.parent)
    finally:
        remove(unfinished)
        remove(before)


def _sync(path: Path) -> None:
    """Have the disk write what the system holds of a file or folder, so that a power cut leaves the old or the new, never an empty file."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def missing(path: Path) -> DamagedFileError:
    """Return the error of a file that should be there."""
    return DamagedFileError(f"{path} is missing; restore it, or delete its folder to have it made again")


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left half written anywhere below a folder. Only its holder may call this."""
    for path in sorted(folder.rglob(f"*{UNFINISHED}"), reverse=True):
        remove(path)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal. A process reads a file once, unless its size, time or identity on the disk changes.

    Raises:
        DamagedFileError: the file is not there.
    """
    try:
        state = path.stat()
        key = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)  # one file, whatever its names: players link the base's parts
        if key not in _hashes:
            with path.open("rb") as file:
                _hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise missing(path) from error
    return _hashes[key]


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        DamagedFileError: the file is missing, empty or cut off.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise missing(path) from error
    except ValueError as error:
        raise DamagedFileError(f"{path} is cut off or no JSON ({error}); restore it, or delete its folder to have it made again") from error


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, in which NaN and infinity, which JSON does not have, are null. Only the main process writes."""
    if PartialState().is_main_process:
        plain = json.loads(json.dumps(value, default=str), parse_constant=lambda constant: None)
        with replacing(path) as unfinished:
            unfinished.write_text(json.dumps(plain, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a parquet file. Only the main process writes.

    Columns of floats are stored by byte position (BYTE_STREAM_SPLIT), which compresses them by half more. Nothing is rounded. The metadata
    of pandas is stored once, not a second time as an Arrow schema, which would be most of a small file.
    """
    if PartialState().is_main_process:
        floats = [str(c) for c in table if table[c].dtype.kind == "f"]
        others = [str(c) for c in (*table.index.names, *table) if c is not None and str(c) not in floats]
        split = dict.fromkeys(floats, "BYTE_STREAM_SPLIT")
        arrow = pa.Table.from_pandas(table)
        with replacing(path) as unfinished, pq.ParquetWriter(
            unfinished, arrow.schema.remove_metadata(), compression="zstd", compression_level=19, use_dictionary=others or False,
            column_encoding=split or None, write_statistics=False, store_schema=False,
        ) as file:  # fmt: skip
            file.write_table(arrow.replace_schema_metadata())
            file.add_key_value_metadata({"pandas": arrow.schema.metadata[b"pandas"]})
