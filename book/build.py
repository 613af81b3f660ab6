"""python book/build.py: execute the notebooks with papermill into book/executed/, then build the book; warnings are errors.

A notebook is executed again only if it, a module that it imports, its parameters, or the results that it reads have changed. Executed pages
are kept in book/_cache/ under the SHA-256 of all these, and the wanted pages are copied into book/executed/. The small book of `make test`
and the published book can therefore alternate without executing anything again.
"""

import argparse
import ast
import filecmp
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from itertools import zip_longest
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nbformat
import papermill
from colophon import colophon
from kernels import fork_kernels

from selfimprove.files import write_json
from selfimprove.run_folder import provenance

ROOT = Path(__file__).parent.parent
EXECUTED, CACHE = ROOT / "book" / "executed", ROOT / "book" / "_cache"
RUNS = Path("runs", "book")  # live runs, one folder per page; relative to the root, where notebooks run
RESULTS = ROOT / "book" / "results"
KEPT = 4  # copies per page that stay in the cache
CHAIN = ("spin_round", "12_compare_models")  # in this order: the second page judges the player of the first
SELF_PLAY = ("07_spin_rounds", "07_what_a_round_is_made_of", "07_how_long_how_large", "07_limits_and_controls")
WITH_RUN = ("spin_round", "rsi_round", "11_evaluation")  # pages with a parameter `run`, the folder that keeps finished stages
SMALL = "This page was made with small settings, to be quick. What it computes live says little; `make book` makes the page as published."


def pages(preset: str) -> dict[str, dict[str, Any]]:
    """Return notebook -> parameters: its own published ones, or with preset "smoke" the smallest at which its claims still hold."""
    smallest = {
        "01_diffusion_and_ddim": {"samples": 1000, "frames": 3},
        "02_spin_objective": {"samples": 1500},
        "03_jensen_bound": {"samples": 8, "longest": 20},
        "04_gradient": {"samples": 256, "steps": 60},
        "05_fixed_points": {"samples": 50_000, "points": 1500, "rounds": 5, "seeds": 1},
        "06_dpo_and_spin": {"samples": 1500, "rounds": 4, "seeds": 1},
        "recursion_laws": {"chains": 500},
        "14_from_diffusion_to_flows": {"points": 1000, "rounds": 6, "seeds": 1, "examples": 8},
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
    shown = ("00_tour", "papers_tables", *SELF_PLAY, "08_rsi_rounds", "13_at_scale", "15_speed", "claims")
    return theory | rounds | study | {name: {} for name in shown} | read


@cache
def _parsed(source: str) -> tuple[list[str], list[str]]:
    """Return the names that Python source imports (modules, and possibly names in them), and its strings."""
    names, strings = [], []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            strings.append(node.value)
    return names, strings


def imported(source: str) -> set[Path]:
    """Return the files of the packages that Python source imports, directly or through other imported files."""
    found: set[Path] = set()
    pending = [source]
    while pending:
        for name in _parsed(pending.pop())[0]:
            parts = name.split(".")
            if parts[0] not in ("selfimprove", "selfimprove_lab"):
                continue
            for depth in range(1, len(parts) + 1):  # a package's __init__ runs before its modules
                here = ROOT.joinpath(*parts[:depth])
                for path in (here.with_suffix(".py"), here / "__init__.py"):
                    if path not in found and path.exists():
                        found.add(path)
                        pending.append(path.read_text())
    return found


def results_read(code: str, modules: Iterable[Path]) -> list[Path]:
    """Return the files of book/results that a page may read.

    The notebook's code, or a module that it imports, names these files or matches them by a pattern such as "training_memory_*.json". A
    notebook that mentions book/results but names no file there may read every file.
    """
    if "book/results" not in code:
        return []
    texts = [code, *(path.read_text() for path in modules)]
    patterns = {string.rpartition("/")[2] for text in texts for string in _parsed(text)[1] if "*" in string}
    patterns = {p for p in patterns if p[:1].isalpha()}  # not "*.json", which is about another folder
    there = sorted(RESULTS.iterdir())
    named = [p for p in there if any(p.name in text for text in texts) or any(fnmatch(p.name, pattern) for pattern in patterns)]
    files = [file for p in named or there for file in ([p] if p.is_file() else sorted(p.rglob("*")))]
    return [file for file in files if file.suffix in (".json", ".parquet", ".png")]


def fingerprint(notebook: Path, parameters: dict[str, Any], *more: str) -> str:
    """Return the SHA-256 of everything that an executed page depends on: notebook, imported modules, parameters, results read."""
    text = notebook.read_text()
    code = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code")
    modules = sorted(imported(code))
    shipped = sorted(
        path for package in ("selfimprove", "selfimprove_lab") for path in (ROOT / package).rglob("*.json")
    )  # the shipped models' card and the papers' tables
    digest = hashlib.sha256(json.dumps([text, parameters, *more], sort_keys=True).encode())
    for path in [*modules, *results_read(code, modules), *shipped]:
        digest.update(str(path.relative_to(ROOT)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Page:
    """A notebook to execute, and the SHA-256 of everything its page depends on; `earlier` is the page whose player it judges."""

    name: str
    parameters: dict[str, Any]
    banner: str  # shown under the page's title
    fingerprint: str
    earlier: "Page | None" = None

    @property
    def label(self) -> str:
        return f"{self.name}-{self.fingerprint[:12]}"

    @property
    def copy(self) -> Path:
        """Return the path of the executed page in the cache; its record lies beside it."""
        return CACHE / f"{self.label}.ipynb"

    @property
    def record(self) -> Path:
        return CACHE / f"{self.label}.json"

    @property
    def run(self) -> Path:
        """Return a folder to which only this version of the code writes, so that the finished stages in it are this version's."""
        return RUNS / self.label

    @property
    def player(self) -> Path:
        """Return the folder of the model after the last round played."""
        return self.run / f"round_{self.parameters['iter']}" / "pipeline"

    def cached(self) -> bool:
        return self.copy.exists() and self.record.exists() and json.loads(self.record.read_text())["fingerprint"] == self.fingerprint

    def given(self) -> dict[str, Any]:
        """Return the page's parameters and where to play or whom to judge, which no reader chooses and no record holds."""
        if self.earlier:
            return self.parameters | {"model_b": str(self.run / f"{self.earlier.name}_{self.earlier.parameters['iter']}")}
        return self.parameters | ({"run": str(self.run)} if self.name in WITH_RUN else {})


def _prepend(notebook: Path, words: str) -> None:
    """Insert a note under a page's title."""
    page = nbformat.read(notebook, as_version=4)
    title, _, rest = page.cells[0].source.partition("\n")
    page.cells[0].source = f"{title}\n\n:::{{warning}}\n{words}\n:::\n{rest}"
    nbformat.write(page, notebook)


def _make(page: Page) -> None:
    """Execute one notebook into the cache."""
    print(f"{page.name}: executing with {page.parameters}", flush=True)
    start = time.perf_counter()
    page.record.unlink(missing_ok=True)  # the copy is not valid until the record is written again
    given = page.given()
    if page.earlier:  # a link, because comparisons are stored by their models' paths, and this page needs its own
        link = ROOT / given["model_b"]
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(Path("..") / page.earlier.player.relative_to(RUNS), target_is_directory=True)
    papermill.execute_notebook(ROOT / "notebooks" / f"{page.name}.ipynb", page.copy, given, cwd=ROOT, progress_bar=False, start_timeout=600)
    if page.banner:
        _prepend(page.copy, page.banner)
    seconds = round(time.perf_counter() - start)
    page.copy.write_text(page.copy.read_text().replace(f"{ROOT}/", ""))  # warnings contain paths, which differ for readers
    record = {"fingerprint": page.fingerprint, "parameters": page.parameters, "seconds": seconds, "provenance": provenance()}
    write_json(page.record, record)


def _parameters(copy: Path) -> dict[str, Any] | None:
    """Return the parameters that a page in the cache was executed with; None if it was not finished."""
    record = copy.with_suffix(".json")
    return json.loads(record.read_text())["parameters"] if record.exists() else None


def tidy(page: Page) -> None:
    """Delete old copies of an executed page, and its live runs except those of this page and of kept copies with other parameters."""
    its_own = f"{page.name}-" + "[0-9a-f]" * 12
    copies = sorted(CACHE.glob(f"{its_own}.ipynb"), key=lambda copy: copy.stat().st_mtime, reverse=True)
    other = {copy.stem for copy in copies[:KEPT] if _parameters(copy) not in (None, page.parameters)}
    for folder in (ROOT / RUNS).glob(its_own):
        if folder.name not in (page.label, *other):
            shutil.rmtree(folder)
    for copy in copies:
        if copy.stem not in (page.label, *other) and page.earlier:
            for comparison in set(re.findall(r"runs/compare-[0-9a-f]{8}", copy.read_text())):  # of a model that only the build has made
                shutil.rmtree(ROOT / comparison, ignore_errors=True)
    for copy in copies[KEPT:]:
        copy.unlink()
        copy.with_suffix(".json").unlink(missing_ok=True)


def execute(page: Page, again: bool = False) -> bool:
    """Put one page into book/executed/, from the cache unless it is missing there or `again`; return whether it was executed."""
    made = again or not page.cached()
    if made:
        _make(page)
        tidy(page)
    else:
        print(f"{page.name}: unchanged, not executed again")
        os.utime(page.copy)  # mark the copy as in use: it counts among the newest
    for source in (page.copy, page.record):
        target = EXECUTED / f"{page.name}{source.suffix}"
        if not target.exists() or not filecmp.cmp(source, target, shallow=False):
            shutil.copyfile(source, target)  # without its time: Sphinx reads files again that are newer than its last reading
    return made


def in_turn(wanted: Iterable[str]) -> list[list[str]]:
    """Group pages that must wait for one another; the groups can be executed side by side."""
    names = list(wanted)
    return [[name for name in CHAIN if name in names], *([name] for name in names if name not in CHAIN)]


def prepared(wanted: Mapping[str, tuple[dict[str, Any], str]]) -> list[list[Page]]:
    """Return the pages of `wanted` (name -> parameters, banner) in turn, with fingerprints that cover the pages they wait for."""
    lists = []
    for names in in_turn(wanted):
        chain: list[Page] = []
        for name in names:
            parameters, banner = wanted[name]
            earlier = chain[-1] if chain else None
            digest = fingerprint(ROOT / "notebooks" / f"{name}.ipynb", parameters, banner, earlier.fingerprint if earlier else "")
            chain.append(Page(name, parameters, banner, digest, earlier))
        lists.append(chain)
    return lists


def execute_in_turn(pages: list[Page]) -> int:
    """Execute pages in turn; return how many ran. A page runs again if the next one needs its player and the player was deleted."""
    made = 0
    for page, later in zip_longest(pages, pages[1:]):
        made += execute(page, again=later is not None and not later.cached() and not (ROOT / page.player).exists())
    return made


def execute_all(wanted: Mapping[str, tuple[dict[str, Any], str]], *others: Callable[[], int]) -> int:
    """Execute every page of `wanted` (name -> parameters, banner) in parallel, and return how many ran; the first failure ends the build.

    `others` are done beside them, and count what they return. Each kernel is a process of one thread. Models this small gain nothing from
    a second thread, and sums then have the same order on every machine.
    """
    for folder in (EXECUTED, CACHE):
        folder.mkdir(exist_ok=True)
    there, missing = [], []
    for pages in prepared(wanted):
        (there if all(page.cached() for page in pages) else missing).append(pages)
    for pages in there:  # these are only copied
        execute_in_turn(pages)
    with ProcessPoolExecutor(min(4, os.cpu_count() or 1), mp_context=get_context("spawn"), initializer=fork_kernels) as pool:
        try:
            parts = [*(pool.submit(execute_in_turn, pages) for pages in missing), *map(pool.submit, others)]
            return sum(done.result() for done in as_completed(parts))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def write_course() -> int:
    """Write the course's pages, slides and zip, none of which is a page executed here."""
    sys.path.insert(0, str(ROOT))
    from course.pages import write_extras, write_pages

    write_pages()
    write_extras()
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python book/build.py", description=__doc__)
    parser.add_argument("--preset", default="shapes-spin", help="of the executed round; 'smoke' takes seconds and shows nothing")
    arguments = parser.parse_args()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # the notebooks' kernels inherit this
    os.environ["OMP_NUM_THREADS"] = "1"
    os.chdir(ROOT)  # where the processes that kernels are forks of find what they import
    start, published, chosen = time.perf_counter(), pages("shapes-spin"), pages(arguments.preset)
    executed = execute_all({name: (made, "" if made == published[name] else SMALL) for name, made in chosen.items()}, write_course)
    ready = time.perf_counter()
    (EXECUTED / "colophon.md").write_text(colophon(EXECUTED, (ROOT / "book" / "_toc.yml").read_text()))
    builder = [str(Path(sys.executable).parent / "jupyter-book"), "build", "-W", "--keep-going", "-q", str(ROOT / "book")]
    subprocess.run(builder, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})  # selfimprove_lab is not installed
    whole = time.perf_counter() - start
    print(
        f"{executed} pages executed now, {len(chosen) - executed} from the cache: {ready - start:.0f} s; "
        f"the book from them: {whole - (ready - start):.0f} s; in all {whole:.0f} s"
    )
    print(f"the book: {(ROOT / 'book' / '_build' / 'html' / 'index.html').relative_to(ROOT)}")


if __name__ == "__main__":
    main()
