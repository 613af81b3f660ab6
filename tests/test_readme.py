"""What the README shows can be run."""

import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_python_examples_import_what_is_there() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        imports = [line for line in block.splitlines() if line.startswith(("from ", "import "))]
        assert imports
        exec("\n".join(imports), {})


def test_the_files_and_targets_it_names_are_there() -> None:
    root = Path(__file__).parent.parent
    named = re.findall(r"`((?:notebooks|book|benchmarks|experiments|selfimprove|selfimprove_lab)/[\w./]+)`", README) + re.findall(
        r"papermill (\S+\.ipynb)", README
    )
    assert len(named) > 8
    assert not [name for name in named if not (root / name).exists()]
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z-]+)", README)) - {"sure"} <= targets


def test_what_it_says_to_edit_is_there() -> None:
    root = Path(__file__).parent.parent
    rows = re.findall(r"`(\w+)` (?:in|of) `([\w/]+\.py)`", README)
    assert len(rows) > 8
    for name, file in rows:
        path = next(p for p in (root / file, root / "selfimprove" / file) if p.exists())
        assert re.search(rf"^(?:def |class )?{name}\b", path.read_text(), re.MULTILINE), (name, file)
