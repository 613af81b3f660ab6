"""Start the command line in a process of its own, follow it, and end it in any way.

A process is forked from this one, which has imported everything but has computed nothing: a trial takes a second instead of ten. What
it runs is `python -m selfimprove`'s own `main`, with its own arguments, environment, limits, standard output and error.
"""

import contextlib
import importlib
import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TIMEOUT = 240  # seconds, after which a process counts as hung


@dataclass
class Ended:
    """How a process ended: its exit status (minus the signal, as in subprocess; None: it hung) and what it said."""

    status: int | None
    said: str

    @property
    def refusal(self) -> str:
        """Return the line in which the package refuses to go on, or nothing."""
        lines = [line for line in self.said.splitlines() if line.startswith("error: ")]
        return lines[-1] if lines and self.status not in (0, None) else ""


class Running:
    """A process that runs the command line."""

    def __init__(
        self, arguments: Sequence[str], log: Path, before: Callable[[], None] | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that libraries hold idle threads here, which the child does not need
            self.pid = os.fork()
        if self.pid == 0:
            _play(arguments, log, before, environment or {})
        self.status: int | None = None
        self.ended = False

    def alive(self) -> bool:
        """Return whether the process still runs."""
        if not self.ended:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.ended, self.status = True, os.waitstatus_to_exitcode(status)
        return not self.ended

    def send(self, what: signal.Signals) -> None:
        """Send a signal, if the process still runs."""
        if self.alive():
            os.kill(self.pid, what)

    def end(self, timeout: float = TIMEOUT) -> Ended:
        """Wait for the end and return it; a process that takes too long is killed, and its status is None."""
        until, hung = time.monotonic() + timeout, False
        while self.alive():
            if time.monotonic() > until:
                hung = True
                os.kill(self.pid, signal.SIGKILL)
                until = float("inf")
            time.sleep(0.005)
        return Ended(None if hung else self.status, self.log.read_text(errors="replace") if self.log.exists() else "")

    def wait_for(self, condition: Callable[[], bool], step: float = 0.001) -> bool:
        """Wait until a condition holds, or until the process ends; return whether the condition held first."""
        while self.alive():
            if condition():
                return True
            time.sleep(step)
        return False


def play(arguments: Sequence[str], log: Path, before: Callable[[], None] | None = None) -> Ended:
    """Run the command line to its end."""
    return Running(arguments, log, before).end()


def warm_up(log: Path, arguments: Sequence[str]) -> Ended:
    """Run the command line once, and import here what it has imported there, so that later processes need not."""
    names = log.with_suffix(".modules")
    ended = Running(arguments, log, environment={"FAULTS_MODULES": str(names)}).end()
    if names.exists():
        for name in json.loads(names.read_text()):
            if name not in sys.modules and not name.endswith("__main__"):
                with contextlib.suppress(Exception), warnings.catch_warnings():  # some exist only while another is imported
                    warnings.simplefilter("ignore")
                    importlib.import_module(name)
    return ended


def _play(arguments: Sequence[str], log: Path, before: Callable[[], None] | None, environment: Mapping[str, str]) -> None:
    """Run the command line in this process, which is a child, and end it."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for handle, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), (2, 0)):
            if handle == 2:
                os.dup2(1, 2)
            else:
                os.dup2(os.open(os.devnull if handle == 0 else log, mode, 0o644), handle)
        os.environ.update(environment)
        sys.argv = ["selfimprove", *arguments]
        if before:
            before()
        from selfimprove.__main__ import main

        main()
        status = 0
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except KeyboardInterrupt:
        traceback.print_exc()
        status = 130
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            if names := os.environ.get("FAULTS_MODULES"):
                Path(names).write_text(json.dumps(list(sys.modules)))
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
