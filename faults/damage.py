"""Damage every kind of file of a run, play on, and see that it is found, made again or refused, and never trained on."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

from faults.bench import Bench
from faults.results import Row

KINDS = ("flipped", "cut", "deleted", "foreign")
PASSED_OVER = ("tensorboard", "images", "lock", "summary.png", "summary.csv")  # for readers; nothing is made from them


def files(run: Path) -> list[str]:
    """Return the files of a run, relative to it, of which anything else could be made."""
    found = [path.relative_to(run) for path in sorted(run.rglob("*")) if path.is_file()]
    return [str(path) for path in found if not set(path.parts) & set(PASSED_OVER)]


def damage(path: Path, kind: str, other: Path, draw: Random) -> None:
    """Flip a bit of one byte, cut a file off, delete it, or put another run's file, or noise where that has none, in its place."""
    content = path.read_bytes()
    if kind == "flipped":
        place = draw.randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :])
    elif kind == "cut":
        path.write_bytes(content[: draw.randrange(len(content))])
    elif kind == "deleted":
        path.unlink()
    elif other.exists() and other.read_bytes() != content:
        shutil.copyfile(other, path)
    else:
        path.write_bytes(draw.randbytes(len(content)))


def finished(bench: Bench, system: str) -> Iterator[Row]:
    """Damage each file of a run with a finished round 1, then play round 2 on top of it."""
    yield from _rows(bench, system, bench.finished(system, 1), bench.finished(system, 1, 1), "finished")


def unfinished(bench: Bench, system: str) -> Iterator[Row]:
    """Damage each file of a round that was killed in its training, then play it to its end."""
    yield from _rows(bench, system, bench.cut_off(system), bench.cut_off(system, seed=1), "unfinished", "round_2/")


def exchanged(bench: Bench, system: str) -> Iterator[Row]:
    """Put whole folders of a run with another seed, whose files fit each other, in the place of this run's; then play round 2."""
    for state, other, name in (
        (bench.finished(system, 1), bench.finished(system, 1, 1), "finished"),
        (bench.cut_off(system), bench.cut_off(system, seed=1), "unfinished"),
    ):
        for folder in sorted({str(Path(*Path(file).parts[:n])) for file in files(state) for n in (1, 2) if n < len(Path(file).parts)}):
            if name == "unfinished" and not folder.startswith("round_2"):
                continue
            row = Row(f"{folder}/ of another run ({system}, {name} round)")
            bench.number += 1
            run = bench.folder / f"run-{bench.number}"
            shutil.copytree(state, run)
            shutil.rmtree(run / folder)
            shutil.copytree(other / folder, run / folder)
            row.count(*bench.verdict(system, run, bench.play(system, run), folder))
            bench.drop(run)
            yield row


def _rows(bench: Bench, system: str, state: Path, other: Path, name: str, only: str = "") -> Iterator[Row]:
    for file in files(state):
        if not file.startswith(only):
            continue
        row = Row(f"{file} ({system}, {name} round)")
        for kind in KINDS:
            for trial in range(bench.times if kind in ("flipped", "cut") else 1):  # the others are the same each time
                bench.number += 1
                run = bench.folder / f"run-{bench.number}"
                shutil.copytree(state, run)
                damage(run / file, kind, other / file, bench.random("damage", system, name, file, kind, trial))
                outcome, note = bench.verdict(system, run, bench.play(system, run), file)
                row.count(outcome, f"{kind}: {note}")
                bench.drop(run)
        yield row
