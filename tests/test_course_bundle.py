"""Bundles of finished runs: what they take, that a round goes on from one, what is refused, and which are published with the book."""

import re
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

from course import bundle
from course.sessions import ROOT, CourseError
from selfimprove.presets import PRESETS, get_preset
from selfimprove.request import Request
from selfimprove.rounds import play
from selfimprove.run import set_up
from selfimprove.run_folder import identity_hash


@pytest.mark.filterwarnings("ignore:round 2 shows signs of collapse")  # six images are too few for a sign to mean anything
def test_a_round_goes_on_from_a_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def prepared_run(folder: Path):  # type: ignore[no-untyped-def]
        return set_up(get_preset("smoke"), "smoke", run=folder, device="cpu")

    first, bundled = tmp_path / "here" / "run", tmp_path / "bundle.zip"
    play(prepared_run(first), 1)
    assert bundle.main(["pack", str(first), "--to", str(bundled), "--rounds", "1"]) == 0
    assert bundle.main(["unpack", str(bundled), "--folder", str(tmp_path / "there")]) == 0
    again = tmp_path / "there" / "run"
    assert str(again) in capsys.readouterr().out
    names = {p.relative_to(again).parts[1] for p in again.glob("round_1/*")}
    assert {"manifest.json", "metrics.json", "pipeline", "train.parquet", "evaluation"} <= names
    assert not {"rollout", "training"} & names
    infos = play(prepared_run(again), 2)
    assert [info.played for info in infos] == [False, False, True]
    assert infos[1].metrics == play(prepared_run(first), 1)[1].metrics


def made_up_run(folder: Path, objective: str = "spin") -> Path:
    """What a run folder looks like to a bundle, in a few bytes."""
    for index in (0, 1):
        for name in ("metrics.json", "pipeline/unet/weights", "rollout/0", "training/log"):
            path = folder / f"round_{index}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{index} {name}")
        (folder / f"round_{index}" / "manifest.json").write_text('{"stages": {"evaluation": {}}}')
    (folder / "run.json").write_text(f'{{"identity": {{"objective": "{objective}"}}}}')
    (folder / "summary.csv").write_text("x")
    return folder


def test_what_a_bundle_takes(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "run")

    def names(**how: object) -> set[str]:
        return {p.relative_to(run).as_posix() for p in bundle.chosen_files(run, **({"last": None, "everything": False} | how))}  # type: ignore[arg-type]

    assert names() == {"run.json", *(f"round_{i}/{n}" for i in (0, 1) for n in ("manifest.json", "metrics.json", "pipeline/unet/weights"))}
    assert not [name for name in names(last=0) if "round_1" in name]
    assert {"summary.csv", "round_1/rollout/0", "round_1/training/log"} <= names(everything=True)
    made_up_run(run, "weighted")
    assert "round_1/rollout/0" in names()
    with pytest.raises(CourseError, match="round 2 is not finished"):
        names(last=2)
    (run / "round_0" / "manifest.json").write_text('{"stages": {}}')
    with pytest.raises(CourseError, match="no finished round"):
        names()
    with pytest.raises(CourseError, match="no run folder"):
        bundle.finished_rounds(tmp_path)
    with pytest.raises(CourseError, match="same name"):
        bundle.pack([run, run], tmp_path / "b.zip")


def test_damaged_bundles_are_refused(tmp_path: Path) -> None:
    made = tmp_path / "b.zip"
    bundle.pack([made_up_run(tmp_path / "run")], made)
    bundle.unpack(made, tmp_path / "out")
    bundle.unpack(made, tmp_path / "out")  # what is there with the same content stays
    (tmp_path / "out" / "run" / "run.json").write_text("changed")
    with pytest.raises(CourseError, match="other content"):
        bundle.unpack(made, tmp_path / "out")

    def rewritten(change: dict[str, str]) -> Path:
        with zipfile.ZipFile(made) as old, zipfile.ZipFile(tmp_path / "changed.zip", "w") as new:
            held = {name: old.read(name).decode() for name in old.namelist()}
            for name, text in (held | change).items():
                new.writestr(name, text)
        return tmp_path / "changed.zip"

    for said, change in {
        "is damaged": {"run/run.json": "{}"},
        "does not hold": {"run/more": "x"},
        "outside the folder": {"../evil": "x", "bundle.json": '{"sha256": {"../evil": ""}}'},
    }.items():
        changed = rewritten(change)
        if "../evil" in change:
            with zipfile.ZipFile(changed, "w") as archive:
                for name, text in change.items():
                    archive.writestr(name, text)
        with pytest.raises(CourseError, match=said):
            bundle.unpack(changed, tmp_path / "new")
    assert not (tmp_path / "evil").exists()
    (tmp_path / "no.zip").write_text("no")
    with pytest.raises(CourseError, match="no bundle"):
        bundle.unpack(tmp_path / "no.zip", tmp_path / "new")
    assert bundle.main(["unpack", str(tmp_path / "no.zip")]) == 1


def test_the_published_bundles_are_of_the_folder_that_make_round_writes() -> None:
    workflow = (ROOT / ".github" / "workflows" / "publish.yml").read_text()
    packed = re.findall(r"python -m course\.bundle pack (\S+) --rounds (\d) --to (\S+)", workflow)
    assert [rounds for _, rounds, _ in packed] == ["1", "2"]
    assert len({target for *_, target in packed}) == 2
    preset = Request(iter=2).name  # which the notebook takes if none is named
    for pattern, _, _ in packed:
        digits = identity_hash({})
        assert [name for name in PRESETS if fnmatch(f"runs/{name}-{digits}", pattern)] == [preset]
