"""Share between runs what the VAE and the text encoder compute: latents of real images, and embeddings of texts.

A cache is a folder with one entry per encoder, data set and form of the tensors. An entry holds shards of runs' stores, as hard links where
these are possible, each named by a hash of its rows' keys. A shard is put in its place whole and never changed, so several processes may
use a cache at once. Each run keeps its own store, so a cache may be deleted at any time.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache as remembered
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from safetensors import SafetensorError, safe_open
from torch import Tensor

from selfimprove.data.latents import SHAPE, SHARD, Rows, Store, build_store, header_of, headers, link_file, row_of
from selfimprove.files import DamagedFileError, replacing
from selfimprove.processes import together


class Wanted(NamedTuple):
    """A store that a run needs: where the run keeps it, the key of each row, and what all rows depend on besides their keys."""

    folder: Path
    keys: Sequence[str]
    made_from: Mapping[str, Any]
    dtype: torch.dtype = torch.float32

    def headers(self, keys: Sequence[str]) -> list[dict[str, str]]:
        """Return the headers of shards with rows of these keys."""
        return headers(len(keys), self.made_from, self.dtype, keys)

    def places(self, cache: Path | None) -> dict[str, tuple[Path, int]]:
        """Return the shard and the row of each key that the cache holds. Tensors are neither read nor checked."""
        found: dict[str, tuple[Path, int]] = {}
        for path in sorted(self.entry(cache).glob("*.safetensors")) if cache else ():
            try:
                with safe_open(path, "pt") as file:
                    keys = json.loads(file.metadata()["keys"])
                if self.headers(keys)[0]["rows"] != path.stem:
                    raise ValueError("other rows")
                found |= {key: (path, row) for row, key in enumerate(keys)}
            except (SafetensorError, OSError, LookupError, ValueError, TypeError):
                self.intact(path)  # says so and removes it
        return found

    def entry(self, cache: Path) -> Path:
        """Return the folder of the cache that holds such rows."""
        return cache / f"{self.folder.name}-{self.headers(())[0]['made_from']}"

    def intact(self, path: Path) -> bool:
        """Return whether a shard of the cache holds the rows that it is named for. One that does not is removed, with a warning."""
        try:
            header = header_of(path)
            wanted = self.headers(json.loads(header.get("keys", "[]")))[0]
            if path.stem != wanted["rows"] or wanted.items() - header.items():
                raise DamagedFileError(f"{path} holds other rows than it is named for")
        except (DamagedFileError, ValueError) as error:
            warnings.warn(f"{path} of the cache is damaged and removed, and its rows are made again ({error})", stacklevel=4)
            with suppress(OSError):  # another process is faster, or the cache cannot be written
                path.unlink()
            return False
        return True


def shared_store(cache: Path | None, wanted: Wanted, make: Callable[[Sequence[int]], Rows], description: str) -> Store:
    """Return the store in `wanted.folder`, as `build_store` does; only rows that the cache does not hold are made, and then added to it.

    `make(rows)`: makes the rows of these numbers, in their order. Without a `cache` all rows are made.

    Raises:
        DamagedFileError: a shard in the run's folder was made from something else.
    """
    folder, keys, made_from, dtype = wanted
    if not cache:
        return build_store(folder, len(keys), make, description, dtype, made_from, keys)
    names, intact = [f"{header['rows']}.safetensors" for header in wanted.headers(keys)], remembered(wanted.intact)
    places, entry, fresh = remembered(lambda: wanted.places(cache)), wanted.entry(cache), list[int]()

    def take(rows: range) -> Rows:
        found: dict[int, dict[str, Tensor]] = {}
        for row, (path, place) in ((row, places()[keys[row]]) for row in rows if keys[row] in places()):
            if intact(path):
                with safe_open(path, "pt") as file:
                    found[row] = {name: row_of(file, name, place) for name in file.keys() if name != SHAPE}  # noqa: SIM118
        if missing := [row for row in rows if row not in found]:
            new = make(missing)
            found |= {row: {name: tensor[n] for name, tensor in new.items()} for n, row in enumerate(missing)}
            fresh.append(rows.start // SHARD)
        return {name: [found[row][name].to(dtype) for row in rows] for name in found[rows[0]]}

    with together():
        if PartialState().is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            for own, shared in ((folder / f"{number:05d}.safetensors", entry / name) for number, name in enumerate(names)):
                if shared.exists() and not own.exists() and intact(shared):
                    link_file(shared, own)
    store = build_store(folder, len(keys), take, description, dtype, made_from, keys)
    added = gather_object(fresh)
    try:
        for number in added if PartialState().is_main_process else ():
            with replacing(entry / names[number]) as unfinished:
                link_file(folder / f"{number:05d}.safetensors", unfinished)
    except OSError as error:
        warnings.warn(f"{entry} cannot be written ({error}); other runs will make these rows again", stacklevel=2)
    return store
