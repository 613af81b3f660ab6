"""python -m benchmarks.pairs: training steps and rollouts at Stable Diffusion 1.5's size on this CPU, beside what people use today.

Each row has two processes, ours and the naive form's (`benchmarks/gpu_naive.py`), which hold their networks and take turns: one step or one
image each, in an order that alternates. A ratio is that of a pair of turns, in seconds of the processor, which other work on the machine
leaves alone if there is one thread. Where two processes do not fit into memory together, each turn is a process of its own. The weights
are random. The command writes book/results/speed_cpu.json after each pair of turns. A row that has fewer than --turns goes on, unless
--again begins it again. With --toy the networks are tiny, to check that the code runs, and nothing is written.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats

from benchmarks.gpu_networks import ADAPTER, Case, Clock, Size
from benchmarks.gpu_speed import naive_rollouts, naive_training, our_rollouts, our_training
from benchmarks.training_memory import _status
from selfimprove.config import Settings
from selfimprove.files import read_json, write_json
from selfimprove.planning.costs import Shapes, sampling_memory, training_memory
from selfimprove.run_folder import provenance

OUT = Path("book/results/speed_cpu.json")
SPARE = 1.5e9  # bytes of a process beside its networks
KINDS = ("ours", "naive")
NEVER = 10**6  # turns are taken until nobody asks for more


class Row(NamedTuple):
    """One comparison: a case of `gpu_networks`, the naive form beside it, our precision, and the ratio that is aimed at."""

    case: str
    against: str
    precision: str
    aim: float

    @property
    def name(self) -> str:
        return f"{self.case}, {self.precision} against {self.against}"


ROWS = (
    Row("adapter", "naive", "bf16", 1.5),
    Row("rollouts", "naive, float32", "bf16", 1.2),
    Row("rollouts", "naive", "bf16", 1.2),
    Row("all weights", "naive", "bf16", 2.0),
    Row("adapter", "naive", "no", 1.5),
    Row("all weights", "naive", "no", 2.0),
)


class SmallSize(Size):
    """What a CPU takes in at once: one pair, or one image of two steps; the rest is as on a card."""

    repeats = NEVER  # type: ignore[assignment]

    def settings(self, case: Case) -> Settings:
        """Return a card's settings with the smallest batches, and no end of steps."""
        few: dict[str, Any] = {"steps": NEVER, "batch": 1, "micro_batch": 1, "rollout_batch": 1, "rollout_steps": 2}
        return replace(super().settings(case), **few, **({"precision": case.changes["precision"]}))

    def shapes(self) -> Shapes:
        """Return the shapes on a CPU."""
        return replace(super().shapes(), device="cpu")


class Turns(Clock):
    """Times one step, or one call, whenever the other end of the pipe asks for it, in seconds of this process's processor."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.pipe, self.begun = os.fdopen(os.dup(1), "w"), None
        os.dup2(2, 1)  # whatever else is printed goes elsewhere

    def _tell(self, **said: Any) -> None:
        print(json.dumps(said), file=self.pipe, flush=True)

    def _wait(self) -> None:
        if self.begun is None:
            Path("/proc/self/clear_refs").write_text("5")  # from here on the peak is that of turns
            self._tell(ready=True)
        if not sys.stdin.readline():
            sys.exit()
        self.begun = time.perf_counter(), time.process_time()  # type: ignore[assignment]

    def _done(self) -> None:
        seconds, processor = (now - then for now, then in zip((time.perf_counter(), time.process_time()), self.begun, strict=True))  # type: ignore[call-overload]
        self._tell(seconds=seconds, processor=processor, peak_bytes=_status("VmHWM"))

    def tick(self) -> None:
        """End a step, if one was begun, and wait for the next."""
        if self.begun is not None:
            self._done()
        self._wait()

    def timed(self, call: Any) -> float:
        """Wait for a turn, then call."""
        self._wait()
        call()
        self._done()
        return 0.0


def take_turns(row: Row, form: str, toy: bool, seed: int) -> None:
    """Be one of the two processes."""
    torch.set_num_threads(1)
    changes = (ADAPTER if row.case == "adapter" else {}) | {"precision": row.precision}
    case = Case(row.case, form, changes, "sampling" if row.case == "rollouts" else "training")
    size, device, clock = SmallSize(toy), torch.device("cpu"), Turns()
    if case.kind == "training":
        (our_training if form == "ours" else naive_training)(case, size, device, seed, clock)
    else:
        (our_rollouts if form == "ours" else naive_rollouts)(case, size, device, seed, math.inf, clock)


class Player:
    """A process that takes turns, seen from outside. `parts`: timed parts of a turn; ours draws latents, then decodes them."""

    def __init__(self, row: Row, form: str, toy: bool, seed: int) -> None:
        command = [sys.executable, "-m", "benchmarks.pairs", "--row", row.name, "--form", form, "--seed", str(seed), *["--toy"] * toy]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self.parts = 2 if (row.case, form) == ("rollouts", "ours") else 1
        self._read()
        if row.case != "rollouts":  # which have drawn once before they are ready
            self.turn()  # not timed: the first of everything is slower

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            raise RuntimeError(f"the process ended with status {self.process.wait()}")
        return json.loads(line)

    def turn(self) -> dict[str, float]:
        """Have it take one turn; return its seconds, of the clock and of the processor, and the peak of its memory so far."""
        said = []
        assert self.process.stdin is not None
        for _ in range(self.parts):
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
            said.append(self._read())
        sums = {name: sum(part[name] for part in said) for name in ("seconds", "processor")}
        return sums | {"peak_bytes": max(part["peak_bytes"] for part in said)}

    def end(self) -> None:
        """Let the process go."""
        self.process.kill()
        self.process.communicate()


def planned_bytes(row: Row, toy: bool) -> int:
    """Return what the plan says of our process."""
    size = SmallSize(toy)
    changes = (ADAPTER if row.case == "adapter" else {}) | {"precision": row.precision}
    settings = size.settings(Case(row.case, "ours", changes))
    if row.case == "rollouts":
        return sampling_memory(size.shapes(), settings, settings.guidance, 1).peak
    return training_memory(size.shapes(), replace(settings, steps=2), live_opponent=row.case == "all weights").peak


def interval(ratios: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Return the geometric mean of ratios and its 95 % interval, from Student's distribution of their logarithms; one ratio has none."""
    if len(ratios) == 1:
        return ratios[0], None, None
    logs = np.log(ratios)
    half = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs))
    return math.exp(logs.mean()), math.exp(logs.mean() - half), math.exp(logs.mean() + half)


def free_bytes() -> int:
    """Return the bytes of memory that processes could still have."""
    line = next(s for s in Path("/proc/meminfo").read_text().splitlines() if s.startswith("MemAvailable"))
    return int(line.split()[1]) * 1024


def compare(row: Row, turns: int, toy: bool, seed: int, before: Mapping[str, Any] = {}) -> Iterator[dict[str, Any]]:
    """Yield, after each pair of turns, all that was measured of a row: turns, the ratio of each pair, and the memory beside the plan.

    `before`: what an earlier call has yielded last, whose turns count.
    """
    plan, free = planned_bytes(row, toy), free_bytes()
    found: dict[str, Any] = {**row._asdict(), "plan_bytes": plan}
    needed = plan + SPARE
    if needed > free:
        yield found | {"left_out": f"one process needs {needed / 1e9:.0f} GB of memory, and {free / 1e9:.0f} GB were free"}
        return
    together = 2.2 * needed < free
    forms: tuple[str, str] = ("ours", row.against)
    seen: dict[str, list[dict[str, float]]] = {form: [*before.get(kind, [])] for form, kind in zip(forms, KINDS, strict=True)}
    players = {form: Player(row, form, toy, seed) for form in forms} if together else {}
    for index in range(len(seen["ours"]), turns):
        for form in forms if index % 2 == 0 else forms[::-1]:
            player = players.get(form) or Player(row, form, toy, seed)
            seen[form].append(player.turn())
            if not together:
                player.end()
        ours, naive = (np.array([turn["processor"] for turn in seen[form]]) for form in forms)
        ratio, low, high = interval((naive / ours).tolist())
        peaks = {f"{name}peak_bytes": max(t["peak_bytes"] for t in seen[form]) for form, name in zip(forms, ("", "naive_"), strict=True)}
        yield found | peaks | {
            "ours": seen["ours"], "naive": seen[row.against], "ratios": (naive / ours).tolist(), "ratio": ratio, "low": low, "high": high,
            "together": together, "load": os.getloadavg(), "provenance": provenance(),
        }  # fmt: skip
    for player in players.values():
        player.end()


def measured() -> dict[str, dict[str, Any]]:
    """Return the rows that are written down, by name."""
    return {Row(*(row[name] for name in Row._fields)).name: row for row in read_json(OUT)} if OUT.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pairs", description=__doc__)
    parser.add_argument("--turns", type=int, default=3, help="pairs of turns a row")
    parser.add_argument("--only", nargs="*", default=[], help="names of rows, or beginnings of them")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--form", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.row:
        take_turns(next(row for row in ROWS if row.name == options.row), options.form, options.toy, options.seed)
        return
    for row in ROWS:
        before = {} if options.toy or options.again else measured().get(row.name, {})
        chosen = not options.only or any(row.name.startswith(name) for name in options.only)
        if not chosen or len(before.get("ratios", [])) >= options.turns:
            continue
        for found in compare(row, options.turns, options.toy, options.seed, before):
            said = {name: found.get(name) for name in ("ratios", "low", "high", "plan_bytes", "peak_bytes", "left_out")}
            print(row.name, said, flush=True)
            if not options.toy and ("ratio" in found or "ratio" not in before):
                there = measured() | {row.name: found}  # another process may have written meanwhile
                write_json(OUT, [there[r.name] for r in ROWS if r.name in there])


if __name__ == "__main__":
    main()
