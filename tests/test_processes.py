"""Two processes, started by `accelerate launch` on the CPU (gloo), play what one plays, go on where one was killed, and fail together."""

import gc
import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from accelerate import DistributedType
from accelerate.commands.config.config_args import load_config_from_file
from conftest import write_images

from selfimprove import train as training
from selfimprove.evaluation.evaluate import evaluation_latents
from selfimprove.presets import PRESETS, Preset
from selfimprove.processes import choose_device, tf32
from selfimprove.rounds import play
from selfimprove.run import set_up
from selfimprove.run_folder import provenance
from tests.forks import python

PRESET = PRESETS["smoke"].changed(checkpoint_every=1)
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
          "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]  # fmt: skip
PROGRAM = """
import json, os, sys, time
from pathlib import Path
rank, (tiny, images, mixed, folder) = int(os.environ["RANK"]), sys.argv[1:]
time.sleep(rank)  # the second comes when the first has begun
from selfimprove import train
from selfimprove.__main__ import main
from selfimprove.presets import PRESETS
from selfimprove.rounds import play
from selfimprove.run import set_up

preset, said = PRESETS["smoke"].changed(checkpoint_every=1), {}

def attempt(name, run="", device="cpu", data=images, **changes):
    try:
        play(set_up(preset.changed(**changes), "test", tiny, data, f"{folder}/{run or name}", 0, device), 1)
    except Exception as error:
        said[name] = f"{type(error).__name__}: {error}"

attempt("card", device="cuda:0")
attempt("batch", batch=7)
sys.argv = ["", "spin", "--preset", "smoke", "--iter", "1", "--device", "cpu", "--set", "checkpoint_every=1", "--set", "micro_batch=3"]
sys.argv += ["--model", tiny, "--data", images, "--run", f"{folder}/two"]
main()
attempt("killed")
attempt("two shapes", data=mixed, aspect_ratio_buckets=True)
attempt("held")
real = train.make_batch

def broken(*arguments):
    if rank == 1 and arguments[-1] == 1:
        raise OSError("the disk of the second is gone")
    batch = real(*arguments)
    if rank == 1 and arguments[-1] == 2:
        batch.noisy.fill_(float("nan"))
    return batch

train.make_batch = broken
attempt("broken")
train.make_batch = lambda *arguments: real(*arguments) if arguments[-1] == 1 else broken(*arguments)
attempt("nan", "broken")
train.make_batch = real
Path(folder, f"{rank}.json").write_text(json.dumps(said))
"""
PREPARING = """
import json, os, sys
from pathlib import Path
from selfimprove import rsi_stages
from selfimprove.presets import PRESETS
from selfimprove.recursion.judges import ShapesRules
from selfimprove.run import set_up

class Counting(ShapesRules):
    asked = []

    def __call__(self, question, prompts):
        self.asked += [[question, prompt] for prompt in prompts]
        return super().__call__(question, prompts)

rsi_stages.load_judge = lambda name, device: Counting()
place = Path(folder, f"prepared by {os.environ.get('WORLD_SIZE', 1)}")
run = set_up(PRESETS["smoke-rsi"], "test", run=str(place), device="cpu")
made = rsi_stages.prepared_prompts(run, run.preset.settings)
said = {"asked": Counting.asked, "prompts": made.prompts, "reports": list(map(str, made.reports))}
Path(folder, "prepared " + os.environ.get("RANK", "alone") + ".json").write_text(json.dumps(said))
"""


@pytest.fixture(scope="module")
def folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs: `one` by one process, `killed` by one in its third step and ended by two, `two` and `broken` by two.

    `one shapes` and `two shapes` are of images of several shapes, in aspect-ratio buckets.
    """
    folder = tmp_path_factory.mktemp("runs")
    images = write_images(tmp_path_factory.mktemp("images"), 40)
    mixed = write_images(tmp_path_factory.mktemp("mixed"), 40, [(16, 16), (24, 40), (40, 24), (64, 16), (20, 20)])
    play(set_up(PRESET.changed(aspect_ratio_buckets=True), "test", str(tiny), str(mixed), folder / "one shapes", 0, "cpu"), 1)
    play(set_up(PRESET, "test", str(tiny), str(images), folder / "one", 0, "cpu"), 1)
    real, killed = training.make_batch, set_up(PRESET, "test", str(tiny), str(images), folder / "killed", 0, "cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "make_batch", lambda *a: real(*a) if a[-1] < 2 else (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            play(killed, 1)
    del killed
    gc.collect()  # gives up the folder's lock
    held = set_up(PRESET, "test", str(tiny), str(images), folder / "held", 0, "cpu")
    assert (folder / "killed" / "round_1" / "training" / "training.pt").exists()
    (folder / "program.py").write_text(PROGRAM + PREPARING)
    done = subprocess.run(
        [*LAUNCH, str(folder / "program.py"), str(tiny), str(images), str(mixed), str(folder)], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    assert held.folder.lock is not None
    assert done.stdout.count("pictures") == 1, "the main process speaks for both"
    return folder


def log(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "round_1" / "train.parquet")


@pytest.mark.parametrize(("name", "other"), [("two", "one"), ("killed", "one"), ("two shapes", "one shapes")])
def test_two_processes_play_the_same_round(folder: Path, name: str, other: str) -> None:
    stages = json.loads((folder / name / "round_1" / "manifest.json").read_text())["stages"]
    assert stages["training"]["provenance"]["processes"] == 2
    logs = [log(folder / which) for which in (name, other)]
    assert (logs[0]["loss"] - logs[1]["loss"]).abs().max() < 1e-4
    margins = [log.pop("margin") / PRESET.settings.beta for log in logs]  # in errors, which are about 1: rounded at 6e-8
    pd.testing.assert_series_equal(*margins, rtol=0, atol=6e-8)
    pd.testing.assert_frame_equal(*logs, rtol=1e-3, atol=1e-5)
    drawn = [evaluation_latents(folder / which / "round_1") for which in (name, other)]
    assert (drawn[0] - drawn[1]).abs().max() < 1e-5
    assert (folder / name / "round_1" / "training" / "training.pt").exists(), "kept, so that the round may be trained on"


def test_an_error_in_one_process_ends_both(folder: Path) -> None:
    first, second = (json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1))
    assert second["broken"] == "OSError: the disk of the second is gone"
    assert first["broken"] == "ProcessError: process 1 of 2 failed: OSError: the disk of the second is gone"
    assert second["nan"].startswith("FloatingPointError: the loss is not finite at step 2, t=")
    assert first["nan"] == f"ProcessError: process 1 of 2 failed: {second['nan']}"


def test_what_processes_cannot_share_is_refused(folder: Path) -> None:
    for rank in (0, 1):
        said = json.loads((folder / f"{rank}.json").read_text())
        assert said["card"].startswith("ArgumentError: device='cuda:0' cannot be used by 2 processes, of which this one has cpu")
        assert said["batch"].startswith("ArgumentError: batch=7 cannot be shared equally by 2 processes; start a number of processes that")
        assert "killed" not in said
        assert re.search(r"RunError: run='.*held' is being written by process \d+ on ", said["held"])


def test_processes_share_the_judging_of_prompts_and_prepare_the_same(folder: Path) -> None:
    done = python("-c", f"folder = {str(folder)!r}\n{PREPARING}")
    assert done.returncode == 0, done.stderr
    first, second, alone = (json.loads((folder / f"prepared {name}.json").read_text()) for name in ("0", "1", "alone"))
    assert first["prompts"] == second["prompts"] == alone["prompts"]
    assert first["reports"] == second["reports"] == alone["reports"]
    asked = [{tuple(pair) for pair in one["asked"]} for one in (first, second, alone)]
    assert asked[0]
    assert asked[1]
    assert not asked[0] & asked[1]
    assert asked[0] | asked[1] == asked[2]
    tables = [(folder / f"prepared by {number}" / "prompts.parquet").read_bytes() for number in (1, 2)]
    assert tables[0] == tables[1]


def test_float32_is_float32_on_gpus_too() -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    assert tf32() == provenance()["tf32"] == "matmul, convolution"
    torch.backends.cudnn.conv.fp32_precision = "tf32"  # the newer switches
    choose_device("cpu")
    assert tf32() == provenance()["tf32"] == "none"


@pytest.mark.parametrize(("variable", "name"), [("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")])
def test_sharded_weights_are_refused(monkeypatch: pytest.MonkeyPatch, variable: str, name: str) -> None:
    monkeypatch.setenv(variable, "true")
    with pytest.raises(ValueError, match=f"{name} is set in accelerate's configuration and cannot be used here"):
        set_up(Preset("nosuch", "nosuch", PRESET.settings))


@pytest.mark.parametrize(("name", "processes", "machines"), [("one_gpu", 1, 1), ("eight_gpus", 8, 1), ("two_by_eight_gpus", 16, 2)])
def test_configuration_files_are_accelerates(name: str, processes: int, machines: int) -> None:
    path = Path(__file__).parent.parent / "configs" / "accelerate" / f"{name}.yaml"
    found = load_config_from_file(str(path))
    assert (found.num_processes, found.num_machines) == (processes, machines)
    assert found.distributed_type == (DistributedType.NO if processes == 1 else DistributedType.MULTI_GPU)
    assert ("Untested" in path.read_text()) == (processes > 1)
    assert PRESETS["sd15-spin"].settings.share(processes) == 2048 // processes


def test_processes_that_accelerate_does_not_see_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    choose_device("cpu")  # accelerate is set up, for one process
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="the environment speaks of several processes, of which accelerate sees one"):
        choose_device("cpu")
