"""Run folders: identity, finished stages, provenance. Everything that is written is written beside and renamed into place."""

import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import PartialState

from selfimprove.config import FREE

LIBRARIES = ("selfimprove", "torch", "diffusers", "transformers", "accelerate")


class RunError(ValueError):
    """The run folder belongs to another run; the message names the fields that differ."""


def write_json(path: Path, value: Any) -> None:
    """Write beside, then rename: a reader never sees half a file; with several processes the main one alone writes."""
    if PartialState().is_main_process:
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(value, indent=1, default=str) + "\n")
        unfinished.rename(path)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """A parquet file, written beside and renamed; with several processes by the main one alone.

    Bytes of equal rank stand together in columns of floats, which compresses them by half more; nothing is rounded. What pandas wants to
    know is stored once, not a second time as a schema of Arrow's, which would be most of a small file.
    """
    if PartialState().is_main_process:
        unfinished = path.with_suffix(".unfinished")
        floats = [str(c) for c in table if table[c].dtype.kind == "f"]
        others = [str(c) for c in (*table.index.names, *table) if c is not None and str(c) not in floats]
        split = dict.fromkeys(floats, "BYTE_STREAM_SPLIT")
        arrow = pa.Table.from_pandas(table)
        with pq.ParquetWriter(
            unfinished, arrow.schema.remove_metadata(), compression="zstd", compression_level=19, use_dictionary=others or False,
            column_encoding=split or None, write_statistics=False, store_schema=False,
        ) as file:  # fmt: skip
            file.write_table(arrow.replace_schema_metadata())
            file.add_key_value_metadata({"pandas": arrow.schema.metadata[b"pandas"]})
        unfinished.rename(path)


def provenance() -> dict[str, Any]:
    """Where and with what something was computed: outside every hash."""
    here = Path(__file__).parent
    try:
        git = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        git = "unknown"
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {PartialState().device}",
        "processes": PartialState().num_processes,
        "threads": torch.get_num_threads(),  # the order of sums, so the last bits, and training from there on
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
        "git": git,
    }


@dataclass(frozen=True)
class RunFolder:
    """A run's folder, opened for one identity."""

    path: Path
    identity: dict[str, Any]

    def round(self, index: int) -> Path:
        """The folder of a round."""
        return self.path / f"round_{index}"

    def manifest(self, index: int) -> dict[str, Any]:
        """{"stages": {name: {"seconds", ...}}, ...}; empty before the first stage is done."""
        path = self.round(index) / "manifest.json"
        return json.loads(path.read_text()) if path.exists() else {"round": index, "stages": {}}

    def is_done(self, index: int, stage: str) -> bool:
        """Whether a stage of a round is finished."""
        return stage in self.manifest(index)["stages"]

    def check_same(self, index: int, stage: str, **facts: Any) -> None:
        """That a finished stage was made from what is there now; nothing if it is not finished.

        Raises:
            RunError: it was made from something else, such as an opponent that has been played anew since.
        """
        recorded = self.manifest(index)["stages"].get(stage, {})
        differing = [name for name, value in facts.items() if recorded and recorded.get(name, value) != value]  # older runs say less
        if differing:
            raise RunError(
                f"{self.round(index)}: its {stage} was made with another {', '.join(differing)} than there is now (a round before it was "
                "played anew?); delete that folder and those of later rounds, or give another run folder"
            )

    @contextmanager
    def stage(self, index: int, name: str, files: tuple[str, ...] = (), **facts: Any) -> Iterator[None]:
        """Marks a stage done when its block ends well: seconds, SHA-256 of its files, provenance, and the facts given."""
        self.round(index).mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        yield
        state = PartialState()
        state.wait_for_everyone()
        if state.is_main_process:
            manifest = self.manifest(index)
            hashes = {f: hashlib.sha256((self.round(index) / f).read_bytes()).hexdigest() for f in files}
            record = {"seconds": round(time.perf_counter() - start, 1), "files": hashes, **facts, "provenance": provenance()}
            manifest["stages"][name] = record
            write_json(self.round(index) / "manifest.json", manifest)
        state.wait_for_everyone()


def identity_hash(identity: dict[str, Any]) -> str:
    """Eight hexadecimal digits of the identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:8]


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """In words, the entries in which two identities differ, apart from settings that change results by rounding alone."""
    names = sorted((there | here).keys() - set(FREE))
    return [f"{k}: {there.get(k)!r} there, {here.get(k)!r} here" for k in names if there.get(k) != here.get(k)]


def open_run(path: Path, identity: dict[str, Any], about: dict[str, Any]) -> RunFolder:
    """Create a run folder, or open one of the same identity; `about` is noted in run.json for people.

    Raises:
        RunError: the folder holds another run, or something that is none.
    """
    identity = json.loads(json.dumps(identity, default=str))  # as it will be read back
    file, state = path / "run.json", PartialState()
    if state.is_main_process and not file.exists() and not (path.exists() and any(path.iterdir())):
        path.mkdir(parents=True, exist_ok=True)
        write_json(file, {"identity": identity, **about})
    state.wait_for_everyone()  # all processes, whoever comes first, so that they pass every later barrier together
    if not file.exists():
        raise RunError(f"run={str(path)!r} exists and holds no run.json; give another run folder, or an empty one")
    differing = differences(json.loads(file.read_text())["identity"], identity)
    if differing:
        raise RunError(f"run={str(path)!r} holds another run ({'; '.join(differing)}); give another run folder, or the same settings")
    return RunFolder(path, identity)
