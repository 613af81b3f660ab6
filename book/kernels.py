"""Start notebooks' kernels as forks of one process that has imported what pages import; a new Python takes seconds for that, every time.

A fork has imported modules and computed nothing. Its notebook therefore finds what a new Python would give it.
"""

import os
import signal
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner

INLINE = "module://matplotlib_inline.backend_inline"
PRELOADED = ["book.preload"]  # missed where the working directory is not the repository's root: kernels then import themselves


_STARTING = Lock()


def _serve(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """Be a kernel, in this process."""
    import matplotlib as mpl
    from ipykernel.kernelapp import IPKernelApp

    os.setsid()
    os.chdir(folder)
    here = str(Path(__file__).parent)
    sys.path[:] = [entry for entry in sys.path if entry != here]
    os.environ.clear()
    os.environ.update(environment | {"MPLBACKEND": INLINE})
    mpl.rcParams["backend"] = INLINE  # matplotlib reads the variable when it is imported, which has been
    IPKernelApp.launch_instance(argv=[*arguments, f"--IPKernelApp.parent_handle={os.getppid()}"])  # ends with the process it is a fork of


class ForkedProcess:
    """A fork in the form of a `subprocess.Popen`."""

    stdin = stdout = stderr = None

    def __init__(self, process: ForkServerProcess) -> None:
        self.process, self.pid = process, process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        assert self.pid is not None
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def fork(target: Callable[..., None], *arguments: Any) -> ForkedProcess:
    """Call a function in a fork, which does not import this process's main module first, as `multiprocessing` would."""
    process = get_context("forkserver").Process(target=target, args=arguments, daemon=True)
    with _STARTING:
        main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
        try:
            process.start()
        finally:
            sys.modules["__main__"] = main
    return ForkedProcess(process)


class ForkedKernel(LocalProvisioner):
    """A kernel that is forked instead of started."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> dict[str, Any]:
        arguments = cmd[cmd.index("ipykernel_launcher") + 1 :]
        folder = os.fspath(kwargs.get("cwd") or Path.cwd())
        self.process, self.cwd = fork(_serve, arguments, dict(kwargs["env"]), folder), folder
        self.pid = self.pgid = self.process.pid
        return self.connection_info


def fork_kernels() -> None:
    """Let every kernel that this process starts from now on be a fork."""
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # else a library that asks for a GPU on import spoils it for forks
    get_context("forkserver").set_forkserver_preload(PRELOADED)
    factory = KernelProvisionerFactory.instance()
    factory.provisioners["forked"] = EntryPoint("forked", f"{__name__}:ForkedKernel", factory.GROUP_NAME)
    factory.default_provisioner_name = "forked"
