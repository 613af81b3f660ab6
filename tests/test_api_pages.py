"""The pages of functions and classes: what the notebooks import stands on one of them, and nothing twice."""

import ast
import importlib
import inspect
import json
import re
from collections import Counter
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent
CHAPTERS = ROOT / "book" / "chapters"
PAGES = {path.stem: path.read_text() for path in sorted((CHAPTERS / "api").glob("*.md"))}
MODULES = {name: re.findall(r"^\.\. automodule:: (\S+)$", text, flags=re.MULTILINE) for name, text in PAGES.items()}
DOCUMENTED = [module for modules in MODULES.values() for module in modules]
WITHOUT_MEMBERS = set(re.findall(r"^\.\. automodule:: (\S+)\n   :no-members:$", "\n".join(PAGES.values()), flags=re.MULTILINE))


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def imported(notebook: Path) -> set[str]:
    """Modules of the package that a notebook's cells import; of the package itself only its modules."""
    found = set()
    for cell in json.loads(notebook.read_text())["cells"]:
        if cell["cell_type"] != "code":
            continue
        code = "".join(line for line in cell["source"] if not line.lstrip().startswith(("%", "!")))
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module:
                inside = [f"{node.module}.{alias.name}" for alias in node.names]
                found |= {name if is_module(name) else node.module for name in inside}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
    return {name for name in found if name.startswith(("selfimprove.", "selfimprove_lab."))}


def members(module: ModuleType) -> list[object]:
    """Classes and functions that autodoc lists: those in `__all__`, or else those defined in the module, with a docstring."""
    names = getattr(module, "__all__", None) or [n for n, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__]
    values = [getattr(module, name) for name in names if not name.startswith("_")]
    return [v for v in values if (inspect.isclass(v) or inspect.isfunction(v)) and v.__doc__]


def test_what_notebooks_import_is_documented() -> None:
    notebooks = [*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "course" / "sessions").glob("*.ipynb")]
    used = {name: imported(name) for name in notebooks}
    assert sum(map(len, used.values())) > 100  # the search finds imports
    missing = {path.stem: sorted(modules - set(DOCUMENTED)) for path, modules in used.items() if modules - set(DOCUMENTED)}
    assert not missing


def test_documented_modules_exist_once_under_their_names() -> None:
    assert [name for name in DOCUMENTED if not is_module(name)] == []
    assert [name for name, count in Counter(DOCUMENTED).items() if count > 1] == []
    for name, text in PAGES.items():
        headings = re.findall(r"^## (\S+)$", text, flags=re.MULTILINE)
        assert headings in ([], MODULES[name]), name


def test_nothing_is_documented_twice() -> None:
    """A package that offers what its modules define stands without members: else a cross-reference would have two targets."""
    listed = [v for name in DOCUMENTED if name not in WITHOUT_MEMBERS for v in members(importlib.import_module(name))]
    assert len(listed) > 300
    assert [v for v, count in Counter(listed).items() if count > 1] == []


def test_the_overview_lists_every_page_with_its_modules() -> None:
    rows = re.findall(r"^\| \[\]\(api/(\w+)\) \| (.*) \|$", (CHAPTERS / "api.md").read_text(), flags=re.MULTILINE)
    assert {name: re.findall(r"`(\S+)`", modules) for name, modules in rows} == MODULES
    contents = re.findall(r"file: chapters/api/(\w+)$", (ROOT / "book" / "_toc.yml").read_text(), flags=re.MULTILINE)
    assert contents == [name for name, _ in rows]


def test_bars_in_docstrings_are_literal() -> None:
    """Outside of backquotes the book's builder takes a bar for the beginning of a substitution, and says so after a quarter of an hour."""
    for name in DOCUMENTED:
        for node in ast.walk(ast.parse(ROOT.joinpath(*name.split(".")).with_suffix(".py").read_text() if not is_package(name) else "")):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and (text := ast.get_docstring(node)):
                plain = re.sub(r"`[^`]*`|^ *(>>>|\.\.\.).*$", "", text, flags=re.MULTILINE)
                assert not re.search(r"(?<![\w|])\|\w", plain), f"{name}.{node.name}"


def is_package(name: str) -> bool:
    return ROOT.joinpath(*name.split(".")).is_dir()
