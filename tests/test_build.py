"""What a page is executed again for, and where executed pages and what they played are kept."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import papermill
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "book"))

import build  # type: ignore[import-not-found]  # noqa: E402
from build import CHAIN, RESULTS, WITH_RUN, Page, execute, fingerprint, imported, in_turn, pages, prepared, results_read  # noqa: E402
from colophon import colophon  # type: ignore[import-not-found]  # noqa: E402


def names(code: str) -> set[str]:
    return {str(p.relative_to(ROOT)) for p in imported(code)}


def test_imports_are_followed() -> None:
    found = names("from selfimprove.train import train")
    assert {"selfimprove/__init__.py", "selfimprove/train.py", "selfimprove/batches.py", "selfimprove/draws.py"} <= found
    assert "selfimprove_lab/figures/comparison.py" not in found
    assert "selfimprove_lab/theory/dpo.py" in names("import selfimprove_lab.theory.dpo as dpo")
    assert not names("import torch")


def notebook(path: Path, code: str) -> Path:
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "source": code}]}))
    return path


def test_a_page_depends_on_itself_its_parameters_and_its_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = notebook(tmp_path / "a.ipynb", "from selfimprove.draws import normal")
    first = fingerprint(page, {})
    assert fingerprint(page, {}) == first
    assert fingerprint(page, {"seed": 1}) != first
    assert fingerprint(notebook(tmp_path / "b.ipynb", "from selfimprove.draws import uniform"), {}) != first
    read = Path.read_bytes

    def changed(path: Path) -> bytes:
        return read(path) + (b"#" if path.name == "draws.py" else b"")

    other = notebook(tmp_path / "c.ipynb", "import torch")
    before = fingerprint(other, {})
    monkeypatch.setattr(Path, "read_bytes", changed)
    assert fingerprint(page, {}) != first
    assert fingerprint(other, {}) == before


def test_results_belong_to_pages_that_read_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, others = notebook(tmp_path / "a.ipynb", "'book/results/x'"), notebook(tmp_path / "b.ipynb", "'elsewhere'")
    before = [fingerprint(p, {}) for p in (reads, others)]
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + (b"#" if "results" in path.parts else b""))
    after = [fingerprint(p, {}) for p in (reads, others)]
    assert (before[0] != after[0], before[1] == after[1]) == (True, True)


# What every page that reads book/results opens there, found by reading the notebooks and the modules that they call.
READ = {
    "00_tour": {"spin_shapes", "rsi_rounds"},
    "03_jensen_bound": {"exact_objective.json"},
    "07_spin_rounds": {"spin_shapes"},
    "07_what_a_round_is_made_of": {"spin_shapes", "spin_controls", "spin_samplers"},
    "07_how_long_how_large": {"spin_shapes", "spin_map"},
    "07_limits_and_controls": {"spin_shapes", "spin_controls", "spin_map", "evaluation_shapes", "data_quality.json"},
    "08_rsi_rounds": {"rsi_rounds", "rsi_prompts", "evaluation_shapes"},
    "09_collapse": {"rsi_collapse", "rsi_rounds"},
    "10_ablations": {"rsi_ablations", "rsi_rounds", "rsi_beyond"},
    "11_evaluation": {"evaluation_shapes"},
    "papers_tables": {"evaluation_shapes"},
    "13_at_scale": {"scale.json", "training_memory_cpu.json", "rsi_stages.json", "scorer_speed.json"},
    "15_speed": {"speed_cpu.json", "real_size_cpu.json", "captions.json", "scorer_speed.json", "training_memory_cpu.json"},
    "claims": {
        "spin_shapes",
        "spin_controls",
        "spin_map",
        "spin_samplers",
        "evaluation_shapes",
        "rsi_rounds",
        "rsi_prompts",
        "rsi_ablations",
        "rsi_collapse",
    },
}


def code_of(notebook: Path) -> str:
    return "\n".join("".join(cell["source"]) for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code")


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_a_page_depends_on_the_results_that_it_reads(path: Path) -> None:
    code = code_of(path)
    read = results_read(code, imported(code))
    assert READ.get(path.stem, set()) <= {p.relative_to(RESULTS).parts[0] for p in read}
    assert set(READ.get(path.stem, set())) <= {p.name for p in RESULTS.iterdir()}
    assert bool(read) == (path.stem in READ)
    for name in READ.get(path.stem, set()):  # all of a folder
        assert {p for p in (RESULTS / name).rglob("*") if p.suffix in (".json", ".parquet", ".png")} <= set(read)


def test_results_of_others_are_no_matter() -> None:
    """A page that names no numbers depends on what it reads; one that names some depends on all results, from which all are computed."""
    code = code_of(ROOT / "notebooks" / "03_jensen_bound.ipynb")
    assert {p.relative_to(RESULTS).as_posix() for p in results_read(code, imported(code))} == READ["03_jensen_bound"]
    named = code_of(ROOT / "notebooks" / "09_collapse.ipynb")
    assert {p.relative_to(RESULTS).parts[0] for p in results_read(named, imported(named))} >= {"rsi_collapse", "spin_map"}


def test_names_of_results_are_found_in_modules_and_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "RESULTS", tmp_path)
    for name in ("one/a.json", "two/b.parquet", "speed_cpu.json", "two/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    module = tmp_path / "module.py"
    module.write_text('load(root / "two")')

    def found(code: str, *modules: Path) -> set[str]:
        return {p.relative_to(tmp_path).as_posix() for p in results_read(code, modules)}

    assert found('read("book/results/one")') == {"one/a.json"}
    assert found('claims("book/results")', module) == {"two/b.parquet"}
    assert found('Path("book/results").glob("speed_*.json")') == {"speed_cpu.json"}
    assert found('read(f"book/results/{name}")') == {"one/a.json", "two/b.parquet", "speed_cpu.json"}
    assert not found('read("elsewhere/one")', module)


def test_every_notebook_is_a_page() -> None:
    templates = {p.stem for p in (ROOT / "notebooks").glob("*.ipynb")}
    assert set(pages("smoke")) == set(pages("shapes-spin")) == templates


def test_every_page_that_reads_finished_stages_back_is_given_a_run_folder() -> None:
    asking = {p.stem for p in (ROOT / "notebooks").glob("*.ipynb") if "run" in papermill.inspect_notebook(p)}
    assert asking == set(WITH_RUN)


def test_pages_side_by_side_wait_for_what_they_read() -> None:
    chained, *alone = in_turn(pages("smoke"))
    assert tuple(chained) == CHAIN
    assert sorted([*chained, *(name for names in alone for name in names)]) == sorted(pages("smoke"))
    assert all(len(names) == 1 for names in alone)


WANTED: dict[str, tuple[dict[str, Any], str]] = {"spin_round": ({"iter": 2}, ""), "12_compare_models": ({}, "")}


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A repository of two notebooks, whose execution writes what it was given, plays a round, and is noted."""
    for name in ("notebooks", "executed", "_cache"):
        (tmp_path / name).mkdir()
    for name in WANTED:
        notebook(tmp_path / "notebooks" / f"{name}.ipynb", "1")
    for name, value in {"ROOT": tmp_path, "CACHE": tmp_path / "_cache", "EXECUTED": tmp_path / "executed"}.items():
        monkeypatch.setattr(build, name, value)
    done: list[str] = []

    def played(source: Path, target: Path, given: dict[str, Any], **_: object) -> None:
        done.append(source.stem)
        cells = [nbformat.v4.new_markdown_cell("# A title\n\ntext"), nbformat.v4.new_markdown_cell(json.dumps(given))]
        if "run" in given:
            (tmp_path / given["run"] / "round_2" / "pipeline").mkdir(parents=True, exist_ok=True)
        else:
            assert (tmp_path / given["model_b"]).is_dir()  # the player is there
            comparison = tmp_path / "runs" / f"compare-{Path(given['model_b']).parent.name[-8:]}"  # as different as the path
            comparison.mkdir()
            cells.append(nbformat.v4.new_markdown_cell(f"{comparison.relative_to(tmp_path)}/comparison.csv"))
        nbformat.write(nbformat.v4.new_notebook(cells=cells), target)

    monkeypatch.setattr(build.papermill, "execute_notebook", played)
    return SimpleNamespace(root=tmp_path, done=done, notebooks=tmp_path / "notebooks", executed=tmp_path / "executed")


def build_all(book: SimpleNamespace, banner: str = "", **parameters: Any) -> list[str]:
    """What is executed by a build with these parameters of the rounds."""
    book.done.clear()
    wanted = {"spin_round": ({"iter": 2, **parameters}, banner), "12_compare_models": ({"count": parameters.get("seed", 0)}, banner)}
    for chain in prepared(wanted):
        build.execute_in_turn(chain)
    return list(book.done)


def shown(book: SimpleNamespace, name: str = "spin_round") -> str:
    return "\n".join(cell.source for cell in nbformat.read(book.executed / f"{name}.ipynb", as_version=4).cells)


def run_folders(book: SimpleNamespace, name: str = "spin_round") -> set[str]:
    return {p.name for p in (book.root / "runs" / "book").glob(f"{name}-*")}


def test_two_books_take_turns_and_nothing_is_executed_twice(book: SimpleNamespace) -> None:
    assert build_all(book) == list(CHAIN)
    published, compared = shown(book), shown(book, "12_compare_models")
    assert build_all(book) == []
    assert build_all(book, "Small.", seed=1) == list(CHAIN)
    assert ":::{warning}\nSmall.\n:::" in shown(book)
    before = (book.executed / "spin_round.ipynb").stat().st_mtime_ns
    assert build_all(book) == []
    assert (shown(book), shown(book, "12_compare_models")) == (published, compared)
    assert (book.executed / "spin_round.ipynb").stat().st_mtime_ns > before  # or Sphinx would take it for the page it has read
    assert json.loads((book.executed / "spin_round.json").read_text())["parameters"] == {"iter": 2}
    assert len(run_folders(book)) == 2  # either book's player stays


def test_new_code_reads_nothing_back_that_old_code_played(book: SimpleNamespace) -> None:
    build_all(book)
    build_all(book, seed=1)
    old, compared = run_folders(book), {p.name for p in (book.root / "runs").glob("compare-*")}
    assert len(old) == len(compared) == 2
    notebook(book.notebooks / "spin_round.ipynb", "2")
    assert build_all(book) == list(CHAIN)  # the page that judges the player is new too
    (new,) = run_folders(book) - old
    assert f'"run": "runs/book/{new}"' in shown(book)
    assert len(run_folders(book)) == len({p.name for p in (book.root / "runs").glob("compare-*")}) == 2  # the other book's and the new
    judged = json.loads(shown(book, "12_compare_models").split("\n")[-2])["model_b"]
    assert (book.root / judged).resolve() == (book.root / "runs" / "book" / new / "round_2" / "pipeline").resolve()
    notebook(book.notebooks / "12_compare_models.ipynb", "2")
    assert build_all(book) == ["12_compare_models"]


def test_a_player_that_was_deleted_is_played_again_when_it_is_to_be_judged(book: SimpleNamespace) -> None:
    build_all(book)
    for folder in (book.root / "runs" / "book").glob("spin_round-*"):
        build.shutil.rmtree(folder)
    assert build_all(book) == []  # both pages are there
    notebook(book.notebooks / "12_compare_models.ipynb", "2")
    assert build_all(book) == list(CHAIN)


def test_the_cache_keeps_the_pages_used_last(book: SimpleNamespace) -> None:
    first = prepared({"spin_round": WANTED["spin_round"]})[0][0]
    for seed in range(7):
        for later, copy in enumerate(sorted((book.root / "_cache").glob("*.ipynb"), key=lambda p: p.stat().st_mtime)):
            os.utime(copy, (later, later))  # clocks of file systems are coarse
        build_all(book, seed=seed)
        execute(first)
    copies = {p.name for p in (book.root / "_cache").glob("spin_round-*")}
    assert len(copies) == 2 * build.KEPT
    assert {first.copy.name, first.record.name} <= copies
    assert len(run_folders(book)) == build.KEPT


def test_a_page_that_was_cut_off_is_executed_again(book: SimpleNamespace) -> None:
    (page,) = prepared({"spin_round": WANTED["spin_round"]})[0]
    page.copy.touch()
    assert not page.cached()
    assert execute(page)
    assert page.cached()
    page.record.write_text(json.dumps({"fingerprint": page.fingerprint[:12] + "0" * 52}))
    assert not page.cached()


def test_where_a_page_plays_is_no_parameter_of_its_own() -> None:
    page = Page("11_evaluation", {"steps": 2}, "", "0123456789abcdef")
    assert page.given() == {"steps": 2, "run": "runs/book/11_evaluation-0123456789ab"}
    assert page.parameters == {"steps": 2}
    assert Page("claims", {}, "", "0123456789abcdef").given() == {}


TOC = "- file: executed/01_a\n- file: executed/02_b\n"


def record(folder: Path, name: str, **changes: object) -> None:
    made = {
        "time": "2026-01-02T03:04:05Z",
        "machine": "a machine",
        "threads": 2,
        "python": "3.11",
        "versions": {"torch": "2"},
        "git": "0123456789",
    }
    (folder / f"{name}.json").write_text(json.dumps({"parameters": {}, "seconds": 7, "provenance": made | changes}))


def test_the_colophon_names_every_page_and_tells_machines_apart(tmp_path: Path) -> None:
    record(tmp_path, "01_a")
    record(tmp_path, "02_b")
    assert "| 1 | 2 | a machine | 2 | 3.11 | 2 | 0123456 |" in colophon(tmp_path, TOC)
    record(tmp_path, "02_b", threads=1, git="abcdefg012-dirty")
    record(tmp_path, "03_c")
    text = colophon(tmp_path, TOC)
    assert "| [](./01_a) | 2026-01-02 03:04 | 7 | 1 | as published |" in text
    assert "| [](./02_b) | 2026-01-02 03:04 | 7 | 2 | as published |" in text
    assert "| 03_c | 2026-01-02 03:04 | 7 | 1 | as published |" in text
    assert "| 1 | 2 | a machine | 2 | 3.11 | 2 | 0123456 |" in text
    assert "| 2 | 1 | a machine | 1 | 3.11 | 2 | abcdefg-dirty |" in text
    assert "All pages together: 21 seconds." in text


def test_a_colophon_of_nothing_has_no_settings(tmp_path: Path) -> None:
    assert "All pages together: 0 seconds.\n\n" in colophon(tmp_path, TOC)
    assert "machine" not in colophon(tmp_path, TOC)
