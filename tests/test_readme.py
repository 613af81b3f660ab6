"""What the README and the page of the tree show is there, and can be run."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TREE = (ROOT / "book" / "chapters" / "tree.md").read_text()


def test_the_python_examples_import_what_is_there() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        imports = [line for line in block.splitlines() if line.startswith(("from ", "import "))]
        assert imports
        exec("\n".join(imports), {})


def test_the_files_and_targets_it_names_are_there() -> None:
    text = README + TREE
    named = re.findall(r"`((?:notebooks|book|benchmarks|experiments|selfimprove|selfimprove_lab)/[\w./]+)`", text)
    named += re.findall(r"papermill (\S+\.ipynb)", text) + re.findall(r"\]\((book/[^)]+)\)", README)
    assert len(named) > 8
    assert not [name for name in named if not (ROOT / name).exists()]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets


def test_what_it_says_to_edit_is_there() -> None:
    rows = re.findall(r"`(\w+)` (?:in|of) `([\w/]+\.py)`", TREE)
    assert len(rows) > 20
    for name, file in rows:
        assert re.search(rf"^ *(?:def |class )?{name}\b", (ROOT / file).read_text(), re.MULTILINE), (name, file)


def test_the_readme_is_read_on_one_screen_and_a_half() -> None:
    assert len(README) < 6_500
