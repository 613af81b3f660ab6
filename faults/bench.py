"""Hold what all faults share: a world, undisturbed runs to compare with, states of runs to begin from, and the verdict on a run."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from faults import world
from faults.fingerprint import Prints, differing, fingerprints
from faults.process import Ended, Running, play, warm_up
from faults.results import LOST, REFUSED, SAME, TRACEBACK, UNUSED

Verdict = tuple[str, str]  # an outcome, and a note on it


class Bench:
    """A folder in which faults are tried, with a seed for everything that is drawn at random."""

    def __init__(self, folder: Path, seed: int = 0, times: int = 1) -> None:
        self.folder, self.seed, self.times = folder, seed, times
        self.world, self.number = folder / "world", 0
        world.prepare()
        pid = os.fork()  # so that this process has computed nothing when it forks others
        if pid == 0:
            try:
                world.make(self.world)
                os._exit(0)
            finally:
                os._exit(1)
        if os.waitpid(pid, 0)[1]:
            raise RuntimeError("the tiny pipeline could not be made")
        warm_up(self.log(), world.command(self.world, "spin", folder / "warm-up", 1))
        self.undisturbed = cache(self._undisturbed)
        self.finished = cache(self._finished)
        self.spans = cache(self._spans)

    def log(self) -> Path:
        """Return a new path for what a process says."""
        self.number += 1
        return self.folder / f"{self.number}.log"

    def random(self, *about: object) -> random.Random:
        """Return a generator that depends on the seed and on what it is for, not on what was drawn before."""
        return random.Random(" ".join(map(str, (self.seed, *about))))

    def command(self, system: str, run: Path, rounds: int = 2, **changes: Any) -> list[str]:
        """Return the arguments that play a tiny run in this world."""
        return world.command(self.world, system, run, rounds, **changes)

    def play(self, system: str, run: Path, rounds: int = 2, before: Callable[[], None] | None = None, **changes: Any) -> Ended:
        """Play a run to its end."""
        return play(self.command(system, run, rounds, **changes), self.log(), before)

    def _must(self, ended: Ended) -> None:
        if ended.status != 0:
            raise RuntimeError(f"an undisturbed run ended with {ended.status}:\n{ended.said[-3000:]}")

    def _finished(self, system: str, rounds: int, seed: int = 0) -> Path:
        """Return an undisturbed run up to a round; read only."""
        run = self.folder / f"{system}-{rounds}-{seed}"
        if rounds > 1:
            shutil.copytree(self.finished(system, rounds - 1, seed), run)
        self._must(self.play(system, run, rounds, seed=seed))
        return run

    def _undisturbed(self, system: str, rounds: int = 2) -> Prints:
        """Return the fingerprints of an undisturbed run, after a second one has shown that they repeat."""
        once = fingerprints(self.finished(system, rounds))
        if rounds == 2:
            self._must(self.play(system, self.folder / f"{system}-again", rounds))
            if names := differing(once, fingerprints(self.folder / f"{system}-again")):
                raise RuntimeError(f"two undisturbed runs differ in {names}")
        return once

    def begun(self, system: str, rounds: int = 1, seed: int = 0) -> Path:
        """Return a copy of a run whose first rounds are finished, for a fault in the next one."""
        self.number += 1
        run = self.folder / f"run-{self.number}"
        if rounds:
            shutil.copytree(self.finished(system, rounds, seed), run)
        return run

    def drop(self, run: Path) -> None:
        """Remove a run that has served."""
        shutil.rmtree(run, ignore_errors=True)

    def _spans(self, system: str) -> dict[str, float]:
        """Return how long each stage of round 2 takes, and "all": the time from a process's start to its end."""
        run, spans, began = self.begun(system), dict[str, float](), time.monotonic()
        process = Running(self.command(system, run), self.log())
        for stage in world.STAGES[system]:
            file = run / "round_2" / f"{stage}.begun.json"
            process.wait_for(lambda file=file: file.exists())  # type: ignore[misc]
            start = time.monotonic()
            process.wait_for(lambda file=file: not file.exists())  # type: ignore[misc]
            spans[stage] = time.monotonic() - start
        self._must(process.end())
        self.drop(run)
        return spans | {"all": time.monotonic() - began}

    def cut_off(self, system: str, stage: str = "training", file: str = "training/training.pt", seed: int = 0) -> Path:
        """Return a run that was killed in a stage of round 2, as soon as a file of that stage was there."""
        run = self.begun(system, 1, seed)
        process = Running(self.command(system, run, seed=seed), self.log())
        if not process.wait_for(lambda: (run / "round_2" / file).exists() and (run / "round_2" / f"{stage}.begun.json").exists()):
            raise RuntimeError(f"{stage} ended before it was cut off: {process.end().said[-2000:]}")
        process.send(signal.SIGKILL)
        process.end()
        return run

    def verdict(self, system: str, run: Path, ended: Ended, named: str = "", rounds: int = 2) -> Verdict:
        """Judge how a run ended after a fault; `named`: the damaged file, relative to the run, which a refusal must name, or its round."""
        if ended.status is None:
            return LOST, "hung"
        if ended.status != 0:
            if not ended.refusal:
                last = ended.said.strip().splitlines()[-1:] or [f"ended with {ended.status}"]
                return TRACEBACK, self.plain(last[0])
            parts = [str(run / named), f"{run / Path(named).parts[0]}" if named else "", str(run), Path(named).name]
            return (REFUSED if any(part and part in ended.refusal for part in parts) else TRACEBACK), self.plain(ended.refusal)
        found, wanted = fingerprints(run), self.undisturbed(system, rounds)
        if not differing(wanted, found):
            return SAME, ""
        if named and not differing(wanted, found, but=named):
            return UNUSED, ""
        return LOST, f"differs in {', '.join(differing(wanted, found)[:4])}"

    def plain(self, text: str) -> str:
        """Return a message without this machine's paths."""
        return text.replace(str(self.folder), "...")[:240]
