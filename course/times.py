"""python -m course.times: measure how long the cells of each session take with model answers, in seconds of one core, without imports.

The measure is the processor time of one thread, so that other work on the machine counts little. Figures are drawn, as Jupyter does at the
end of a cell. No session's code asks for a GPU, so the numbers from a machine with a GPU are those of its processor (`tests/test_course.py`
checks that).
"""

import ast
import io
import time
from contextlib import redirect_stdout
from typing import Any

import matplotlib.pyplot as plt
import torch
from nbformat import NotebookNode

from course.sessions import read, session_paths


def imports(source: str) -> str:
    """Return the import statements of Python source, without those inside functions."""
    return "\n".join(ast.unparse(node) for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom))


def seconds(notebook: NotebookNode) -> float:
    """Return the processor time of all code cells in one namespace, after their imports.

    The working directory and matplotlib's backend may change.
    """
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    space: dict[str, Any] = {"__name__": "__main__", "display": lambda *shown: None}
    for cell in cells:
        exec(imports(cell), space)
    plt.switch_backend("Agg")
    start = time.process_time()
    for cell in cells:
        with redirect_stdout(io.StringIO()):
            exec(compile(cell, "<cell>", "exec"), space)
        for number in plt.get_fignums():
            plt.figure(number).canvas.draw()
        plt.close("all")
    return time.process_time() - start


def main() -> None:
    torch.set_num_threads(1)
    for path in session_paths():
        print(f"{path.stem}: {seconds(read(path)):.2f} s", flush=True)


if __name__ == "__main__":
    main()
