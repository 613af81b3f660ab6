"""What a page is executed again for."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "book"))

from build import CHAIN, fingerprint, imported, in_turn, pages  # type: ignore[import-not-found]  # noqa: E402
from colophon import colophon  # type: ignore[import-not-found]  # noqa: E402


def names(code: str) -> set[str]:
    return {str(p.relative_to(ROOT)) for p in imported(code)}


def test_imports_are_followed() -> None:
    found = names("from selfimprove.train import train")
    assert {"selfimprove/__init__.py", "selfimprove/train.py", "selfimprove/batches.py", "selfimprove/draws.py"} <= found
    assert "selfimprove/figures.py" not in found
    assert "selfimprove/theory/dpo.py" in names("import selfimprove.theory.dpo as dpo")
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


def test_every_notebook_is_a_page() -> None:
    templates = {p.stem for p in (ROOT / "notebooks").glob("*.ipynb")}
    assert set(pages("smoke")) == set(pages("shapes-spin")) == templates


def test_pages_side_by_side_wait_for_what_they_read() -> None:
    chained, *alone = in_turn(pages("smoke"))
    assert tuple(chained) == CHAIN
    assert sorted([*chained, *(name for names in alone for name in names)]) == sorted(pages("smoke"))
    assert all(len(names) == 1 for names in alone)


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
    assert "| 2 pages | a machine | 2 | 3.11 | 2 | 0123456 |" in colophon(tmp_path, TOC)
    record(tmp_path, "02_b", threads=1, git="abcdefg012-dirty")
    text = colophon(tmp_path, TOC)
    assert "| [](./02_b) | 2026-01-02 03:04 | 7 | as published |" in text
    assert "| 1 page | a machine | 1 | 3.11 | 2 | abcdefg-dirty |" in text
    assert "| 01_a | 2026" in colophon(tmp_path, "")
    assert "| 1 page | a machine | 2 | 3.11 | 2 | 0123456 |" in text
