"""Stream a data set of labelled pairs from the hub into parquet shards, as far as a run needs it."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import PartialState
from tqdm.auto import tqdm

from selfimprove.data.opening import look
from selfimprove.data.pairs import COLUMNS, IMAGES, Dropped
from selfimprove.errors import DataError
from selfimprove.files import replacing

STREAMED = Path("runs/datasets")  # holds the streamed parts of hub data sets
ROWS = 256  # pairs per shard; a shard with fewer (even none) is the last
_KINDS = (pa.string(), pa.binary(), pa.binary(), pa.float64(), pa.float64(), pa.bool_())  # types of `COLUMNS`


def streamed(source: str, count: int) -> str:
    """Return a folder of shards with at least the first `count` labelled pairs of the `train` split of a hub data set (ties do not count).

    `source` is the data set's id, owner/name. Streaming continues after the last existing shard and stops when enough pairs are there. A
    shard is written under a temporary name, then renamed, and never changed. A shard of fewer than `ROWS` pairs ends the data set. With
    several processes the main one streams while the others wait. If that takes more than a few minutes, stream with one process first.

    Raises:
        DataError: the data set cannot be reached or read further, lacks columns, or has invalid labels.
    """
    folder = (STREAMED / source.replace("/", "--")).resolve()
    with PartialState().main_process_first():
        done = sorted(folder.glob("*.parquet"))
        if done and done[-1].stem != f"{len(done) - 1:06d}":
            raise DataError(f"{folder}: a shard before {done[-1].name} is missing; remove the folder, to have the data set streamed anew")
        last = pq.read_metadata(done[-1]) if done else None
        if not (last and (last.num_rows < ROWS or ROWS * len(done) >= count)):
            position = json.loads(last.metadata[b"position"]) if last else {"rows": 0}
            try:
                _stream(source, folder, len(done), -(-count // ROWS), position)
            except DataError:
                raise
            except Exception as error:  # the hub client raises many unrelated types
                raise DataError(
                    f"data={source!r}: no such folder or file here, and the data set of that id could not be streamed "
                    f"({type(error).__name__}: {error}); check the id, the connection and, where it asks for one, your login "
                    "(hf auth login), or give a folder; what has been streamed is kept, so start again to go on"
                ) from error
    return str(folder)


def _stream(source: str, folder: Path, first: int, end: int, position: dict[str, Any]) -> None:
    """Write shards `first` to `end` - 1 from the rows after `position`, where the previous shard ended."""
    from datasets import Image, load_dataset  # slow to import, and only needed here

    stream = load_dataset(source, split="train", streaming=True)
    for name, kind in (getattr(stream, "features", None) or {}).items():
        if isinstance(kind, Image):  # as they are encoded, not decoded by the library
            stream = stream.cast_column(name, Image(decode=False))
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
        metadata = {"dropped": json.dumps(asdict(dropped)), "position": json.dumps(here)}
        table = pa.Table.from_pylist(kept, pa.schema(list(zip(COLUMNS, _KINDS, strict=True)), metadata))
        path = folder / f"{shard:06d}.parquet"
        with replacing(path) as unfinished:  # concurrent runs may write the same shard
            pq.write_table(table, unfinished, compression="none", use_dictionary=False)  # images are already compressed

    with tqdm(desc=f"streaming {source}", unit="pairs", initial=first * ROWS, total=end * ROWS) as progress:
        for row in rows:
            read += 1
            if missing := [c for c in COLUMNS if c not in row]:
                raise DataError(f"data={source!r} lacks the columns {missing}; Pick-a-Pic has {list(COLUMNS)}")
            if dropped.first_wins(row, f"{source}, row {read}") is None:
                continue
            images = {name: row[name]["bytes"] if isinstance(row[name], dict) else row[name] for name in IMAGES}
            if not (isinstance(row["caption"], str) and row["caption"].strip() and all(images.values())):
                dropped.incomplete += 1
                continue
            if any(look(encoded).problem for encoded in images.values()):
                dropped.unreadable += 1
                continue
            kept.append({name: row[name] for name in COLUMNS} | images)
            progress.update()
            if len(kept) == ROWS:
                write()
                kept, dropped, shard = [], Dropped(), shard + 1
                if shard == end:
                    return
        write()
