"""Run folders: nothing is used unverified, one process writes, and what was cut off goes on only with what made it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from selfimprove.files import DamagedFileError, read_json, remove_unfinished, replacing, sha256, write_json
from selfimprove.run_folder import FORMAT, RunError, hold, open_run

ROOT = Path(__file__).parent.parent
HOLDER = """
import sys
from pathlib import Path
from selfimprove.run_folder import hold
lock = hold(Path(sys.argv[1]))
print("held", flush=True)
input()
"""


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(OSError, match="full"), replacing(path) as unfinished:  # noqa: PT012
        unfinished.write_text("half")
        raise OSError("disk full")
    assert read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_numbers_that_json_does_not_have_are_null(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": float("nan"), "b": [float("inf"), -1.5], "c": Path("x")})
    assert json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail) == {"a": None, "b": [None, -1.5], "c": "x"}


def test_a_folder_is_replaced_with_what_it_held(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with replacing(tmp_path / "folder") as unfinished:
            unfinished.mkdir()
            (unfinished / content).write_text(content)
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "round_1").mkdir()
    (tmp_path / "round_1" / "x.parquet.0123456789ab.unfinished").write_text("half")
    (tmp_path / "round_1" / "pipeline.0123456789ab.unfinished").mkdir()
    (tmp_path / "kept.json").write_text("{}")
    remove_unfinished(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["kept.json", "round_1"]


@pytest.mark.parametrize("content", ["", '{"a": ', "\0\0\0"])
def test_json_that_is_cut_off_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DamagedFileError, match=r"manifest\.json is cut off or no JSON"):
        read_json(tmp_path / "manifest.json")


def test_a_changed_file_is_hashed_again(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    first = sha256(path)
    path.write_text("two, longer")
    assert sha256(path) != first
    path.unlink()
    with pytest.raises(DamagedFileError, match="is missing"):
        sha256(path)


def test_a_second_process_is_refused_in_words_until_the_first_ends(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=rf"is being written by process {other.pid} on .*; wait for its end"):
            hold(tmp_path)
        other.kill()
    first, second = hold(tmp_path), hold(tmp_path)  # one process may open it twice
    assert first is second is not None


def test_a_stage_records_what_it_wrote_and_refuses_what_it_did_not(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", {"beta": 1.0}, {})
    with run.stage(1, "rollout", ("a.txt",), opponent="x") as record:
        (run.round(1) / "a.txt").write_text("written")
        record["player"] = "y"
    assert run.record(1, "rollout")["player"] == "y"
    run.check_same(1, "rollout", opponent="x", player="y")
    with pytest.raises(RunError, match=r"its rollout was made with another opponent than there is now"):
        run.check_same(1, "rollout", opponent="z")
    (run.round(1) / "a.txt").write_text("tampered")
    with pytest.raises(RunError, match=r"a\.txt is not what round 1's rollout wrote"):
        run.record(1, "rollout")
    (run.round(1) / "a.txt").unlink()
    with pytest.raises(DamagedFileError, match=r"a\.txt is missing"):
        run.record(1, "rollout")


def test_a_stage_that_was_cut_off_goes_on_only_with_what_it_was_begun_with(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", {"beta": 1.0}, {})
    with pytest.raises(KeyboardInterrupt), run.stage(1, "training", start="x"):
        raise KeyboardInterrupt
    assert not run.is_done(1, "training")
    with (
        pytest.raises(RunError, match=r"its training was begun with something else \(start: 'x' there, 'y' here\)"),
        run.stage(1, "training", start="y"),
    ):
        pass
    begun = run.round(1) / "training.begun.json"
    begun.write_text(json.dumps(json.loads(begun.read_text()) | {"torch version": "1.0"}))
    with pytest.raises(RunError, match=r"torch version: '1\.0' there"), run.stage(1, "training", start="x"):
        pass
    with run.stage(1, "training", rebind=True, start="y"):
        pass
    assert run.is_done(1, "training")
    assert not begun.exists()


def test_folders_that_are_no_run_of_ours_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file; give a folder"):
        open_run(tmp_path / "file", {}, {})
    open_run(tmp_path / "old", {"beta": 1.0}, {})
    about = json.loads((tmp_path / "old" / "run.json").read_text())
    assert about["format"] == FORMAT
    (tmp_path / "old" / "run.json").write_text(json.dumps({"identity": about["identity"]}))
    with pytest.raises(RunError, match=r"was made by an earlier version \(format 1, now 2\)"):
        open_run(tmp_path / "old", {"beta": 1.0}, {})


def test_papermill_may_write_its_notebook_into_the_run_folder_first(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "out.ipynb").write_text("{}")
    (tmp_path / "run" / ".ipynb_checkpoints").mkdir()
    assert open_run(tmp_path / "run", {"beta": 1.0}, {}).path.name == "run"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o500)
    with pytest.raises(PermissionError, match="run"):
        open_run(tmp_path / "run", {}, {})


def test_a_round_of_another_run_is_refused(tmp_path: Path) -> None:
    ours, theirs = (open_run(tmp_path / name, {"seed": 0}, {}) for name in ("ours", "theirs"))
    for run in (ours, theirs):
        with run.stage(0, "evaluation"):
            pass
    with ours.stage(1, "training"):
        pass
    shutil.copyfile(theirs.round(0) / "manifest.json", ours.round(0) / "manifest.json")
    with pytest.raises(RunError, match=r"round_0 is round 0 of another run"):
        ours.is_done(0, "evaluation")
    shutil.copyfile(ours.round(1) / "manifest.json", ours.round(0) / "manifest.json")
    with pytest.raises(RunError, match=r"round_0 is round 1 of another run"):
        ours.manifest(0)
    assert open_run(tmp_path / "ours", {"seed": 0}, {}).is_done(1, "training")


HEAP = """
import sys
from pathlib import Path
import torch
from selfimprove.run_folder import open_run
def private():
    line = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith("RssAnon"))
    return 1024 * int(line.split()[1])
run = open_run(Path(sys.argv[1]), {}, {})
torch.ones(7_500_000)  # from here on glibc takes blocks of 30 MB from its heap
before = private()
networks, kept = [], []
for _ in range(20):
    networks.append(torch.ones(7_000_000))
    kept.append(torch.ones(3_000))
networks.append(networks)  # a cycle, as hooks of networks make them
del networks
freed = private()
with run.stage(1, "training"):
    print(before, freed, private())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_stage_begins_without_the_memory_of_what_came_before(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", HEAP, str(tmp_path / "run")], capture_output=True, text=True, check=True)
    before, freed, begun = map(int, done.stdout.split())
    assert freed - before > 5e8, "freed in vain: the process holds what no tensor needs"
    assert begun - before < 5e7
