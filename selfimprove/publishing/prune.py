"""Delete the images of finished rounds that no later round reads; a run folder stays whole, and draws them again if they are asked for."""

from pathlib import Path

from selfimprove.files import read_json, remove, write_json
from selfimprove.run_folder import FORMAT, RunError, RunFolder, hold

STAGE, FOLDERS = "rollout", ("rollout", "selected", "pool", "candidates")  # what a round draws, and what is made of it


def open_finished(path: str | Path) -> RunFolder:
    """Open and hold the folder of a run for what needs neither its model nor its data.

    Raises:
        RunError: the folder holds no run, or one of an earlier version, or another process writes into it.
    """
    path = Path(path).expanduser()
    if not (path / "run.json").exists():
        raise RunError(f"run={str(path)!r} holds no run.json; give a run folder, such as runs/own-images-1a2b3c4d")
    about = read_json(path / "run.json")
    if about.get("format") != FORMAT:
        raise RunError(f"run={str(path)!r} was made by an earlier version; use that version")
    return RunFolder(path, about["identity"], hold(path), about.get("mark", ""))


def finished(folder: RunFolder) -> list[int]:
    """Return the rounds from 1 on that are trained and evaluated."""
    rounds, index = [], 1
    while folder.is_done(index, "training") and folder.is_done(index, "evaluation"):
        rounds.append(index)
        index += 1
    return rounds


def prune(run: str | Path, last: bool = False) -> int:
    """Delete the rollouts of a run's finished rounds, and return the bytes that this frees.

    Kept are the rollouts of the last finished round, unless `last`, and those that later rounds read: of all rounds if samples accumulate,
    of round 1 if weights are distances to them. What the manifest recorded of a deleted rollout moves from "stages" to "pruned".

    Raises:
        RunError: see `open_finished`.
    """
    folder = open_finished(run)
    asked = {name.split()[-1]: value for name, value in folder.identity.items() if value not in (False, "none")}
    done = finished(folder)
    keep = {*done} if "accumulate" in asked else {*(() if last else done[-1:]), *((1,) if "weighting" in asked else ())}
    freed = 0
    for index in (k for k in done if k not in keep):
        manifest = folder.manifest(index)
        if record := manifest["stages"].pop(STAGE, None):
            write_json(folder.round(index) / "manifest.json", manifest | {"pruned": {STAGE: record}})
        for path in (folder.round(index) / name for name in FOLDERS):  # also what a prune that was killed here has left
            freed += sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and file.stat().st_nlink == 1)
            remove(path)
    return freed
