"""Pythons for tests, and kernels: forks of one process that has imported what rounds import, for which a new Python takes seconds."""

import os
import runpy
import subprocess
import sys
import tempfile
from multiprocessing.connection import wait
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "book"))

from kernels import ForkedProcess, fork, fork_kernels  # type: ignore[import-not-found]

fork_kernels()  # which also says what the process that is forked imports


def _serve(arguments: list[str], environment: dict[str, str], folder: str, out: str, err: str) -> None:
    """Do what `python ARGUMENTS` does, in this process: -c, -m or a file."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), stream)
    kind, *rest = arguments
    sys.path.insert(0, "")
    if kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(kind, run_name="__main__")


def start(arguments: list[str], out: Path, err: Path, folder: Path | None = None, **environment: str) -> ForkedProcess:
    """Start `python ARGUMENTS`, its output going to files, in a session of its own, as `subprocess.Popen` would."""
    given = (arguments, dict(os.environ) | environment, os.fspath(folder or Path.cwd()), os.fspath(out), os.fspath(err))
    return fork(_serve, *given)


def python(*arguments: str, timeout: float = 600, folder: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS`, as `subprocess.run` would, and return how it ended and what it said."""
    with tempfile.TemporaryDirectory() as name:
        out, err = Path(name, "out"), Path(name, "err")
        begun = start(list(arguments), out, err, folder, **environment)
        if not wait([begun.process.sentinel], timeout):
            begun.kill()
            raise subprocess.TimeoutExpired(list(arguments), timeout)
        status = begun.wait()
        return subprocess.CompletedProcess(list(arguments), status, out.read_text(), err.read_text())
