"""Keep run folders: who may write, what a run is, which stages are finished, and from what each was made."""

import hashlib
import json
import os
import platform
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from accelerate import PartialState

from selfimprove import __version__
from selfimprove.config import FREE, LENGTH
from selfimprove.errors import SelfImproveError
from selfimprove.files import read_json, remove_unfinished, sha256, write_json
from selfimprove.processes import IncompleteError, give_back, share, tf32, together

try:
    import fcntl
except ImportError:  # Windows has no flock: there two processes in one folder are not kept apart
    fcntl = None  # type: ignore[assignment]

FORMAT = 2  # of run folders: 1 hashed models and kept identities otherwise
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate")
COMPUTING = ("torch", "diffusers", "transformers")  # versions that an unfinished stage must not change in between


class RunError(SelfImproveError):
    """The run folder, or a file in it, belongs to another run or is not what was written; the message says what differs."""


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
        "tf32": tf32(),
        "threads": torch.get_num_threads(),  # changes the order of sums, so the last bits, and from there on the training
        "python": platform.python_version(),
        "versions": {"selfimprove": __version__} | {name: version(name) for name in LIBRARIES},  # a clone need not be installed
        "git": git,
    }


class Lock:
    """The right to write into a folder, held as long as this object lives. The system takes it back when the process ends, however.

    Processes that make shares hold it together, each writing its own shards; any other process holds it alone.
    """

    def __init__(self, folder: Path) -> None:
        self.file = (folder / "lock").open("a+")
        try:
            if fcntl:
                fcntl.flock(self.file, (fcntl.LOCK_SH if share() else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            self.file.seek(0)
            holder = self.file.read().strip() or "another process"
            self.file.close()
            raise RunError(
                f"run={str(folder)!r} is being written by {holder}; wait for its end, stop it, or give another run folder"
            ) from error
        self.file.truncate(0)
        self.file.write(f"process {os.getpid()} on {platform.node()}")
        self.file.flush()

    def __del__(self) -> None:
        if hasattr(self, "file"):
            self.file.close()


_locks: WeakValueDictionary[Path, Lock] = WeakValueDictionary()  # a process may open a folder twice


def hold(folder: Path) -> Lock | None:
    """Lock a folder for this process and remove what killed processes left half written; of many processes the main one holds it.

    Raises:
        RunError: another process holds it.
    """
    if not PartialState().is_main_process:
        return None
    key = folder.resolve()
    lock = _locks.get(key)
    if lock is None:
        lock = _locks[key] = Lock(folder)
        if not share():  # else it may be another share's, who is writing it
            remove_unfinished(folder)
    return lock


@dataclass(frozen=True)
class RunFolder:
    """A run's folder, opened for one identity, and held against other processes.

    `longer`: the finished rounds that are asked to train for more steps, each with the steps that it has had (see `run.set_up`).
    """

    path: Path
    identity: dict[str, Any]
    lock: Lock | None = field(default=None, repr=False, compare=False)
    mark: str = ""  # drawn when the folder was made, and written into every manifest
    longer: dict[int, int] = field(default_factory=dict, compare=False)

    def round(self, index: int) -> Path:
        """Return the folder of a round."""
        return self.path / f"round_{index}"

    def manifest(self, index: int) -> dict[str, Any]:
        """Return {"round": index, "run": mark, "stages": {name: {"seconds", "files", ...}}}; "stages" is empty at first.

        Raises:
            RunError: the round's folder comes from another run.
        """
        path = self.round(index) / "manifest.json"
        if not path.exists():
            return {"round": index, "run": self.mark, "stages": {}}
        manifest = read_json(path)
        if (manifest.get("round"), manifest.get("run", "")) != (index, self.mark):
            raise RunError(
                f"{self.round(index)} is round {manifest.get('round')} of another run (its manifest.json does not carry this run's mark); "
                "put the right folder back, or delete it and the folders of later rounds to have them played again"
            )
        return manifest

    def is_done(self, index: int, stage: str) -> bool:
        """Return whether a stage of a round is finished; in a round of `longer`, neither training nor evaluation is."""
        return stage in self.manifest(index)["stages"] and not (index in self.longer and stage in ("training", "evaluation"))

    def record(self, index: int, stage: str) -> dict[str, Any]:
        """Return what a finished stage recorded, after its files have been checked against their hashes, each once per process.

        Raises:
            RunError: a file is not what the stage wrote.
            DamagedFileError: a file is missing.
            IncompleteError: the process makes a share, and shares finish no stage.
        """
        if share() and not self.is_done(index, stage):
            raise IncompleteError(f"the {stage} of round {index} must be finished first: run the same command once without --share")
        recorded = self.manifest(index)["stages"][stage]
        for name, wanted in recorded["files"].items():
            if sha256(self.round(index) / name) != wanted:
                raise RunError(
                    f"{self.round(index) / name} is not what round {index}'s {stage} wrote (its SHA-256 differs); restore it, or delete "
                    f"{self.round(index)} and the folders of later rounds to have them played again"
                )
        return recorded

    def check_same(self, index: int, stage: str, **facts: Any) -> None:
        """Check that a finished stage was made from the `facts` that hold now, and its files; do nothing if the stage is not finished.

        Raises:
            RunError: the stage was made from something else, such as an opponent that has been trained again since; or see `record`.
        """
        if not self.is_done(index, stage):
            return
        recorded = self.record(index, stage)
        differing = [name for name, value in _plain(facts).items() if recorded.get(name, value) != value]
        if differing:
            raise RunError(
                f"{self.round(index)}: its {stage} was made with another {', '.join(differing)} than there is now (a round before it was "
                "played anew?); delete that folder and those of later rounds, or give another run folder"
            )

    @contextmanager
    def stage(self, index: int, name: str, files: tuple[str, ...] = (), rebind: bool = False, **facts: Any) -> Iterator[dict[str, Any]]:
        """Mark a stage done when its block ends without an error; record seconds, SHA-256 of `files`, the `facts`, and provenance.

        A stage that was done before is no longer done when its block begins, and neither are those that came after it.
        A process that makes a share of the work finishes no stage: it leaves that to the next one that makes everything.
        The block may add facts to the dictionary that it is given. What makes the stage (the facts, and the versions of the libraries that
        compute) is written down before it begins. A stage that was cut off goes on only with the same, unless `rebind` says that what the
        stage leaves behind knows for itself what it was made from.

        Raises:
            RunError: the stage was begun with something else.
        """
        give_back()  # the networks of what came before
        folder = self.round(index)
        folder.mkdir(parents=True, exist_ok=True)
        begun, made_from = folder / f"{name}.begun.json", _plain({**facts, **{f"{n} version": version(n) for n in COMPUTING}})
        if begun.exists() and not rebind and (differing := differences(read_json(begun), made_from)):
            raise RunError(
                f"{folder}: its {name} was begun with something else ({'; '.join(differing)}); go on with that, or delete {folder} to "
                "begin that round again"
            )
        PartialState().wait_for_everyone()  # all have read the manifest and what was begun
        if share():
            write_json(begun, made_from)
            yield {}
            return
        if name in (stages := self.manifest(index)["stages"]):
            before = {n: stages[n] for n in list(stages)[: list(stages).index(name)]}
            write_json(folder / "manifest.json", self.manifest(index) | {"stages": before})
        self.longer.pop(index, None)
        write_json(begun, made_from)
        start, added = time.perf_counter(), dict[str, Any]()
        yield added
        state = PartialState()
        state.wait_for_everyone()
        if state.is_main_process:
            manifest = self.manifest(index)
            hashes = {f: sha256(folder / f) for f in files}
            record = {"seconds": round(time.perf_counter() - start, 1), "files": hashes, **facts, **added, "provenance": provenance()}
            manifest["stages"][name] = record
            write_json(folder / "manifest.json", manifest)
            begun.unlink()
        state.wait_for_everyone()


def _plain(facts: dict[str, Any]) -> dict[str, Any]:
    """Return facts in the form in which reading a JSON file returns them."""
    return json.loads(json.dumps(facts, default=str))


def identity_hash(identity: dict[str, Any]) -> str:
    """Return eight hexadecimal digits of a hash of the identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:8]


def lasting(identity: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of an identity that never change in a run folder: all but rounding and the length of rounds."""
    return {name: value for name, value in identity.items() if name.split()[-1] not in (*FREE, *LENGTH)}


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """Return, in words, the `lasting` entries in which two identities differ."""
    names = sorted(lasting(there | here))
    return [f"{k}: {there.get(k)!r} there, {here.get(k)!r} here" for k in names if there.get(k) != here.get(k)]


def open_run(path: Path, identity: dict[str, Any], about: dict[str, Any]) -> RunFolder:
    """Create a run folder, or open one with the same identity, and hold it; `about` is written to run.json for human readers.

    Raises:
        RunError: the folder holds another run, a run of an earlier version, or files but no run; or another process writes into it.
    """
    identity = _plain(identity)
    file, state = path / "run.json", PartialState()
    others = [p.name for p in path.iterdir() if p.name != "lock" and p.suffix != ".ipynb" and p.name[0] != "."] if path.is_dir() else []
    if path.exists() and not path.is_dir():
        raise RunError(f"run={str(path)!r} is a file; give a folder")
    if others and not file.exists():
        raise RunError(f"run={str(path)!r} holds {others[0]!r} and no run.json; give another run folder, or an empty one")
    state.wait_for_everyone()  # all have looked before the main process writes
    with together():  # a folder that the main process cannot hold is refused to all
        if state.is_main_process:
            path.mkdir(parents=True, exist_ok=True)
        lock = hold(path)
        if state.is_main_process and not file.exists():
            write_json(file, {"format": FORMAT, "mark": secrets.token_hex(8), "identity": identity, **about})
    state.wait_for_everyone()  # so that all processes pass every later barrier together
    there = read_json(file)
    if there.get("format") != FORMAT:
        raise RunError(
            f"run={str(path)!r} was made by an earlier version (format {there.get('format', 1)}, now {FORMAT}), which hashed models and "
            "kept settings otherwise; finish it with that version, or give another run folder"
        )
    if differing := differences(there["identity"], identity):
        raise RunError(f"run={str(path)!r} holds another run ({'; '.join(differing)}); give another run folder, or the same settings")
    return RunFolder(path, identity, lock, there.get("mark", ""))
