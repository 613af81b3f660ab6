"""Store latents and text embeddings in safetensors, so that the VAE and the text encoder stay out of the training loop.

A store is a folder of shards. Each shard carries in its header what it was made from and the hash of its tensors, so a shard that is
missing, cut off, changed or of another store is never read. A killed run continues at the first missing shard. Rows are read on demand from
the memory-mapped files: a store may be larger than memory.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import pad
from tqdm.auto import tqdm

from selfimprove.files import DamagedFileError, missing, read_json, remove, replacing, write_json
from selfimprove.processes import IncompleteError, makers, place, share

SHARD = 256  # rows per shard
SHAPE = "shape"  # of each row, in a shard whose rows differ in shape: they are flat there, and filled up to the longest with zeros
Rows = Mapping[str, Tensor | Sequence[Tensor]]  # named tensors of several rows; of rows that differ in shape, a tensor each
_intact: dict[tuple[int, int, int, int], dict[str, str]] = {}  # shards that this process has checked -> their headers


def _content(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def in_groups(rows: Iterable[int], shape: Callable[[int], Hashable]) -> list[list[int]]:
    """Return the rows in groups of one shape each, in the order in which shapes appear."""
    groups: dict[Hashable, list[int]] = {}
    for row in rows:
        groups.setdefault(shape(row), []).append(row)
    return list(groups.values())


def made_in_groups(rows: Iterable[int], shape: Callable[[int], Hashable], make: Callable[[list[int]], Rows]) -> Rows:
    """Return what `make` gives for rows of one shape at a time, in the order of all rows."""
    found: dict[int, dict[str, Tensor]] = {}
    for group in in_groups(rows, shape):
        made = make(group)
        found |= {row: {name: tensors[place] for name, tensors in made.items()} for place, row in enumerate(group)}
    return {name: [found[row][name] for row in rows] for name in next(iter(found.values()))}


def packed(made: Rows, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return rows as a shard holds them: stacked or, if they differ in shape, flat and beside a tensor `SHAPE`; see `row_of`."""
    shapes, beside = [row.shape for row in next(iter(made.values()))], {}
    if len(set(shapes)) > 1:
        longest, beside = max(map(prod, shapes)), {SHAPE: torch.tensor(shapes, dtype=torch.int32)}
        made = {name: [pad(row.flatten(), (0, longest - row.numel())) for row in rows] for name, rows in made.items()}
    stacked = {name: rows if isinstance(rows, Tensor) else torch.stack([*rows]) for name, rows in made.items()}
    return {name: rows.to("cpu", dtype).contiguous() for name, rows in stacked.items()} | beside


def row_of(shard: Any, name: str, row: int) -> Tensor:
    """Return one row of a tensor in an open shard, in its own shape."""
    found = shard.get_slice(name)[row]
    if SHAPE not in shard.keys():  # noqa: SIM118 - safe_open is no mapping
        return found
    shape = shard.get_slice(SHAPE)[row].tolist()
    return found[: prod(shape)].view(shape)


def header_of(path: Path) -> dict[str, str]:
    """Return the header of a shard after its tensors have been checked against it, once per process.

    Raises:
        DamagedFileError: the shard is missing, cut off, or its tensors are not what was written.
    """
    try:
        state = path.stat()
        key = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)  # one file, whatever its names
        if key not in _intact:
            with safe_open(path, "pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
            if header.get("content") != _content(tensors):
                raise DamagedFileError(f"{path} holds other tensors than were written into it; delete it to have it made again")
            _intact[key] = header
    except FileNotFoundError as error:
        raise missing(path) from error
    except (SafetensorError, OSError) as error:
        raise DamagedFileError(f"{path} is cut off or unreadable ({error}); delete it to have it made again") from error
    return _intact[key]


class Store:
    """Rows of named tensors, (rows, ...) each, in the order in which they were built.

    Raises:
        DamagedFileError: a shard is missing, cut off, changed, or not the one that the store was finished with; names the file.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any] | None = None) -> None:
        about = about or read_json(folder / "store.json")  # `about`: of who has built the store, while others may add to it
        self.rows: int = about["rows"]
        self._contents: list[str] = about["shards"]
        if about["shard"] != SHARD or len(self._contents) != -(-self.rows // SHARD):
            raise DamagedFileError(f"{folder / 'store.json'} does not fit its rows; delete {folder} to have it made again")
        paths = [folder / f"{index:05d}.safetensors" for index in range(len(self._contents))]
        for path, content in zip(paths, self._contents, strict=True):
            if header_of(path)["content"] != content:
                raise DamagedFileError(f"{path} is not the shard that the store was finished with; delete {folder} to have it made again")
        self._shards = [safe_open(path, "pt") for path in paths]

    @property
    def names(self) -> list[str]:
        """Return the names of the tensors."""
        return sorted({*self._shards[0].keys()} - {SHAPE})

    def has(self, name: str) -> bool:
        """Return whether there is a tensor of that name."""
        return name in self.names

    def digest(self) -> str:
        """Return the SHA-256 of everything in the store."""
        return hashlib.sha256("".join(self._contents).encode()).hexdigest()

    def take(self, name: str, rows: Sequence[int]) -> Tensor:
        """Return some rows of one tensor, which are of one shape, in float32 on the CPU."""
        return torch.stack([row_of(self._shards[r // SHARD], name, r % SHARD) for r in rows]).float()

    def shape(self, row: int) -> tuple[int, ...]:
        """Return the shape of a row of latents, (C, H, W); where all rows have one, nothing is read."""
        shard = self._shards[row // SHARD]
        if SHAPE in shard.keys():  # noqa: SIM118 - safe_open is no mapping
            return tuple(shard.get_slice(SHAPE)[row % SHARD].tolist())
        return tuple(shard.get_slice("mean").get_shape()[1:])


class Part(Store):
    """Some rows of another store, renumbered in the order given."""

    def __init__(self, whole: Store, chosen: Sequence[int]) -> None:
        self.rows, self._whole, self._chosen = len(chosen), whole, list(chosen)

    @property
    def names(self) -> list[str]:
        """Return the names of the tensors."""
        return self._whole.names

    def digest(self) -> str:
        """Return the SHA-256 of the whole store and of the numbers of the chosen rows."""
        return hashlib.sha256(f"{self._whole.digest()} {self._chosen}".encode()).hexdigest()

    def take(self, name: str, rows: Sequence[int]) -> Tensor:
        """Return some rows of one tensor, which are of one shape, in float32 on the CPU."""
        return self._whole.take(name, [self._chosen[r] for r in rows])

    def shape(self, row: int) -> tuple[int, ...]:
        """Return the shape of a row of latents, (C, H, W)."""
        return self._whole.shape(self._chosen[row])


class Unfinished(Store):
    """A store of which this process has made its share, and others have not yet made theirs; whoever reads it fails."""

    def __init__(self, folder: Path, rows: int, lacking: Sequence[int]) -> None:
        self.rows = rows
        self._lacking = f"{folder} lacks {len(lacking)} of {-(-rows // SHARD)} shards, those of the shares {', '.join(makers(lacking))}"

    def __str__(self) -> str:
        return self._lacking

    def __getattr__(self, name: str) -> Any:  # whatever a whole store has
        raise IncompleteError(f"{self._lacking}; run these shares, then go on")


def link_file(source: Path, target: Path) -> None:
    """Put a file into another place as well, without a second copy if both are on one disk."""
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(source, target)


def link_store(source: Path, target: Path) -> Store:
    """Put a store into another folder as well (see `link_file`); replace what is there."""
    if PartialState().is_main_process:
        remove(target)
        target.mkdir(parents=True)
        for file in (*source.glob("*.safetensors"), source / "store.json"):
            link_file(file, target / file.name)
    PartialState().wait_for_everyone()
    return Store(target)


def headers(rows: int, made_from: Mapping[str, Any] | None, dtype: torch.dtype, keys: Sequence[str] = ()) -> list[dict[str, str]]:
    """Return what the header of each shard says of its origin and its rows; at least one shard's."""
    origin, starts = _hash({**(made_from or {}), "dtype": str(dtype)}), range(0, max(rows, 1), SHARD)
    return [{"made_from": origin, "rows": _hash([min(SHARD, rows - start), *keys[start : start + SHARD]])} for start in starts]


def build_store(
    folder: Path,
    rows: int,
    make: Callable[[range], Rows],
    description: str,
    dtype: torch.dtype = torch.float32,
    made_from: Mapping[str, Any] | None = None,
    keys: Sequence[str] = (),
    remake: bool = False,
) -> Store:
    """Return the store in a folder; `make(range of rows)` makes the missing shards, which the processes share out.

    A shard is written while the next one is made. A process that makes a share of the work (`processes.take_share`) leaves the other
    shards alone, and has an `Unfinished` store if some are missing.

    `made_from`: everything that all rows depend on. `keys`: one per row, what it depends on beside. A shard that was made from something
    else is refused, or made anew if `remake`; one of other rows (`keys`, or a shorter one of a smaller store) is made anew, and so is a
    damaged one, with a warning.

    Raises:
        DamagedFileError: a shard was made from something else.
    """
    (own, places), wanted = place(), headers(rows, made_from, dtype, keys)
    shards = [range(start, min(start + SHARD, rows)) for start in range(0, rows, SHARD)]

    def write(index: int, part: range, made: Rows) -> None:
        tensors = packed(made, dtype)
        with replacing(folder / f"{index:05d}.safetensors") as unfinished:
            written = {"content": _content(tensors), "keys": json.dumps(list(keys[part.start : part.stop]))}
            save_file(tensors, unfinished, wanted[index] | written)

    with ThreadPoolExecutor(1) as writer:  # leaving it waits for what is being written, after an error too
        writing: Future[None] | None = None
        for index, part in enumerate(tqdm(shards, desc=description, leave=False)):
            path = folder / f"{index:05d}.safetensors"
            if index % places == own and not _made(path, wanted[index], remake):
                made = make(part)
                if writing:
                    writing.result()  # raises what went wrong; at most one shard waits in memory
                writing = writer.submit(write, index, part, made)
        if writing:
            writing.result()
    PartialState().wait_for_everyone()
    if share() and (lacking := [i for i in range(len(shards)) if not _made(folder / f"{i:05d}.safetensors", wanted[i], remake)]):
        tqdm.write(str(unfinished := Unfinished(folder, rows, lacking)))
        return unfinished
    contents = [header_of(folder / f"{index:05d}.safetensors")["content"] for index in range(len(shards))]
    about = {"rows": rows, "shard": SHARD, "made_from": wanted[0]["made_from"], "shards": contents}
    if not share():
        write_json(folder / "store.json", about)
    PartialState().wait_for_everyone()
    return Store(folder, about)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _made(path: Path, wanted: dict[str, str], remake: bool) -> bool:
    """Return whether a shard is there, whole, and the wanted one."""
    if not path.exists():
        return False
    try:
        header = header_of(path)
    except DamagedFileError as error:
        warnings.warn(f"{error}: it is made again", stacklevel=3)
        return False
    if header["made_from"] != wanted["made_from"] and not remake:
        raise DamagedFileError(
            f"{path} was made from something else (other models, data, settings or versions); delete {path.parent} to have it made again"
        )
    return all(header[name] == value for name, value in wanted.items())
