"""Change what lies around a run: the disk, rights, folders, the base model, versions, the clock, memory."""

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from faults.bench import Bench
from faults.process import play
from faults.results import LOST, REFUSED, SAME, TRACEBACK, Row
from faults.world import command

NOBODY = 65534
MARGIN = 4096  # bytes: the smallest disk is this much larger than what lies on it


def file_limit(bench: Bench, system: str) -> Iterator[Row]:
    """Let writing fail beyond a size of file, once for every size that round 2 writes; then lift the limit and play on."""
    row = Row(f"no file may grow beyond a size, for every size of file in a round ({system})")
    sizes = sorted({path.stat().st_size for path in (bench.finished(system, 2) / "round_2").rglob("*") if path.is_file()})
    chosen = sizes if bench.times > 1 else sizes[:: max(1, len(sizes) // 8)]
    for size in chosen:
        run = bench.begun(system)
        ended = bench.play(system, run, before=_limiting(resource.RLIMIT_FSIZE, max(size - 1, 1024)))  # what a process says needs some
        if ended.status != 0:
            ended = bench.play(system, run)
        row.count(*bench.verdict(system, run, ended))
        bench.drop(run)
    yield row


def _limiting(what: int, size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(what, (size, size))


def disk_full(bench: Bench, system: str) -> Iterator[Row]:
    """Play round 2 on disks of different sizes that fill up on the way; then make room and play on."""
    row = Row(f"a disk that is full at some write of a round ({system})")
    place = bench.folder / "small-disk"
    place.mkdir(exist_ok=True)
    used, needed = _size(bench.finished(system, 1)), _size(bench.finished(system, 2))
    for trial in range(4 * bench.times):
        room = int(used + MARGIN + (needed - used) * (trial + bench.random("disk", system, trial).random()) / (4 * bench.times))
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(place)], capture_output=True, check=False)
        if mounted.returncode:
            row.notes.append("not tried: no file system can be mounted here")
            break
        try:
            run = place / "run"
            shutil.copytree(bench.finished(system, 1), run)
            if bench.play(system, run).status == 0:
                continue  # all of it fitted
            subprocess.run(["mount", "-o", "remount,size=1g", str(place)], check=True)
            row.count(*bench.verdict(system, run, bench.play(system, run)))
        finally:
            subprocess.run(["umount", str(place)], check=True)
    yield row


def _size(run: Path) -> int:
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in run.rglob("*") if path.is_file())


def read_only(bench: Bench) -> Iterator[Row]:
    """Play as another user, who may read the run folder but not write; then as its owner."""
    row = Row("a run folder that may not be written, then may")
    if os.geteuid():
        row.notes.append("tried by its owner, who took the right from himself")
    for _ in range(bench.times):
        run = bench.begun("spin")
        for path in [run, *run.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        ended = bench.play("spin", run, before=None if os.geteuid() else lambda: os.setuid(NOBODY))
        for path in [run, *run.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        if ended.status == 0 or str(run) not in ended.said:
            row.count(LOST, f"ended with {ended.status}: {bench.plain(ended.said[-150:])}")
        else:
            row.count(*bench.verdict("spin", run, bench.play("spin", run)))
        bench.drop(run)
    yield row


def moved(bench: Bench) -> Iterator[Row]:
    """Move the run folder, the base model or the clock, change the base model or a library, all between two sittings of one round."""
    cases: list[tuple[str, Callable[[Bench, Path], tuple[str, str]]]] = [
        ("the run folder moved", _run_moved), ("the base model moved", _base_moved), ("the base model changed", _base_changed),
        ("another version of a library", _library), ("the clock set back, or forth", _clock),
    ]  # fmt: skip
    for what, fault in cases:
        row = Row(f"{what}, in the middle of a round")
        for _ in range(bench.times):
            run = bench.cut_off("spin")
            row.count(*fault(bench, run))
            bench.drop(run)
        yield row


def _run_moved(bench: Bench, run: Path) -> tuple[str, str]:
    there = run.with_name(f"{run.name}-elsewhere")
    run.rename(there)
    result = bench.verdict("spin", there, bench.play("spin", there))
    bench.drop(there)
    return result


def _base_moved(bench: Bench, run: Path) -> tuple[str, str]:
    there = bench.folder / "another-world"
    shutil.copytree(bench.world, there, dirs_exist_ok=True)
    return bench.verdict("spin", run, play(command(there, "spin", run), bench.log()))


def _base_changed(bench: Bench, run: Path) -> tuple[str, str]:
    there = bench.folder / "changed-world"
    shutil.copytree(bench.world, there, dirs_exist_ok=True)
    weights = there / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-4] + bytes([content[-4] ^ 1]) + content[-3:])  # the lowest bit of the last weight
    outcome, note = bench.verdict("spin", run, play(command(there, "spin", run), bench.log()))
    return (outcome, note) if outcome == REFUSED and "model" in note else (LOST, f"not refused: {outcome}")


def _library(bench: Bench, run: Path) -> tuple[str, str]:
    begun = run / "round_2" / "training.begun.json"
    before = begun.read_text()
    begun.write_text(json.dumps(json.loads(before) | {"torch version": "1.0"}))
    outcome, note = bench.verdict("spin", run, bench.play("spin", run))
    if outcome != REFUSED or "torch version" not in note:
        return LOST, f"not refused: {outcome}"
    begun.write_text(before)
    return bench.verdict("spin", run, bench.play("spin", run))


def _clock(bench: Bench, run: Path) -> tuple[str, str]:
    for number, path in enumerate(sorted(run.rglob("*"))):
        os.utime(path, (number % 2 * 4e9, number % 2 * 4e9))  # 1970 and 2096 in turn
    return bench.verdict("spin", run, bench.play("spin", run))


def memory(bench: Bench) -> Iterator[Row]:
    """Take the memory away in the middle of training; then play on, as before and with a smaller micro-batch."""
    rows = [Row("out of memory in training, then as before"), Row("out of memory in training, then a smaller micro-batch")]
    wanted = pd.read_parquet(bench.finished("spin", 2) / "round_2" / "train.parquet")
    for trial in range(bench.times):
        for row, changes in zip(rows, ({}, {"micro_batch": 2}), strict=True):
            run = bench.begun("spin")
            ended = bench.play("spin", run, before=_running_out(bench.random("memory", trial).randrange(1, 5)))
            if ended.status == 0 or "OutOfMemoryError" not in ended.said:
                raise RuntimeError(f"the memory did not run out: {ended.said[-1000:]}")
            ended = play(bench.command("spin", run, **changes), bench.log())
            outcome, note = bench.verdict("spin", run, ended)
            if changes and ended.status == 0:  # sums are rounded in another order
                log = pd.read_parquet(run / "round_2" / "train.parquet")
                close = len(log) == len(wanted) and bool(((log["loss"] - wanted["loss"]).abs() < 1e-3).all())
                outcome, note = (SAME, "") if close else (LOST, "other losses")
            row.count(outcome if outcome != REFUSED else TRACEBACK, note)
            bench.drop(run)
    yield from rows


def _running_out(call: int) -> Callable[[], None]:
    """Return what makes the backward pass fail for want of memory at its n-th call."""

    def patch() -> None:
        import torch

        backward, calls = torch.Tensor.backward, [0]

        def failing(*arguments: object, **named: object) -> None:
            calls[0] += 1
            if calls[0] == call:
                raise torch.OutOfMemoryError("CUDA out of memory (as if)")
            backward(*arguments, **named)

        torch.Tensor.backward = failing  # type: ignore[assignment]

    return patch
