"""The page to print has every page of the book."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "book"))

from print_version import missing, titles  # type: ignore[import-not-found]  # noqa: E402

LINK = '<a class="headerlink" href="#x">#</a>'


def test_titles_are_words_of_the_text_alone() -> None:
    bar = "<h1>The book's name above the page</h1>"
    text = f'{bar}<h1>A &amp; B{LINK}</h1><h2>with <em>marks</em> and <span class="math">\\(x\\)</span>{LINK}</h2><h3>below{LINK}</h3>'
    assert titles(text) == ["A & B", "with marks and"]


def test_a_missing_page_is_named(tmp_path: Path) -> None:
    pages = [tmp_path / f"{name}.html" for name in ("one", "two")]
    for page in pages:
        page.write_text(f"<h1>Page {page.stem}{LINK}</h1><h2>elsewhere{LINK}</h2>")
    assert missing(f"<h1>Book{LINK}</h1><h2>Page one{LINK}</h2><h2>Page two{LINK}</h2>", pages) == []
    assert missing(f"<h1>Book{LINK}</h1><h2>Page one{LINK}</h2><h2>elsewhere{LINK}</h2>", pages) == ["two"]
