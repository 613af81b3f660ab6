"""Hold captioned images wherever their bytes lie, and look at each of them once."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import PIL
import pyarrow as pa
from accelerate import PartialState
from tqdm.auto import tqdm

from selfimprove.data.opening import Look, digest_of, look
from selfimprove.errors import DataError
from selfimprove.files import write_table

CHECKED = Path("runs/datasets/checked")  # keeps what was found in the images of a source, one file per source
THREADS = min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@dataclass(frozen=True)
class Item:
    """An image and its captions. `name` stands in messages, and is the item's own within its source.

    `read` returns the encoded image, or raises OSError. `stamp`: size and time of the file that holds it.
    """

    name: str
    captions: tuple[str, ...]
    read: Callable[[], bytes] = field(repr=False, compare=False)
    stamp: tuple[int, int]
    in_shard: bool = False  # whether a shard is read as a whole to reach it

    def image(self, seen: Look) -> bytes:
        """Return the encoded image.

        Raises:
            DataError: it is another one than was looked at when the data were loaded, or cannot be read any more.
        """
        try:
            encoded = self.read()
        except OSError as error:
            raise DataError(f"{self.name} cannot be read any more ({error}); put it back, and start again") from error
        if digest_of(encoded) != seen.digest:
            raise DataError(f"{self.name} has changed since the data were loaded; start again, so that the run knows what it trains on")
        return encoded


@dataclass
class Listing:
    """What a source holds: its images, what is `skipped` and why, one text each, and `notes` on all of it."""

    items: list[Item] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def stamp_of(path: Path) -> tuple[int, int]:
    """Return the size and the time of change of a file, by which it is known not to have changed."""
    state = path.stat()
    return state.st_size, state.st_mtime_ns


def looks(source: str, items: Sequence[Item]) -> list[Look]:
    """Return what a look at each item tells, in order. What was found is kept in `CHECKED`, where that can be written.

    An item is looked at again only if the size or the time of its file changes. With several processes the main one looks first.
    """
    about = f"{Path(source).resolve()} {PIL.__version__} {Look._fields}"
    path = CHECKED / f"{hashlib.sha256(about.encode()).hexdigest()[:16]}.parquet"
    with PartialState().main_process_first():
        known = _kept(path)
        new = [item for item in items if (item.name, *item.stamp) not in known]
        pool, found = ThreadPoolExecutor(THREADS), dict[tuple[str, int, int], Look]()
        try:
            for item, seen in zip(new, tqdm(pool.map(_look, new), "opening images", len(new), leave=False, disable=not new), strict=True):
                found[item.name, *item.stamp] = seen
        finally:
            pool.shutdown(cancel_futures=True)
            known |= found
            if lasting := {key: seen for key, seen in found.items() if seen.digest}:  # what could not be read may be readable next time
                _keep(path, {key: seen for key, seen in known.items() if key in lasting or seen.digest})
    return [known[item.name, *item.stamp] for item in items]


def _look(item: Item) -> Look:
    try:
        return look(item.read())
    except OSError as error:
        return Look("", f"the file cannot be read ({error.strerror or error})")


def _kept(path: Path) -> dict[tuple[str, int, int], Look]:
    try:
        frame = pd.read_parquet(path)
        return {(name, size, time): Look(*seen) for name, size, time, *seen in frame.itertuples(index=False)}
    except (OSError, pa.ArrowException, TypeError, ValueError):  # none yet, or damaged: all is looked at again
        return {}


def _keep(path: Path, found: dict[tuple[str, int, int], Look]) -> None:
    try:
        write_table(path, pd.DataFrame([(*key, *seen) for key, seen in found.items()], columns=["name", "size", "time", *Look._fields]))
    except (OSError, ValueError):  # a folder that cannot be written, or a name that is no Unicode: the next start looks again
        return
