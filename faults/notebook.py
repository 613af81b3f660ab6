"""Interrupt a round in a notebook's kernel at a random moment, and run the cell again: in that kernel, or in a fresh one."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jupyter_client.manager import KernelManager

from faults.bench import Bench
from faults.fingerprint import differing, fingerprints
from faults.results import LOST, ROOT, SAME, TRACEBACK, Row

SET_UP = """
import sys
from faults.world import prepare
prepare()
from selfimprove import __main__ as command_line
from selfimprove.report import write_summary
from selfimprove.request import Request
from selfimprove.rounds import play
from selfimprove.run import set_up
sys.argv = ["selfimprove", *{arguments!r}]
given = command_line._arguments()
for name in ("command", "opponent_cache", "latent_cache"):
    del given[name]
request = Request(**given | {{"set": ", ".join(given["set"])}})
run = set_up(request.chosen_preset(), request.name, request.model, request.data, request.run, request.seed, "cpu")
"""
PLAY = "write_summary(run, play(run, 2))"
TIMEOUT = 240  # seconds


def interrupted(bench: Bench) -> Iterator[Row]:
    """Interrupt round 2 in a kernel once a trial; the first row plays on in that kernel, the second in a fresh one."""
    bench.undisturbed("spin", 2)
    for place, fresh in (("same kernel", False), ("fresh kernel", True)):
        row = Row(f"a cell interrupted, then run again in the {place}")
        for trial in range(bench.times):
            run = bench.begun("spin")
            row.count(*_trial(bench, run, fresh, bench.random("notebook", place, trial).random()))
            bench.drop(run)
        yield row


def _trial(bench: Bench, run: Path, fresh: bool, share: float) -> tuple[str, str]:
    kernel = Kernel(bench.command("spin", run))
    try:
        cell = kernel.start(PLAY)
        while not (run / "round_2").exists():
            time.sleep(0.001)
        time.sleep(share * sum(time for stage, time in bench.spans("spin").items() if stage != "all"))
        kernel.manager.interrupt_kernel()
        ended = kernel.end(cell)
        if ended not in ("", "KeyboardInterrupt"):
            return TRACEBACK, f"the interrupted cell ended with {ended}"
        if fresh:
            kernel.close()
            kernel = Kernel(bench.command("spin", run))
        ended = kernel.end(kernel.start(PLAY))
    finally:
        kernel.close()
    if ended:
        return TRACEBACK, f"the cell, run again, ended with {ended}"
    names = differing(bench.undisturbed("spin", 2), fingerprints(run))
    return (LOST, f"differs in {', '.join(names[:4])}") if names else (SAME, "")


class Kernel:
    """A notebook's kernel with a run that is set up."""

    def __init__(self, arguments: list[str]) -> None:
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=str(ROOT))
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(TIMEOUT)
        if ended := self.end(self.start(SET_UP.format(arguments=arguments))):
            self.close()
            raise RuntimeError(f"the notebook's first cell ended with {ended}")

    def start(self, code: str) -> str:
        """Begin to run a cell and return its number."""
        return self.client.execute(code)

    def end(self, cell: str) -> str:
        """Wait for a cell's end and return the name and words of its error, or nothing."""
        while True:
            reply: dict[str, Any] = self.client.get_shell_msg(timeout=TIMEOUT)
            if reply["parent_header"].get("msg_id") == cell:
                said = reply["content"]
                return "" if said["status"] == "ok" else f"{said['ename']}: {said['evalue']}".removesuffix(": ")

    def close(self) -> None:
        """End the kernel."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
