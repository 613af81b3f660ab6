"""python -m benchmarks.gpu: what a GPU lent for some minutes can tell, in order of worth; `benchmarks/gpu.sh` calls it, gpu.md explains it.

Three parts, each in processes of its own: speed and memory beside naive forms, the tests marked `gpu`, arms of the experiments. Whatever is
finished when the time ends is in the folder `--out`.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu_report import Report, read_lines

GRACE = 6.0  # seconds kept for stopping what runs and for the last export
SPEED_SHARE = 0.6  # of the whole time, at most
TESTS_LIMIT = 90.0  # seconds
FIRST_ARM = 30.0  # seconds that must be left before it is known how long an arm takes
CORE = (
    "torch", "transformers", "accelerate", "peft", "pandas", "pyarrow", "diffusers", "requests", "jaxtyping", "wadler_lindig", "ftfy",
    "wcwidth", "scipy", "sklearn",
)  # fmt: skip
NEEDED = {"speed": CORE, "tests": (*CORE, "pytest"), "arms": (*CORE, "matplotlib")}  # modules of each part


class Deadline:
    """A moment after which nothing begins and everything is stopped, so many seconds from now."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until then, never negative."""
        return max(0.0, self.end - time.monotonic())


def start(command: Sequence[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Start a Python module in a process group of its own, its output going to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", *command], stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
            env=os.environ | {"TQDM_DISABLE": "1", "PYTHONUNBUFFERED": "1"} | environment,
        )  # fmt: skip


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process with all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def follow(process: subprocess.Popen[bytes], seconds: float, log: Path, seen: Callable[[], None] = lambda: None) -> str:
    """Wait for a process, at most so long, calling `seen` again and again; return how it ended, in words."""
    until, begun = time.monotonic() + seconds, time.monotonic()
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.2)
        seen()
    seen()
    status = process.poll()
    stop(process)
    return f"cut off after {time.monotonic() - begun:.0f} s" if status is None else ending(status, log)


def ending(status: int, log: Path) -> str:
    """Say how a process ended; of one that failed with the last line that it wrote."""
    if status == 0:
        return "done"
    lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    return f"failed with exit status {status}: {lines[-1][:300]}"


def speed(report: Report, deadline: Deadline, options: argparse.Namespace, work: Path) -> str:
    """Part (a): time every case and count what it asks for; with cores to spare the counting runs beside the timing."""
    timed, counted, logs = report.files / "timed.jsonl", report.files / "counted.jsonl", report.files / "logs"
    limit = min(deadline.left, max(0.0, deadline.left - (1 - SPEED_SHARE) * options.seconds))
    flags = ["--seed", str(options.seed), *(["--toy"] if options.toy else [])]
    seen = [0]

    def look() -> None:
        lines = read_lines(timed), read_lines(counted)
        if (count := len(lines[0]) + len(lines[1])) != seen[0]:
            seen[0] = count
            report.add_speed(*lines)
            report.export()

    def measuring(*what: str, log: str, seconds: float, **environment: str) -> Callable[[float], str]:
        process = start(["benchmarks.gpu_speed", *what, "--seconds", str(seconds), *flags], logs / log, **environment)
        return lambda limit: follow(process, limit, logs / log, look)

    timing, counting = ("--timed", str(timed)), ("--counted", str(counted))
    if options.toy:
        return measuring(*timing, *counting, log="speed.txt", seconds=limit)(deadline.left)

    def counter() -> Callable[[float], str]:
        return measuring(*counting, log="counts.txt", seconds=limit, CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")

    beside = counter() if (os.cpu_count() or 1) >= 4 else None
    said = measuring(*timing, log="speed.txt", seconds=limit)(limit)
    (beside or counter())(min(30.0, deadline.left))
    return said


def tests(report: Report, deadline: Deadline, options: argparse.Namespace, work: Path) -> str:
    """Part (b): the tests marked `gpu`, each with its outcome; on a toy's CPU those that need no CUDA run too."""
    results = work / "tests.xml"
    # what this machine's libraries warn of is not what the tests are about, nor is every annotation checked at run time
    command = ["pytest", "tests/test_gpu.py", "-m", "gpu", "-q", "-p", "no:cacheprovider", "-o", "addopts=", "-o", "filterwarnings="]
    environment = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"} | ({"GPU_TESTS_ON": report.content["manifest"]["device"]} if options.toy else {})
    log = report.files / "logs" / "tests.txt"
    said = follow(start([*command, f"--junitxml={results}"], log, **environment), min(TESTS_LIMIT, deadline.left), log)
    if results.exists():
        for test in ElementTree.parse(results).iter("testcase"):
            found = [part for part in test if part.tag in ("failure", "error", "skipped")]
            outcome = f"{found[0].tag}: {found[0].get('message', '')}"[:500] if found else "passed"
            report.content["tests"][test.get("name", "")] = outcome
    return said


class Job(NamedTuple):
    """One arm of an experiment with one seed, and the module's first argument where it has several experiments."""

    module: str
    choice: str
    experiment: str
    arm: str
    seed: int


def jobs(toy: bool) -> list[Job]:
    """Return arms in order of worth, all of one seed before the next; none that begins where another arm ended."""
    if toy:
        return [Job("spin_shapes", "", "spin_shapes", "sft-steps", 0)]
    from experiments import rsi_shapes, spin_depth, spin_shapes

    experiments = (
        ("spin_shapes", "", "spin_shapes", spin_shapes.spin("full")),
        ("rsi_shapes", "rounds", "rsi_rounds", rsi_shapes.rounds("full")),
        ("spin_depth", "controls", "spin_controls", spin_depth.controls("full")),
        ("rsi_shapes", "collapse", "rsi_collapse", rsi_shapes.collapse("full")),
        ("spin_depth", "map", "spin_map", spin_depth.the_map("full")),
    )
    return [
        Job(module, choice, experiment, name, seed)
        for seed in range(3)
        for module, choice, experiment, arms in experiments
        for name, arm in arms.items()
        if not arm.start and not arm.write
    ]


@dataclass
class Running:
    """An arm that is being played, since when, and where it writes."""

    job: Job
    process: subprocess.Popen[bytes]
    begun: float
    out: Path


def arms(report: Report, deadline: Deadline, options: argparse.Namespace, work: Path) -> str:
    """Part (c): play arms side by side until the time ends; what each exports goes into the tar as soon as it is finished."""
    waiting, running, took = jobs(options.toy), [], []
    device = report.content["manifest"]["device"]

    def log(job: Job) -> Path:
        return report.files / "logs" / f"{job.experiment}-{job.arm}-{job.seed}.txt"

    def play(job: Job) -> Running:
        out, runs = work / "arms" / job.experiment, work / "runs" / job.experiment
        command = [f"experiments.{job.module}", *([job.choice] if job.choice else []), "--arms", job.arm, "--seeds", str(job.seed)]
        command += ["--device", device, "--out", str(out), "--runs", str(runs), "--size", "smoke" if options.toy else "full"]
        process = start(command, log(job), OMP_NUM_THREADS="1")
        return Running(job, process, time.monotonic(), out)

    def ended(one: Running, said: str) -> None:
        seconds, kept = time.monotonic() - one.begun, report.files / "arms" / one.job.experiment
        name = f"{one.job.arm}-{one.job.seed}"
        if (one.out / f"{name}.json").exists():  # written last: the rest is there
            took.append(seconds)
            kept.mkdir(parents=True, exist_ok=True)
            for path in [p for p in one.out.glob(f"{name}*") if p.name in (f"{name}.json", f"{name}.png") or p.suffix == ".parquet"]:
                shutil.copyfile(path, kept / path.name)
        report.content["arms"].append(one.job._asdict() | {"status": said, "seconds": round(seconds, 1)})
        report.export()

    while (waiting or running) and deadline.left > 0:
        while waiting and len(running) < options.workers and deadline.left > (sorted(took)[len(took) // 2] if took else FIRST_ARM):
            running.append(play(waiting.pop(0)))
        for one in [r for r in running if r.process.poll() is not None]:
            running.remove(one)
            ended(one, ending(one.process.returncode, log(one.job)))
        if not running:
            break
        time.sleep(0.2)
    for one in running:
        stop(one.process)
    for one in running:
        ended(one, "cut off")
    return f"{len(took)} arms done, {len(waiting)} not begun"


PARTS: dict[str, Callable[[Report, Deadline, argparse.Namespace, Path], str]] = {"speed": speed, "tests": tests, "arms": arms}


def run_part(name: str, report: Report, deadline: Deadline, options: argparse.Namespace, work: Path) -> None:
    """Run a part if there is time for it and its libraries are there; whatever happens is said, and exported."""
    missing, begun = [module for module in NEEDED[name] if not find_spec(module)], time.monotonic()
    if missing:
        said = f"left out: {', '.join(missing)} cannot be imported here; put the wheels into the folder that WHEELS names"
    elif deadline.left < (1 if options.toy else 20):
        said = f"left out: {deadline.left:.0f} s were left"
    else:
        try:
            said = PARTS[name](report, deadline, options, work)
        except Exception as error:  # the other parts may do
            said = f"failed: {type(error).__name__}: {error}"
    report.content["parts"][name] = {"status": said, "seconds": round(time.monotonic() - begun, 1)}
    print(f"{name}: {said} ({report.content['parts'][name]['seconds']:.0f} s)", flush=True)
    report.export()


def manifest(options: argparse.Namespace) -> dict[str, Any]:
    """Say on what and with what everything was measured; each timed case says its own settings."""
    made: dict[str, Any] = {name: getattr(options, name) for name in ("toy", "seed", "seconds", "workers", "revision")}
    made |= {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "device": "cpu", "card": "none"}
    if any(not find_spec(module) for module in CORE):
        return made
    import torch

    from selfimprove.run_folder import provenance

    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        made |= {"device": "cuda", "card": card.name, "memory_bytes": card.total_memory, "capability": f"{card.major}.{card.minor}"}
    made |= {"torch": torch.__version__, "cuda": torch.version.cuda, "provenance": provenance()}
    return made | {"revision": options.revision or made["provenance"]["git"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=440, help="after which everything has ended; default: 440")
    parser.add_argument("--toy", action="store_true", help="tiny networks and one small arm, to see that it runs")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=max(1, min(8, (os.cpu_count() or 2) // 2)), help="arms side by side")
    parser.add_argument("--revision", default=os.environ.get("REVISION", ""), help="where git cannot say; default: $REVISION")
    options = parser.parse_args()
    deadline = Deadline(options.seconds - GRACE)
    with tempfile.TemporaryDirectory() as work:
        report = Report(options.out, Path(work) / "files", manifest(options))
        for name in options.parts:
            run_part(name, report, deadline, options, Path(work))
    print(f"written: {options.out / 'gpu.json'}, {options.out / 'gpu.tar.gz'}", flush=True)


if __name__ == "__main__":
    main()
