"""Stream a data set from the hub, of captioned images or of labelled pairs, into parquet shards, as far as a run needs it."""

import json
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import PartialState
from tqdm.auto import tqdm

from selfimprove.data.opening import look
from selfimprove.data.pairs import COLUMNS, IMAGES, LABELS
from selfimprove.data.shards import Dropped
from selfimprove.data.tables import choose_columns
from selfimprove.errors import DataError
from selfimprove.files import replacing

STREAMED = Path("runs/datasets")  # holds the streamed parts of hub data sets
ROWS = 256  # rows per shard; a shard with fewer (even none) is the last
PAIRS = pa.schema(zip(COLUMNS, (pa.string(), pa.binary(), pa.binary(), pa.float64(), pa.float64(), pa.bool_()), strict=True))
CAPTIONED = pa.schema([("image", pa.binary()), ("text", pa.list_(pa.string()))])


def streamed(source: str, count: int, image_column: str = "", caption_column: str = "") -> str:
    """Return a folder of shards with at least the first `count` captioned images of the `train` split of a hub data set.

    A data set with the columns of labelled pairs gives the first pairs instead; ties do not count. `source` is the data set's id,
    owner/name. The columns `image` and `text` of a shard hold what `image_column` and `caption_column` name, or those of usual names.
    Streaming continues after the last existing shard and stops when enough is there. A shard is written under a temporary name, then
    renamed, and never changed. A shard of fewer than `ROWS` rows ends the data set. With several processes the main one streams while the
    others wait. If that takes more than a few minutes, stream with one process first.

    Raises:
        DataError: the data set cannot be reached or read further, lacks columns, or has invalid labels.
    """
    columns = (image_column, caption_column)
    folder = (STREAMED / "--".join([*source.split("/"), *(columns if any(columns) else ())])).resolve()
    with PartialState().main_process_first():
        done = sorted(folder.glob("*.parquet"))
        if done and done[-1].stem != f"{len(done) - 1:06d}":
            raise DataError(f"{folder}: a shard before {done[-1].name} is missing; remove the folder, to have the data set streamed anew")
        last = pq.read_metadata(done[-1]) if done else None
        if not (last and (last.num_rows < ROWS or ROWS * len(done) >= count)):
            position = json.loads(last.metadata[b"position"]) if last else {"rows": 0}
            try:
                _stream(source, folder, len(done), -(-count // ROWS), position, *columns)
            except DataError:
                raise
            except Exception as error:  # the hub client raises many unrelated types
                raise DataError(
                    f"data={source!r}: no such folder or file here, and the data set of that id could not be streamed "
                    f"({type(error).__name__}: {error}); check the id, the connection and, where it asks for one, your login "
                    "(hf auth login), or give a folder; what has been streamed is kept, so start again to go on"
                ) from error
    return str(folder)


def _stream(source: str, folder: Path, first: int, end: int, position: dict[str, Any], *columns: str) -> None:
    """Write shards `first` to `end` - 1 from the rows after `position`, where the previous shard ended."""
    from datasets import Image, load_dataset  # slow to import, and only needed here

    stream = load_dataset(source, split="train", streaming=True)
    for name, kind in (getattr(stream, "features", None) or {}).items():
        if isinstance(kind, Image):  # as they are encoded, not decoded by the library
            stream = stream.cast_column(name, Image(decode=False))
    sample: Mapping[str, Any] = next(iter(stream), {})
    pairs = not {*LABELS}.isdisjoint(sample)
    images = [name for name, value in sample.items() if isinstance(value, bytes) or (isinstance(value, dict) and "bytes" in value)]
    image, text = ("", "caption") if pairs or not sample else choose_columns(list(sample), images, f"data={source!r}", *columns)
    rows: Iterable[Mapping[str, Any]] = stream
    if "state" in position and hasattr(stream, "load_state_dict"):  # skips whole files of the data set without fetching them
        stream.load_state_dict(position["state"])
    else:
        rows = islice(iter(stream), position["rows"], None)
    folder.mkdir(parents=True, exist_ok=True)
    kept: list[dict[str, Any]] = []
    dropped, read, shard = Dropped(), position["rows"], first

    def write() -> None:
        here = {"rows": read} | ({"state": stream.state_dict()} if hasattr(stream, "state_dict") else {})
        metadata = {"dropped": json.dumps(dropped), "position": json.dumps(here)}
        table = pa.Table.from_pylist(kept, (PAIRS if pairs else CAPTIONED).with_metadata(metadata))
        path = folder / f"{shard:06d}.parquet"
        with replacing(path) as unfinished:  # concurrent runs may write the same shard
            pq.write_table(table, unfinished, compression="none", use_dictionary=False)  # images are already compressed

    with tqdm(desc=f"streaming {source}", unit="rows", initial=first * ROWS, total=end * ROWS) as progress:
        for row in rows:
            read += 1
            found = _kept(row, f"data={source!r}, row {read}", dropped, image, text)
            if not found:
                continue
            kept.append(found)
            progress.update()
            if len(kept) == ROWS:
                write()
                kept, dropped, shard = [], Dropped(), shard + 1
                if shard == end:
                    return
        write()


def _kept(row: Mapping[str, Any], where: str, dropped: Dropped, image: str, text: str) -> dict[str, Any] | None:
    """Return a row as a shard holds it, or None for one that is of no use, which is counted. Without `image` the row is of pairs."""
    if not image and (missing := [c for c in COLUMNS if c not in row]):
        raise DataError(f"{where} lacks the columns {missing}; Pick-a-Pic has {list(COLUMNS)}")
    if not image and dropped.first_wins(row, where) is None:
        return None
    texts = row[text] if isinstance(row[text], list) else [row[text]]
    images = {"image": _bytes(row[image])} if image else {name: _bytes(row[name]) for name in IMAGES}
    if not (texts and all(isinstance(each, str) and each.strip() for each in texts) and all(images.values())):
        dropped["incomplete"] += 1
    elif any(look(encoded or b"").problem for encoded in images.values()):
        dropped["unreadable"] += 1
    else:
        return {"text": texts, **images} if image else {name: row[name] for name in COLUMNS} | images
    return None


def _bytes(value: Any) -> bytes | None:
    """Return the encoded image in a cell. Where the data set is a folder of image files, the cell holds an address."""
    if not isinstance(value, dict):
        return value
    if value.get("bytes") is None and value.get("path"):
        with fsspec.open(value["path"], "rb") as stream:
            return stream.read()
    return value.get("bytes")
