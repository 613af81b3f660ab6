"""Two processes play what one plays with twice the accumulation."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from selfimprove.presets import PRESETS

# accelerate shares a CPU among processes only where it is told to use the CPU, and keeps what it was told first
PROGRAM = "from accelerate import PartialState; PartialState(cpu=True); from selfimprove.__main__ import main; main()"
PLAY = [sys.executable, "-c", PROGRAM, "spin", "--preset", "smoke", "--iter", "1", "--device", "cpu", "--set", "batch_size=4"]
PLAY += ["--set", "rollout_batch=4"]  # several parts, so that both processes score


def test_two_processes_play_the_same_round(tiny: Path, images: Path, tmp_path: Path) -> None:
    command = [*PLAY, "--model", str(tiny), "--data", str(images), "--run"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    running = []
    for rank in ("0", "1"):
        environment = os.environ | together | {"RANK": rank, "LOCAL_RANK": rank}
        running.append(subprocess.Popen([*command, str(tmp_path / "two")], env=environment, stdout=subprocess.PIPE, text=True))
        time.sleep(1)  # the second comes when the first has begun
    said = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert "pictures" in said[0]
    assert not said[1].strip()  # the main process speaks for both
    subprocess.run([*command, str(tmp_path / "one"), "--set", "accumulation=2"], stdout=subprocess.PIPE, check=True)
    record = json.loads((tmp_path / "two" / "round_1" / "manifest.json").read_text())["stages"]["training"]
    assert record["provenance"]["processes"] == 2
    for name in ("scores", "held_out"):  # of the base model: scored by two, equal to the last bit
        pd.testing.assert_frame_equal(*(pd.read_parquet(tmp_path / run / "round_0" / f"{name}.parquet") for run in ("two", "one")))
    assert len(list((tmp_path / "two" / "round_0" / "images").iterdir())) == 12
    logs = [pd.read_parquet(tmp_path / name / "round_1" / "train.parquet") for name in ("two", "one")]
    margins = [log.pop("margin") / PRESETS["smoke"].settings.beta for log in logs]  # in errors, which are about 1: rounded at 6e-8
    pd.testing.assert_series_equal(*margins, rtol=0, atol=6e-8)
    pd.testing.assert_frame_equal(*logs, rtol=1e-3, atol=1e-5)
