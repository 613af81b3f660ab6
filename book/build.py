"""python book/build.py: execute the notebooks through papermill into book/executed/, then build the book, warnings being errors.

A notebook is executed again only if it, a module that it imports, its parameters or the results that it reads have changed.
"""

import argparse
import ast
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nbformat
import papermill
from colophon import colophon

from selfimprove.runs import provenance, write_json

ROOT = Path(__file__).parent.parent
EXECUTED = ROOT / "book" / "executed"
CHAIN = ("spin_round", "rsi_round", "12_compare_models")  # in this order: the last page compares the base with the player written last
SMALL = "This page was made with small settings, to be quick. What it computes live says little; `make book` makes the page as published."


def pages(preset: str) -> dict[str, dict[str, Any]]:
    """Notebook -> parameters: its own published ones, or with preset "smoke" the smallest at which its claims still hold."""
    smallest = {
        "01_diffusion_and_ddim": {"samples": 1000, "frames": 3},
        "02_spin_objective": {"samples": 1500},
        "03_jensen_bound": {"samples": 8, "longest": 20},
        "04_gradient": {"samples": 256, "steps": 60},
        "05_fixed_points": {"samples": 50_000, "points": 1500, "rounds": 5, "seeds": 1},
        "06_dpo_and_spin": {"samples": 1500, "rounds": 4, "seeds": 1},
    }
    if preset == "smoke":
        rounds = {"spin_round": {"iter": 2, "preset": "smoke"}, "rsi_round": {"iter": 1, "preset": "smoke-rsi"}}
        read = {"09_collapse": {"samples": 64}, "10_ablations": {"samples": 64}}
        read["11_evaluation"] = {"samples": 32, "prompts": 8, "images": 4, "steps": 2}
        read["12_compare_models"] = {"count": 6, "images": 2, "steps": 2}
    else:
        rounds = {"spin_round": {"iter": 2, "preset": preset}, "rsi_round": {"iter": 2}}
        read = {name: {} for name in ("09_collapse", "10_ablations", "11_evaluation", "12_compare_models")}
    theory = smallest if preset == "smoke" else {name: {} for name in smallest}
    study = {"study": {}, "study_analysis": {}}
    return theory | rounds | study | {"07_spin_rounds": {}, "08_rsi_rounds": {}, "13_at_scale": {}, "claims": {}} | read


def imported(source: str) -> set[Path]:
    """Files of the package that some Python imports, and what those import."""
    found: set[Path] = set()
    pending = [source]
    while pending:
        for node in ast.walk(ast.parse(pending.pop())):
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            for name in names:
                parts = name.split(".")
                if parts[0] != "selfimprove":
                    continue
                for depth in range(1, len(parts) + 1):  # a package's own file runs before those in it
                    here = ROOT.joinpath(*parts[:depth])
                    for path in (here.with_suffix(".py"), here / "__init__.py"):
                        if path.exists() and path not in found:
                            found.add(path)
                            pending.append(path.read_text())
    return found


def fingerprint(notebook: Path, parameters: dict[str, Any]) -> str:
    """SHA-256 of everything that the executed page depends on: itself, the modules it imports, its parameters, the results it reads."""
    text = notebook.read_text()
    code = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code")
    sources = sorted(imported(code))
    if "book/results" in code:
        sources += [p for p in sorted((ROOT / "book" / "results").rglob("*")) if p.suffix in (".json", ".parquet", ".png")]
    digest = hashlib.sha256((text + json.dumps(parameters, sort_keys=True)).encode())
    for path in [*sources, *sorted((ROOT / "selfimprove").rglob("*.json"))]:  # the card of the shipped models, the papers' tables
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _prepend(notebook: Path, words: str) -> None:
    """A note under a page's title."""
    page = nbformat.read(notebook, as_version=4)
    title, _, rest = page.cells[0].source.partition("\n")
    page.cells[0].source = f"{title}\n\n:::{{warning}}\n{words}\n:::\n{rest}"
    nbformat.write(page, notebook)


def execute(name: str, parameters: dict[str, Any], banner: str = "") -> None:
    """One notebook into book/executed/, unless it is there and current; `banner` is put under its title."""
    source, target, record = ROOT / "notebooks" / f"{name}.ipynb", EXECUTED / f"{name}.ipynb", EXECUTED / f"{name}.json"
    current = fingerprint(source, parameters)
    if target.exists() and record.exists() and json.loads(record.read_text())["fingerprint"] == current:
        print(f"{name}: unchanged, not executed again")
        return
    print(f"{name}: executing with {parameters}", flush=True)
    start = time.perf_counter()
    papermill.execute_notebook(source, target, parameters, cwd=ROOT, progress_bar=False)
    if banner:
        _prepend(target, banner)
    seconds = round(time.perf_counter() - start)
    target.write_text(target.read_text().replace(f"{ROOT}/", ""))  # warnings name their file: readers have it elsewhere
    write_json(record, {"fingerprint": current, "parameters": parameters, "seconds": seconds, "provenance": provenance()})


def in_turn(wanted: Iterable[str]) -> list[list[str]]:
    """Which pages wait for which: every list can be executed beside the others."""
    names = list(wanted)
    return [[name for name in CHAIN if name in names], *([name] for name in names if name not in CHAIN)]


def execute_in_turn(jobs: list[tuple[str, dict[str, Any], str]]) -> None:
    for job in jobs:
        execute(*job)


def execute_all(wanted: Mapping[str, tuple[dict[str, Any], str]]) -> None:
    """Every page of `wanted` (name -> parameters, banner), side by side; the first that fails ends the build.

    One thread each, whatever the machine: models this small gain nothing from a second, and sums are then in one order everywhere.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    EXECUTED.mkdir(exist_ok=True)
    with ProcessPoolExecutor(min(4, os.cpu_count() or 1), mp_context=get_context("spawn")) as pool:
        try:
            for done in as_completed([pool.submit(execute_in_turn, [(n, *wanted[n]) for n in names]) for names in in_turn(wanted)]):
                done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def main() -> None:
    parser = argparse.ArgumentParser(prog="python book/build.py", description=__doc__)
    parser.add_argument("--preset", default="shapes-spin", help="of the executed round; 'smoke' takes seconds and shows nothing")
    arguments = parser.parse_args()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # the notebooks' kernels inherit it
    published = pages("shapes-spin")
    execute_all({name: (made, "" if made == published[name] else SMALL) for name, made in pages(arguments.preset).items()})
    (EXECUTED / "colophon.md").write_text(colophon(EXECUTED, (ROOT / "book" / "_toc.yml").read_text()))
    subprocess.run([sys.executable, "-m", "course.pages"], check=True, cwd=ROOT)
    builder = [str(Path(sys.executable).parent / "jupyter-book"), "build", "-W", "--keep-going", "-q", str(ROOT / "book")]
    subprocess.run(builder, check=True)
    print(f"the book: {(ROOT / 'book' / '_build' / 'html' / 'index.html').relative_to(ROOT)}")


if __name__ == "__main__":
    main()
