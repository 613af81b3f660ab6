"""python -m course.bundle: pack finished run folders into one zip file with checksums, so that no class waits for a round to be played.

    python -m course.bundle pack runs/shapes-spin-288d6239 --rounds 1 --to round_1.zip
    python -m course.bundle unpack round_1.zip

The default run folder of a round is named by its identity (settings, model, data, seed). On any machine `spin_round -p iter 2` therefore
finds the unpacked round 1 and plays on from it. A bundle holds what later rounds and reports read. It leaves out what a run computes again
by itself (latents of real images and texts, logs of training), and what a round of self-play never reads again (its rollout);
`--everything` includes these as well.
"""

import argparse
import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from course.sessions import ROOT, CourseError

INDEX = "bundle.json"
OF_THE_RUN = {"run.json", "prompts.parquet", "prompts.json"}  # what later rounds read, besides the rounds' folders
LEFT_OUT = {"training", "real", "text", "lora.unfinished", "pipeline.unfinished"}  # folders that a finished round does not need


def _round_of(path: PurePosixPath) -> int | None:
    """Return the round that a file of a run folder belongs to; None for the run's own files."""
    name = path.parts[0]
    return int(name.removeprefix("round_")) if name.startswith("round_") and name.removeprefix("round_").isdigit() else None


def finished_rounds(run: Path) -> list[int]:
    """Return the rounds of a run folder that have been played and judged, from 0 on without a gap.

    Raises:
        CourseError: the folder is no run folder, or has no finished round.
    """
    if not (run / "run.json").exists():
        raise CourseError(f"{run} is no run folder: it holds no run.json; give a folder below runs/")
    done: list[int] = []
    while (manifest := run / f"round_{len(done)}" / "manifest.json").exists() and "evaluation" in json.loads(manifest.read_text())[
        "stages"
    ]:
        done.append(len(done))
    if not done:
        raise CourseError(f"{run} has no finished round; play one first")
    return done


def chosen_files(run: Path, last: int | None, everything: bool) -> list[Path]:
    """Return the files of a run folder that go into a bundle: run.json, and rounds 0 to `last` (None: all finished rounds).

    Raises:
        CourseError: round `last` is not finished.
    """
    done = finished_rounds(run)
    if last is not None and last not in done:
        raise CourseError(f"{run}: round {last} is not finished; finished are {done}")
    rounds, files = done if last is None else done[: last + 1], []
    identity = json.loads((run / "run.json").read_text())["identity"]
    keeps = identity["objective"] == "weighted" or identity.get("weighting", "none") != "none"  # later rounds weight by round 1's rollout
    left_out = set() if everything else LEFT_OUT if keeps else LEFT_OUT | {"rollout"}
    for path in sorted(p for p in run.rglob("*") if p.is_file()):
        inside = PurePosixPath(path.relative_to(run).as_posix())
        index = _round_of(inside)
        own = inside.as_posix() in OF_THE_RUN if index is None else index in rounds
        if (own or (everything and index is None)) and not left_out & set(inside.parts):
            files.append(path)
    return files


def pack(runs: Sequence[Path], target: Path, last: int | None = None, everything: bool = False) -> int:
    """Write a bundle of run folders, and return its number of files.

    Raises:
        CourseError: see `chosen_files`; or two runs have the same name.
    """
    if len({run.resolve().name for run in runs}) < len(runs):
        raise CourseError("two run folders have the same name; rename one, or make two bundles")
    found = {
        f"{run.resolve().name}/{path.relative_to(run).as_posix()}": path for run in runs for path in chosen_files(run, last, everything)
    }
    sums = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".unfinished")
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(INDEX, json.dumps({"sha256": sums}, indent=1) + "\n")
        for name, path in found.items():
            archive.write(path, name)
    unfinished.replace(target)
    return len(found)


def unpack(bundle: Path, folder: Path) -> list[Path]:
    """Put a bundle's runs into a folder, and return their folders. A file that exists already with the same content stays.

    Raises:
        CourseError: the file is no bundle; or a file in it is damaged, unlisted, would lie outside the folder, or exists with other
            content.
    """
    try:
        archive = zipfile.ZipFile(bundle)
        sums: dict[str, str] = json.loads(archive.read(INDEX))["sha256"]
        listed = set(archive.namelist()) - {INDEX}
    except (OSError, zipfile.BadZipFile, KeyError, json.JSONDecodeError) as error:
        raise CourseError(f"{bundle} is no bundle ({type(error).__name__}); make one with python -m course.bundle pack") from error
    if listed != set(sums):
        raise CourseError(f"{bundle} does not hold the files that its index names: {sorted(listed ^ set(sums))[:3]}; get it again")
    for name in sums:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            raise CourseError(f"{bundle}: {name!r} would lie outside the folder; do not use this file")
    with archive:
        return _write(archive, sums, folder, bundle)


def _write(archive: zipfile.ZipFile, sums: dict[str, str], folder: Path, bundle: Path) -> list[Path]:
    try:
        damaged = [name for name, known in sums.items() if hashlib.sha256(archive.read(name)).hexdigest() != known]
    except zipfile.BadZipFile as error:
        raise CourseError(f"{bundle} is damaged: {error}; get it again") from error
    if damaged:
        raise CourseError(f"{bundle}: {damaged[0]} is damaged ({len(damaged)} in all); get it again")
    there = {name: folder / name for name in sums if (folder / name).exists()}
    if other := [str(p) for name, p in there.items() if hashlib.sha256(p.read_bytes()).hexdigest() != sums[name]]:
        raise CourseError(
            f"{other[0]} is there with other content ({len(other)} in all); unpack into another folder, or move that run away"
        )
    for name in sorted(sums.keys() - there.keys()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(archive.read(name))
    return sorted({folder / PurePosixPath(name).parts[0] for name in sums})


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m course.bundle", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="make a bundle of finished run folders")
    packing.add_argument("runs", nargs="+", type=Path)
    packing.add_argument("--to", type=Path, default=ROOT / "runs" / "course" / "bundle.zip", help="default: runs/course/bundle.zip")
    packing.add_argument("--rounds", type=int, default=None, help="the last round to take; default: all finished ones")
    packing.add_argument("--everything", action="store_true", help="also latents, caches and logs of training")
    unpacking = commands.add_parser("unpack", help="put a bundle's runs where notebooks find them")
    unpacking.add_argument("bundle", type=Path)
    unpacking.add_argument("--folder", type=Path, default=ROOT / "runs", help="default: runs")
    given = parser.parse_args(arguments)
    try:
        if given.command == "pack":
            count = pack(given.runs, given.to, given.rounds, given.everything)
            print(f"{given.to}: {count} files, {given.to.stat().st_size / 1e6:.1f} MB")
        else:
            print(*unpack(given.bundle, given.folder), sep="\n")
    except CourseError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
