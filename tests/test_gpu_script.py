"""benchmarks/gpu.sh at a toy's size on a CPU, and what it does when time or room runs out."""

import argparse
import json
import math
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu, gpu_report
from benchmarks.gpu import Deadline, Job, follow, run_part, start
from benchmarks.gpu_report import Report, flops_per_unit, pack, peak_of, with_counts
from selfimprove.planning.plan import PEAKS
from tests import forks

ROOT = Path(__file__).parent.parent


def begin(command: Sequence[str], log: Path, **environment: str) -> Any:
    """Fork what `gpu.start` starts anew."""
    log.parent.mkdir(parents=True, exist_ok=True)
    return forks.start(["-m", *command], log, log, ROOT, **({"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"} | environment))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a toy run wrote."""
    out = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "start", begin)
        patch.setattr(sys, "argv", ["gpu", "--out", str(out), "--seconds", "400", "--toy"])
        gpu.main()
    return out


def test_the_script_hands_on_what_it_is_told(tmp_path: Path) -> None:
    """With too little time for any part, all is written nevertheless."""
    environment = os.environ | {"OUT": str(tmp_path / "out"), "TOY": "1", "PYTHON": sys.executable, "DEADLINE": "5"}
    done = subprocess.run(["bash", "benchmarks/gpu.sh"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert f"written: {tmp_path / 'out' / 'gpu.json'}" in done.stdout
    written = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert written["manifest"]["toy"]
    assert written["manifest"]["seconds"] <= 5
    assert [part["status"] for part in written["parts"].values()] == ["left out: 0 s were left"] * 3
    assert (tmp_path / "out" / "gpu.tar.gz").exists()


@pytest.fixture
def report(toy: Path) -> dict[str, Any]:
    return json.loads((toy / "gpu.json").read_text())


def test_every_part_is_done_and_says_on_what(report: dict[str, Any]) -> None:
    assert {name: part["status"] for name, part in report["parts"].items()} == {
        "speed": "done", "tests": "done", "arms": "1 arms done, 0 not begun",
    }  # fmt: skip
    assert all(part["seconds"] > 0 for part in report["parts"].values())
    manifest = report["manifest"]
    assert manifest["toy"]
    assert (manifest["seed"], manifest["card"]) == (0, "none") or manifest["device"] == "cuda"
    assert manifest["torch"]
    assert manifest["revision"] == manifest["provenance"]["git"]


def test_every_case_is_timed_beside_its_naive_form(report: dict[str, Any]) -> None:
    rows = {(row["case"], row["form"]): row for row in report["speed"]}
    assert {case for case, form in rows if form == "ours"} == {case for case, form in rows if form == "naive"}
    for row in rows.values():
        assert "error" not in row
        assert len(row["seconds"]) == 2
        assert min(row["seconds"]) <= row["median_seconds"] <= max(row["seconds"])
        assert row["per_second"] == pytest.approx(row["units"] / row["median_seconds"])
        assert {"peak_bytes", "card_peak", "settings"} <= set(row)
    ours, naive = rows["all weights", "ours"], rows["all weights", "naive"]
    assert ours["loss_first"] == pytest.approx(math.log(2), abs=1e-4)  # player and opponent are the same network
    assert ours["settings"] == naive["settings"]
    assert ours["settings"]["precision"] == "bf16"
    assert 0 < ours["flops_per_unit"] < naive["flops_per_unit"]  # which encodes images
    assert ours["plan_bytes"] > 0
    assert rows["all weights", "ours, opponent kept"]["flops_per_unit"] < ours["flops_per_unit"]
    assert (rows["rollouts", "ours"]["forwards_per_image"], rows["rollouts", "naive"]["forwards_per_image"]) == (6, 8)  # PNDM: one more
    assert report["ratios"]["all weights"]["naive"] == pytest.approx(ours["per_second"] / naive["per_second"])


def test_the_tests_marked_gpu_have_outcomes(report: dict[str, Any]) -> None:
    assert len(report["tests"]) == 6
    assert "passed" in report["tests"].values()
    assert all(outcome == "passed" or outcome.startswith("skipped: fp16 needs a GPU") for outcome in report["tests"].values())


def test_finished_arms_are_in_the_tar(toy: Path, report: dict[str, Any]) -> None:
    assert [(arm["arm"], arm["status"]) for arm in report["arms"]] == [("sft-steps", "done")]
    path = toy / "gpu.tar.gz"
    assert {p.name for p in toy.iterdir()} == {"gpu.json", "gpu.tar.gz"}
    assert path.stat().st_size == report["tar"]["bytes"] <= gpu_report.LIMIT
    with tarfile.open(path) as tar:
        names = tar.getnames()
    assert {f"arms/spin_shapes/sft-steps-0{end}" for end in (".json", "-prompts.parquet")} < set(names)
    assert "timed.jsonl" in names
    assert (len(names), report["tar"]["left_out"]) == (report["tar"]["files"], [])


@pytest.fixture
def empty(tmp_path: Path) -> Report:
    return Report(tmp_path / "out", tmp_path / "files", {"device": "cpu", "card": "none"})


def options(**changes: object) -> argparse.Namespace:
    return argparse.Namespace(**{"toy": False, "seed": 0, "seconds": 0.0, "workers": 2} | changes)


def test_without_time_nothing_begins_and_all_is_written(empty: Report, tmp_path: Path) -> None:
    for name in gpu.PARTS:
        run_part(name, empty, Deadline(3), options(), tmp_path)
    written = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert [part["status"] for part in written["parts"].values()] == ["left out: 3 s were left"] * 3
    assert (tmp_path / "out" / "gpu.tar.gz").exists()


def test_an_arm_begins_only_if_it_may_end(empty: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = [Job("spin_shapes", "", "spin_shapes", arm, 0) for arm in ("spin", "dpo")]
    monkeypatch.setattr(gpu, "jobs", lambda toy: list(waiting))
    assert gpu.arms(empty, Deadline(gpu.FIRST_ARM - 1), options(), tmp_path) == "0 arms done, 2 not begun"


def test_an_arm_that_is_running_at_the_end_is_cut_off(empty: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "jobs", lambda toy: [Job("spin_shapes", "", "spin_shapes", "spin", 0)])
    monkeypatch.setattr(gpu, "FIRST_ARM", 0.1)
    begun = time.monotonic()
    assert gpu.arms(empty, Deadline(1), options(), tmp_path) == "0 arms done, 0 not begun"
    assert time.monotonic() - begun < 30  # an arm takes minutes
    assert [arm["status"] for arm in empty.content["arms"]] == ["cut off"]


def test_arms_that_need_no_other_are_played() -> None:
    found = gpu.jobs(toy=False)
    assert found[0] == Job("spin_shapes", "", "spin_shapes", "spin", 0)
    assert len(set(found)) == len(found) > 100
    assert not [job for job in found if job.arm in ("spin-from-near", "spin-blocks-2")]


def test_a_process_is_stopped_in_time_and_one_that_fails_says_why(tmp_path: Path) -> None:
    begun, log = time.monotonic(), tmp_path / "log.txt"
    process = start(["timeit", "-n1", "-r1", "import time; time.sleep(60)"], log)
    assert follow(process, 0.5, log).startswith("cut off after")
    assert process.poll() is not None
    assert time.monotonic() - begun < 30
    assert follow(start(["timeit", "-n1", "-r1", "1/0"], log), 30, log) == "failed with exit status 1: ZeroDivisionError: division by zero"


def test_what_cannot_be_imported_is_named(empty: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gpu.NEEDED, "arms", ("torch", "nothing_of_this_name"))
    run_part("arms", empty, Deadline(100), options(), tmp_path)
    assert empty.content["parts"]["arms"]["status"].startswith("left out: nothing_of_this_name cannot be imported here; put the wheels")


def test_the_largest_files_are_left_out_of_a_tar_that_would_be_too_large(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    for name, size in (("small", 10), ("middling", 3000), ("large", 90_000)):
        (files / name).write_bytes(os.urandom(size))
    found = pack(files, tmp_path / "made.tar.gz", limit=5000)
    assert found == {"files": 2, "bytes": (tmp_path / "made.tar.gz").stat().st_size, "left_out": ["large"]}
    assert found["bytes"] <= 5000


@pytest.mark.parametrize(
    ("card", "peak"),
    [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H200", 989e12), ("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA GeForce RTX 4090", 165e12)],
)
def test_cards_are_known_by_their_names(card: str, peak: float) -> None:
    assert peak_of(card, PEAKS) == peak
    assert peak_of("NVIDIA L4", PEAKS) is None


def test_the_share_of_the_peak_is_of_what_was_asked_for() -> None:
    flops = {"forward": 1e12, "step": 3e12, "decode": 2e12, "encode": 1e12}
    assert flops_per_unit({"kind": "training", "form": "ours"}, flops) == 8e12
    assert flops_per_unit({"kind": "training", "form": "ours, opponent kept"}, flops) == 6e12
    assert flops_per_unit({"kind": "training", "form": "naive"}, flops) == 10e12
    assert flops_per_unit({"kind": "sampling", "form": "naive, float32", "forwards_per_image": 102.0}, flops) == 104e12
    row = {"case": "a", "form": "ours", "kind": "training", "units": 32, "seconds": [1.0, 2.0, 9.0], "card_peak": 512e12, "peak_bytes": 20}
    made = with_counts(row, [{"case": "a", "form": "ours", "flops": flops, "plan_bytes": 10}])
    assert (made["median_seconds"], made["per_second"], made["share_of_peak"], made["peak_over_plan"]) == (2.0, 16.0, 0.25, 2.0)
