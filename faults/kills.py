"""Kill processes at random moments, play on, and compare what is there in the end with an undisturbed run."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from faults.bench import Bench
from faults.fingerprint import differing, fingerprints
from faults.process import Ended, Running
from faults.results import LOST, SAME, TRACEBACK, Row
from faults.world import STAGES

PATIENCE = 30  # seconds for which the other of two processes may notice that it is alone


def by_stage(bench: Bench, system: str, what: signal.Signals = signal.SIGKILL) -> Iterator[Row]:
    """Kill a run at a random moment of each stage of round 2; then play it to its end."""
    for stage in STAGES[system]:
        row = Row(f"{'SIGKILL' if what == signal.SIGKILL else 'Ctrl-C'} in {stage} ({system})")
        for trial in range(bench.times):
            run = killed(bench, system, stage, what, trial)
            row.count(*bench.verdict(system, run, bench.play(system, run)))
            bench.drop(run)
        yield row


def killed(bench: Bench, system: str, stage: str, what: signal.Signals, trial: int) -> Path:
    """Return a run that has been killed in a stage: at a random part of the time that the stage took undisturbed."""
    draw = bench.random("kill", system, stage, what.name, trial)
    for attempt in range(8):
        run = bench.begun(system)
        begun = run / "round_2" / f"{stage}.begun.json"
        process = Running(bench.command(system, run), bench.log())
        process.wait_for(begun.exists, 0.0005)
        time.sleep(draw.random() * bench.spans(system)[stage] / 2**attempt)
        process.send(what)
        process.end()
        if begun.exists():
            return run
        bench.drop(run)
    raise RuntimeError(f"{stage} of {system} always ended before it was killed")


def anywhere(bench: Bench, system: str) -> Iterator[Row]:
    """Kill a run three times at random moments of its whole time, from before its folder exists; then play it to its end."""
    row = Row(f"SIGKILL three times at any moment, from an empty folder on ({system})")
    for trial in range(bench.times):
        run, draw = bench.begun(system, 0), bench.random("anywhere", system, trial)
        for _ in range(3):
            process = Running(bench.command(system, run), bench.log())
            time.sleep(draw.random() * bench.spans(system)["all"] * 1.5)
            process.send(signal.SIGKILL)
            process.end()
        row.count(*bench.verdict(system, run, bench.play(system, run)))
        bench.drop(run)
    yield row


def _pair(bench: Bench, run: Path) -> list[Running]:
    """Start two processes of one run, with what `accelerate launch --num_processes 2 --cpu` puts into their environments."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    return [
        Running(
            bench.command("spin", run),
            bench.log(),
            environment=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in (0, 1)
    ]


def _ends(pair: list[Running], timeout: float) -> list[Ended]:
    """Wait for both; when one has failed, give the other some time to notice, then kill it, as the launcher does."""
    until = time.monotonic() + timeout
    while all(process.alive() for process in pair) and time.monotonic() < until:
        time.sleep(0.01)
    return [process.end(PATIENCE) for process in pair]


def two_processes(bench: Bench) -> Iterator[Row]:
    """Kill one of two processes that play a run together, the other in the next trial; compare with two undisturbed."""
    start = time.monotonic()
    whole = bench.begun("spin", 0)
    ended = _ends(_pair(bench, whole), 240)
    if [one.status for one in ended] != [0, 0]:
        raise RuntimeError(f"two processes did not play a round:\n{ended[0].said[-2000:]}\n{ended[1].said[-2000:]}")
    wanted, seconds = fingerprints(whole), time.monotonic() - start
    for rank in (0, 1):
        row = Row(f"SIGKILL of process {rank} of 2 at any moment")
        for trial in range(bench.times):
            run = bench.begun("spin", 0)
            pair = _pair(bench, run)
            time.sleep(bench.random("pair", rank, trial).random() * seconds)
            pair[rank].send(signal.SIGKILL)
            if _ends(pair, 240)[1 - rank].status is None:
                row.notes.append(f"the other process waited for more than {PATIENCE} s and was killed, as the launcher would have done")
            again = _ends(_pair(bench, run), 240)
            names = differing(wanted, fingerprints(run))
            if [one.status for one in again] != [0, 0]:
                row.count(TRACEBACK, (again[0].said.strip().splitlines() or [""])[-1][:200])
            else:
                row.count(LOST if names else SAME, f"differs in {', '.join(names[:4])}")
            bench.drop(run)
        yield row


def writers(bench: Bench, counts: tuple[int, ...] = (2, 8)) -> Iterator[Row]:
    """Start two, then eight processes on one run folder: one plays, the others are refused in words."""
    for count in counts:
        row = Row(f"{count} processes on one folder")
        for _ in range(bench.times):
            run = bench.begun("spin", 0)
            processes = [Running(bench.command("spin", run), bench.log()) for _ in range(count)]
            begun = run / "round_0" / "evaluation.begun.json"
            while not begun.exists() and any([process.alive() for process in processes]):
                time.sleep(0.001)
            holder = int((run / "lock").read_text().split()[1])
            os.kill(holder, signal.SIGSTOP)  # so that it cannot end, and let another in, before all have tried
            others = [process.end() for process in processes if process.pid != holder]
            os.kill(holder, signal.SIGCONT)
            own = next(process for process in processes if process.pid == holder).end()
            outcome, note = bench.verdict("spin", run, own)
            silent = [end.said.strip().splitlines()[-1:] for end in others if f"is being written by process {holder}" not in end.refusal]
            if silent and outcome == SAME:
                outcome, note = TRACEBACK, f"{len(silent)} of {count - 1} not refused as such: {bench.plain(str(silent[0]))}"
            row.count(outcome, note)
            bench.drop(run)
        yield row
