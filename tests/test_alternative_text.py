"""Every figure of the book has words for readers who do not see it: in its cell's metadata, where the book's builder looks for them.

Judged without running anything: a cell shows a figure if it names one `figure`, or displays a file by `Image`, as all notebooks here do.
Sliders are not judged here, because they refuse to be drawn without words.
"""

import ast
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
SHORTEST = 40  # characters in which something can be said


def shows_figure(source: str) -> bool:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "figure" for t in node.targets):
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Image":
            return True
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and _name(node.value.func).endswith("_figure"):
            return True
    return False


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def test_what_counts_as_a_figure() -> None:
    assert shows_figure("figure = rounds_figure(runs)")
    assert shows_figure("for a in b:\n    display(Image(filename=a))")
    assert shows_figure("figures.map_figure(root)")
    assert not shows_figure("from selfimprove_lab.results.arms import rounds_figure\ndisplay(table)")
    assert not shows_figure("sliders(*rounds_film(results, 'spin'), caption=look)")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_figure_has_words(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        words = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        if shows_figure(cell.source):
            assert len(words) >= SHORTEST, f"{path.name}, cell {cell.id}: say in its metadata, mystnb.image.alt, what it shows"
        else:
            assert not words, f"{path.name}, cell {cell.id} has words for a figure and shows none"
