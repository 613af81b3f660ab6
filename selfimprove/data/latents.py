"""Cache latents and text embeddings in safetensors, so that the training loop needs neither the VAE nor the text encoder.

A store is a folder of shards. Each shard is written under a temporary name and then renamed, so a killed run continues at the first
missing shard. Rows are read on demand from memory-mapped files, so a store may be larger than memory.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

SHARD = 256  # rows per shard


class Store:
    """Named tensors of shape (rows, ...) on disk, with the rows in the order in which they were built."""

    def __init__(self, folder: Path) -> None:
        self.rows: int = json.loads((folder / "store.json").read_text())["rows"]
        self._paths = sorted(folder.glob("*.safetensors"))
        self._shards = [safe_open(path, "pt") for path in self._paths]

    def has(self, name: str) -> bool:
        """Return whether the store has a tensor of that name."""
        return name in self._shards[0].keys()  # noqa: SIM118 - safe_open is no mapping

    def digest(self) -> str:
        """Return the SHA-256 of all shards."""
        digest = hashlib.sha256()
        for path in self._paths:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def take(self, name: str, rows: Sequence[int]) -> Tensor:
        """Return the given rows of one tensor, in float32 on the CPU."""
        return torch.stack([self._shards[r // SHARD].get_slice(name)[r % SHARD] for r in rows]).float()


class Part(Store):
    """Some rows of another store, renumbered in the given order."""

    def __init__(self, whole: Store, chosen: Sequence[int]) -> None:
        self.rows, self._whole, self._chosen = len(chosen), whole, list(chosen)

    def has(self, name: str) -> bool:
        """Return whether the store has a tensor of that name."""
        return self._whole.has(name)

    def digest(self) -> str:
        """Return the SHA-256 of the whole store's digest and the chosen row numbers."""
        return hashlib.sha256(f"{self._whole.digest()} {self._chosen}".encode()).hexdigest()

    def take(self, name: str, rows: Sequence[int]) -> Tensor:
        """Return the given rows of one tensor, in float32 on the CPU."""
        return self._whole.take(name, [self._chosen[r] for r in rows])


def link_store(source: Path, target: Path) -> Store:
    """Recreate a store in another folder by hard links, or by copies on another disk. Earlier contents of `target` are deleted."""
    if PartialState().is_main_process:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for file in (*source.glob("*.safetensors"), source / "store.json"):
            try:
                os.link(file, target / file.name)
            except OSError:  # another disk, or a file system without hard links
                shutil.copyfile(file, target / file.name)
    PartialState().wait_for_everyone()
    return Store(target)


def build_store(
    folder: Path, rows: int, make: Callable[[range], dict[str, Tensor]], description: str, dtype: torch.dtype = torch.float32
) -> Store:
    """Return the store in `folder`. Missing shards are made by `make(range of rows)`; the processes share the work."""
    state = PartialState()
    folder.mkdir(parents=True, exist_ok=True)
    for index, start in enumerate(tqdm(range(0, rows, SHARD), desc=description, leave=False)):
        path = folder / f"{index:05d}.safetensors"
        if index % state.num_processes == state.process_index and not path.exists():
            tensors = make(range(start, min(start + SHARD, rows)))
            unfinished = path.with_suffix(f".{os.getpid()}.unfinished")  # with the process id: concurrent runs may share a cache
            save_file({k: v.to("cpu", dtype).contiguous() for k, v in tensors.items()}, unfinished)
            unfinished.rename(path)
    state.wait_for_everyone()
    if state.is_main_process:
        unfinished = folder / f"store.{os.getpid()}.unfinished"
        unfinished.write_text(json.dumps({"rows": rows, "shard": SHARD}) + "\n")
        unfinished.rename(folder / "store.json")
    state.wait_for_everyone()
    return Store(folder)
