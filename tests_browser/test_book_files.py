"""The built book as files, no browser: links and anchors, headings, words for pictures, weights, and no address but its own."""

import functools
import re
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import Tag
from built_book import BUILT, ROOT, pages, parsed

PAGES = pages()
HEAVIEST_BOOK, HEAVIEST_PAGE, HEAVIEST_SHARED = 60_000_000, 3_000_000, 4_500_000  # bytes, uncompressed
FETCHED = {"object": "data"} | dict.fromkeys(["script", "img", "source", "iframe", "video", "audio", "embed"], "src")
FETCHED_LINKS = {"stylesheet", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload", "icon"}


def elsewhere(address: str) -> bool:
    """Whether an address names another host."""
    return bool(urlsplit(address).netloc)


def article(name: str) -> Tag:
    found = parsed(name).select_one("article.bd-article")
    assert found is not None, "the page has no article"
    return found


@functools.cache
def anchors(name: str) -> set[str]:
    soup = parsed(name)
    return {tag["id"] for tag in soup.select("[id]")} | {tag["name"] for tag in soup.select("a[name]")}


def broken(name: str, address: str) -> str | None:
    """What is wrong with an internal link, or None."""
    parts = urlsplit(address)
    target = (BUILT / f"{name}.html").parent / unquote(parts.path) if parts.path else BUILT / f"{name}.html"
    if not target.is_file():
        return f"{address}: no such file"
    if not parts.fragment or target.suffix != ".html":
        return None
    page = target.resolve().relative_to(BUILT.resolve()).with_suffix("").as_posix()
    return None if unquote(parts.fragment) in anchors(page) else f"{address}: no such anchor"


@pytest.mark.parametrize("name", PAGES)
def test_internal_links_lead_somewhere(name: str) -> None:
    links = [tag["href"] for tag in parsed(name).select("a[href]")]
    internal = [link for link in links if not elsewhere(link) and urlsplit(link).scheme in ("", "http", "https")]
    assert len(internal) > len(PAGES), "a page links at least to every other one"
    assert not [problem for link in sorted(set(internal)) if (problem := broken(name, link))]


@pytest.mark.parametrize("name", PAGES)
def test_images_say_what_they_show(name: str) -> None:
    """Sphinx writes the file's name where a notebook gives no text: that says nothing."""
    silent = []
    for image in parsed(name).select("img"):
        text, file = image.get("alt", "").strip(), unquote(urlsplit(image["src"]).path)
        if not text or Path(text).name == Path(file).name:
            silent.append(f"{file[:60]} under “{heading_above(image)}”")
    assert not silent


def heading_above(tag: Tag) -> str:
    heading = tag.find_previous(["h1", "h2", "h3", "h4"])
    return heading.get_text().strip("\n #") if heading else ""


@pytest.mark.parametrize("name", PAGES)
def test_headings_make_an_outline(name: str) -> None:
    """One title, and no level left out below it."""
    levels = [int(tag.name[1]) for tag in article(name).find_all(re.compile("^h[1-6]$"))]
    assert levels[:1] == [1]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels


@pytest.mark.parametrize("name", PAGES)
def test_images_load_when_they_are_needed(name: str) -> None:
    assert not [tag["src"][:60] for tag in article(name).select("img:not([src^='data:'])") if tag.get("loading") != "lazy"]


@pytest.mark.parametrize("name", [*PAGES, "search", "genindex"])
def test_no_page_names_another_host_to_fetch_from(name: str) -> None:
    soup = parsed(name)
    found = [tag[attribute] for kind, attribute in FETCHED.items() for tag in soup.select(f"{kind}[{attribute}]")]
    found += [tag["href"] for tag in soup.select("link[href]") if FETCHED_LINKS & set(tag.get("rel", []))]
    assert not [address for address in found if elsewhere(address)]
    scripts = "".join(tag.get_text() for tag in soup.select("script:not([src]), style"))
    assert not re.findall(r"https?://[^\s\"'<>]+", scripts)


def test_no_style_names_another_host() -> None:
    styles = [path for path in BUILT.rglob("*.css") if re.search(r"(url\(|@import)\s*['\"]?\s*(https?:)?//", path.read_text())]
    assert not styles


def loaded(name: str) -> tuple[set[Path], set[Path]]:
    """Files that a page loads before anything is scrolled to: its own (itself, images that do not wait), and scripts and styles."""
    soup, page = parsed(name), BUILT / f"{name}.html"
    shared = [tag["src"] for tag in soup.select("script[src]")]
    shared += [
        tag["href"] for tag in soup.select("link[href]") if {"stylesheet", "preload", "modulepreload", "icon"} & set(tag.get("rel", []))
    ]
    own = [tag["src"] for tag in soup.select("img[src]:not([src^='data:'])") if tag.get("loading") != "lazy"]

    def files(addresses: list[str]) -> set[Path]:
        return {(page.parent / unquote(urlsplit(address).path)).resolve() for address in addresses}

    return {page} | files(own), files(shared)


def test_weight_of_the_book() -> None:
    assert sum(path.stat().st_size for path in BUILT.rglob("*") if path.is_file()) <= HEAVIEST_BOOK


@pytest.mark.parametrize("name", PAGES)
def test_weight_of_a_page(name: str) -> None:
    """The budget is 3 MB a page before images load lazily; it is read as the page's own bytes, uncompressed.

    Everything that a page loads would be more, whatever is on it: the theme's icons (1.5 MB), MathJax (1.2 MB), styles and the search
    index. Those the pages share, and a browser keeps them after the first: they have a bound of their own. (Glyphs of MathJax and
    further fonts are fetched as they are needed and not counted.)
    """
    own, shared = loaded(name)
    assert shared
    assert all(path.is_relative_to(BUILT.resolve()) for path in shared)
    assert sum(path.stat().st_size for path in own) <= HEAVIEST_PAGE
    assert sum(path.stat().st_size for path in shared) <= HEAVIEST_SHARED


def test_what_pages_share_is_the_same_for_all() -> None:
    """A library that few pages load would be weighed as shared, and is not: MathJax, where there are equations, is the one exception."""
    every = [loaded(name)[1] for name in PAGES]
    assert {path.name for path in set.union(*every) - set.intersection(*every)} <= {"tex-chtml.js"}


@pytest.mark.parametrize("name", PAGES)
def test_no_page_names_a_folder_of_this_machine(name: str) -> None:
    assert str(ROOT) not in article(name).get_text()


@pytest.mark.parametrize("name", PAGES)
def test_no_cell_of_a_table_is_cut_short(name: str) -> None:
    """Pandas ends a text of more than 50 characters in three dots, and a table of more than 60 rows or 20 columns too."""
    assert not [cell.get_text() for cell in parsed(name).select("td, th") if cell.get_text().endswith("...")]
