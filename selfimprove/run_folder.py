"""Keep run folders: identity, finished stages, provenance. Every file is written under a temporary name, then renamed."""

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
    """The run folder, or a file in it, belongs to another run; the message says what differs."""


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file under a temporary name, then rename it, so that no reader sees half a file. Only the main process writes."""
    if PartialState().is_main_process:
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(value, indent=1, default=str) + "\n")
        unfinished.rename(path)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a parquet file under a temporary name, then rename it. Only the main process writes.

    Columns of floats are stored by byte position (BYTE_STREAM_SPLIT), which compresses them by half more. Nothing is rounded. The metadata
    of pandas is stored once, not a second time as an Arrow schema, which would be most of a small file.
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
    """Return when, where and with which versions something was computed; no hash contains the result."""
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
        "threads": torch.get_num_threads(),  # changes the order of sums, so the last bits, and from there on the training
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
        """Return the folder of a round."""
        return self.path / f"round_{index}"

    def manifest(self, index: int) -> dict[str, Any]:
        """Return {"round": index, "stages": {name: {"seconds", ...}}}; "stages" is empty before the first stage is done."""
        path = self.round(index) / "manifest.json"
        return json.loads(path.read_text()) if path.exists() else {"round": index, "stages": {}}

    def is_done(self, index: int, stage: str) -> bool:
        """Return whether a stage of a round is finished."""
        return stage in self.manifest(index)["stages"]

    def check_same(self, index: int, stage: str, **facts: Any) -> None:
        """Check that a finished stage was made from the `facts` that hold now; do nothing if the stage is not finished.

        Raises:
            RunError: the stage was made from something else, such as an opponent that has been trained again since.
        """
        recorded = self.manifest(index)["stages"].get(stage, {})
        differing = [name for name, value in facts.items() if recorded and recorded.get(name, value) != value]  # older runs record less
        if differing:
            raise RunError(
                f"{self.round(index)}: its {stage} was made with another {', '.join(differing)} than there is now (a round before it was "
                "played anew?); delete that folder and those of later rounds, or give another run folder"
            )

    @contextmanager
    def stage(self, index: int, name: str, files: tuple[str, ...] = (), **facts: Any) -> Iterator[None]:
        """Mark a stage done when its block ends without an error; record seconds, SHA-256 of `files`, the `facts`, and provenance."""
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
    """Return eight hexadecimal digits of a hash of the identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:8]


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """Return, in words, the entries in which two identities differ, except settings that change results by rounding at most."""
    names = sorted((there | here).keys() - set(FREE))
    return [f"{k}: {there.get(k)!r} there, {here.get(k)!r} here" for k in names if there.get(k) != here.get(k)]


def open_run(path: Path, identity: dict[str, Any], about: dict[str, Any]) -> RunFolder:
    """Create a run folder, or open one with the same identity; `about` is written to run.json for human readers.

    Raises:
        RunError: the folder holds another run, or files but no run.
    """
    identity = json.loads(json.dumps(identity, default=str))  # in the form that reading the file returns
    file, state = path / "run.json", PartialState()
    if state.is_main_process and not file.exists() and not (path.exists() and any(path.iterdir())):
        path.mkdir(parents=True, exist_ok=True)
        write_json(file, {"identity": identity, **about})
    state.wait_for_everyone()  # every process, whichever comes first, so that all pass later barriers together
    if not file.exists():
        raise RunError(f"run={str(path)!r} exists and holds no run.json; give another run folder, or an empty one")
    differing = differences(json.loads(file.read_text())["identity"], identity)
    if differing:
        raise RunError(f"run={str(path)!r} holds another run ({'; '.join(differing)}); give another run folder, or the same settings")
    return RunFolder(path, identity)
