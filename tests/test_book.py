"""References of the book's pages: every one has its target, every source is cited, every equation is labelled once."""

import json
import re
from collections import Counter
from pathlib import Path

from selfimprove_lab.claims.table import CHAPTERS

ROOT = Path(__file__).parent.parent
BOOK = ROOT / "book"
EXPERIMENTS = [
    "spin_round", "07_spin_rounds", "07_what_a_round_is_made_of", "07_how_long_how_large", "07_limits_and_controls", "rsi_round",
    "08_rsi_rounds", "09_collapse", "10_ablations", "11_evaluation",
]  # fmt: skip


def pages() -> dict[str, str]:
    """Name -> Markdown of every page."""
    written = {p.name: p.read_text() for p in [BOOK / "intro.md", *sorted((BOOK / "chapters").glob("*.md"))]}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        written[path.name] = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return written


TEXT = "\n".join(pages().values())


def role(name: str) -> set[str]:
    """Targets of a role, without the words shown in their place."""
    return {re.sub(r".*<(.*)>$", r"\1", target, flags=re.DOTALL) for target in re.findall(rf"{{{name}}}`([^`]+)`", TEXT)}


def glossary() -> set[str]:
    block = (BOOK / "chapters" / "glossary.md").read_text().split(":sorted:\n")[1]
    return set(re.findall(r"^(\w.*)$", block, flags=re.MULTILINE))


def once(labels: list[str]) -> set[str]:
    assert [label for label, count in Counter(labels).items() if count > 1] == []
    return set(labels)


def test_sources_are_the_ones_cited() -> None:
    cited = {key.strip() for keys in re.findall(r"{cite:[pt]}`([^`]+)`", TEXT) for key in keys.split(",")}
    assert once(re.findall(r"^@\w+{(.+),$", (BOOK / "references.bib").read_text(), flags=re.MULTILINE)) == cited


def test_equations_and_statements_that_are_referred_to_exist_once() -> None:
    assert role("eq") <= once(re.findall(r"^\$\$ \((eq-[a-z-]+)\)$", TEXT, flags=re.MULTILINE))
    assert role("prf:ref") <= once(re.findall(r"^:label: (.+)$", TEXT, flags=re.MULTILINE))


def test_terms_are_in_the_glossary() -> None:
    assert role("term") <= glossary()


def test_every_proposition_is_proved() -> None:
    """A lemma, proposition, theorem or corollary is followed by its proof."""
    for name, text in pages().items():
        kinds = [k for k in re.findall(r"^:::{prf:(\w+)}", text, flags=re.MULTILINE) if k not in ("algorithm", "example", "definition")]
        assert kinds[1::2] == ["proof"] * (len(kinds) // 2), name
        assert "proof" not in kinds[::2], name
        assert len(kinds) % 2 == 0, name


def test_titles_carry_the_number_by_which_chapters_are_called() -> None:
    for name, text in pages().items():
        if re.match(r"\d", name):
            assert re.match(rf"# {int(name[:2])}[b-d]?\. ", text), name


def test_chapters_are_called_by_one_word_and_linked() -> None:
    """[chapter 8](08_rsi_rounds.ipynb): neither "notebook 08" nor a number without a link, and each link leads to its number."""
    for name, text in pages().items():
        for number, target in re.findall(r"\[[Cc]hapter (\d+[b-d]?)\]\(([^)]+)\)", text):
            assert target.rpartition("/")[2].removesuffix(".ipynb") == CHAPTERS[number], (name, number, target)
        bare = re.sub(r"\[[^\]]*\]\([^)]*\)", "", text)
        assert re.findall(r"\b(?:chapter|notebook)s?\s+\d+", bare, flags=re.IGNORECASE) == [], name


def test_pages_of_experiments_link_a_term_where_it_first_stands() -> None:
    """In the text: headings, tables and code have no links."""
    for name in EXPERIMENTS:
        words = re.sub(r"^(?:#|\||```).*$", "", pages()[f"{name}.ipynb"], flags=re.MULTILINE)
        for term in ("oracle", "obedience", "guidance"):
            before, found, _ = words.partition(term)
            assert not found or before.endswith("{term}`"), (name, term)


def test_lines_of_code_that_pages_show_are_found() -> None:
    """What the book's build would only say after a quarter of an hour."""
    for name, text in pages().items():
        for path, options in re.findall(r"^```\{literalinclude\} (\S+)\n((?::.*\n)*)", text, flags=re.MULTILINE):
            code = (BOOK / "chapters" / path).read_text()
            shown = dict(re.findall(r'^:([\w-]+): "?(.*?)"?$', options, flags=re.MULTILINE))
            for pattern in (shown[k] for k in ("start-at", "end-at", "start-after", "end-before") if k in shown):
                assert pattern in code, (name, path, pattern)
            if inside := shown.get("pyobject"):
                names = inside.split(".")
                assert re.search(rf"^(?:def|class) {names[0]}\b", code, flags=re.MULTILINE), (name, path, inside)
                assert all(re.search(rf"^ +def {part}\b", code, flags=re.MULTILINE) for part in names[1:]), (name, path, inside)


def test_inputs_name_tests_that_exist() -> None:
    named = re.findall(r"`(test_\w+)::(test_\w+)`", pages()["inputs.md"])
    assert len(named) > 30
    for file, name in named:
        assert f"def {name}(" in (ROOT / "tests" / f"{file}.py").read_text(), (file, name)
