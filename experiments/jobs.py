"""Play jobs in several processes of one thread each: longest first, each after what it needs; all of it may be killed at any time."""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Job:
    """Some work that can be killed and called again, how long it takes, and the jobs that must end before it begins.

    `work` must be a function of a module, or a `partial` of one, because it travels to another process.
    """

    name: str
    minutes: float
    work: Callable[[], Any] = field(compare=False)
    needs: tuple[str, ...] = ()


def urgency(jobs: Sequence[Job]) -> dict[str, float]:
    """Return for each job its minutes with those of the longest chain of jobs that wait for it."""
    after: dict[str, list[Job]] = {job.name: [] for job in jobs}
    for job in jobs:
        for need in job.needs:
            after.get(need, []).append(job)
    found: dict[str, float] = {}

    def of(job: Job) -> float:
        if job.name not in found:
            found[job.name] = job.minutes + max(map(of, after[job.name]), default=0.0)
        return found[job.name]

    return {job.name: of(job) for job in jobs}


def cost(jobs: Sequence[Job], processes: int) -> str:
    """Say what the jobs will cost: hours of one thread, and of all processes, which the longest chain bounds from below."""
    alone, longest = sum(job.minutes for job in jobs) / 60, max(urgency(jobs).values(), default=0.0) / 60
    return f"{len(jobs)} jobs, about {alone:.1f} hours of one process, {max(alone / processes, longest):.1f} hours of {processes}"


def play_jobs(jobs: Sequence[Job], processes: int) -> dict[str, str]:
    """Play all jobs, and return the errors by the name of the job; what needs a job that failed is not played.

    A need that is no job of these counts as done.
    """
    first, failed = urgency(jobs), dict[str, str]()
    waiting, running = sorted(jobs, key=lambda job: -first[job.name]), dict[Future[Any], Job]()
    pool, before = _pool(processes) if processes > 1 else None, signal.getsignal(signal.SIGTERM)
    try:
        if pool:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        while waiting or running:
            open_jobs = {job.name for job in (*waiting, *running.values())}
            for job in list(waiting):
                if broken := [need for need in job.needs if need in failed]:
                    failed[job.name] = f"needs {broken[0]}, which failed"
                    waiting.remove(job)
                elif not open_jobs & set(job.needs) and len(running) < processes:
                    waiting.remove(job)
                    running[pool.submit(job.work) if pool else _now(job.work)] = job
            for done in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                job = running.pop(done)
                if error := done.exception():
                    failed[job.name] = f"{type(error).__name__}: {error}"
                    print(f"{job.name}: failed\n{''.join(traceback.format_exception(error))}", flush=True)
                else:
                    print(f"{job.name}: done; {len(waiting) + len(running)} to go", flush=True)
    except BaseException:
        for process in multiprocessing.active_children():  # killed: nobody waits for what is running
            process.terminate()
        raise
    finally:
        if pool:
            signal.signal(signal.SIGTERM, before)
            pool.shutdown(cancel_futures=True)
    return failed


def _now(work: Callable[[], Any]) -> Future[Any]:
    future: Future[Any] = Future()
    try:
        future.set_result(work())
    except (Exception, SystemExit) as error:  # whatever it is, the other jobs go on
        future.set_exception(error)
    return future


def _pool(processes: int) -> ProcessPoolExecutor:
    os.environ["OMP_NUM_THREADS"] = "1"  # before the processes load what reads it
    return ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _orphans_end, (os.getpid(),))


def _orphans_end(parent: int) -> None:
    """End a process whose parent was killed: nobody would hear of its work."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
