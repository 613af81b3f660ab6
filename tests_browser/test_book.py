"""Every page of the built book in a real browser: `make book-test`. Screenshots: runs/book-browser/<width>-<mode>/.

A page is opened once, on a wide screen that then gets narrow; what was seen is kept, and each test reads one thing from it.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from built_book import BUILT, PICTURES, pages, parsed, served
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

PAGES = pages()
WIDE, NARROW = {"width": 1300, "height": 1000}, {"width": 390, "height": 844}
PATIENCE = 60_000  # milliseconds
# Sliders are HTML that notebooks print. Fewer than this in the whole book means that a chapter has lost its own: a failure.
FEWEST_SLIDERS = 14

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
AXE = {"preload": False, "resultTypes": ["violations"], "runOnly": {"type": "tag", "values": RULES}}
GRAVE = ("serious", "critical")
FOUND_MATHS = """() => {
  const article = document.querySelector('article').cloneNode(true);
  const bare = [...article.querySelectorAll('.math')].filter(e => !e.querySelector('mjx-container')).map(e => e.textContent.slice(0, 60));
  const wrong = [...article.querySelectorAll('mjx-merror')].map(e => e.textContent.slice(0, 60));
  article.querySelectorAll('pre, code, script, style, mjx-container').forEach(e => e.remove());
  const raw = article.textContent.match(/\\\\[([]|\\\\[a-zA-Z]{2,}|\\$[^$\\n]+\\$|[A-Za-z]_\\{/g) || [];
  return {bare, wrong, raw};
}"""
# What is wider than the screen and in no box that scrolls by itself: says where to look when the page scrolls sideways.
TOO_WIDE = """() => [...document.querySelectorAll('article *')].filter(element => {
  if (element.getBoundingClientRect().right <= window.innerWidth + 1) return false;
  for (let box = element.parentElement; box && box !== document.body; box = box.parentElement)
    if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(box).overflowX)) return false;
  return true;
}).slice(0, 5).map(e => e.outerHTML.slice(0, 120))"""
LOAD_IMAGES = """() => Promise.all([...document.images].map(image => {
  image.loading = 'eager';
  return image.complete ? null : new Promise(done => { image.onload = image.onerror = done; });
}))"""


@dataclass
class Seen:
    """What one page did on a wide screen and on a narrow one."""

    said: list[str] = field(default_factory=list)  # errors of scripts and of the console
    failed: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)  # requests to other hosts, which were stopped
    maths: dict[str, list[str]] = field(default_factory=dict)
    findings: dict[str, list[str]] = field(default_factory=dict)  # of axe, by the colour scheme
    sideways: dict[str, list[str]] = field(default_factory=dict)  # by the width: what does not fit
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)  # of the document and of the screen, by the width


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(BUILT) as address:
        yield address


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport=WIDE, color_scheme="light", reduced_motion="reduce")
    context.set_default_timeout(PATIENCE)
    yield context
    context.close()


@pytest.fixture(scope="module")
def see(context: BrowserContext, address: str) -> Callable[[str], Seen]:
    @functools.cache
    def once(name: str) -> Seen:
        seen = Seen()
        page = watched(context, address, seen)
        look(page, f"{address}{name}.html", name, seen)
        page.close()
        return seen

    return once


def watched(context: BrowserContext, address: str, seen: Seen) -> Page:
    """A page whose complaints and requests are kept; other hosts than this machine do not exist for the browser (conftest.py)."""
    page = context.new_page()
    local = (address, "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(local) else seen.outside.append(request.url))
    page.on("console", lambda message: seen.said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: seen.said.append(str(error)))
    page.on("requestfailed", lambda request: seen.failed.append(f"{request.url}: {request.failure}"))
    page.on("response", lambda answer: seen.failed.append(f"{answer.url}: {answer.status}") if answer.status >= 400 else None)
    return page


def settle(page: Page, url: str) -> None:
    """Open a page and wait for its equations and for all its pictures, also those far below."""
    page.goto(url, wait_until="load")
    if page.locator(".math").count():
        page.wait_for_function("() => window.MathJax && MathJax.startup && MathJax.startup.promise")
        page.evaluate("() => MathJax.startup.promise.then(() => null)")
    page.evaluate(LOAD_IMAGES)


def look(page: Page, url: str, name: str, seen: Seen) -> None:
    settle(page, url)
    seen.maths = page.evaluate(FOUND_MATHS)
    for viewport in (WIDE, NARROW):
        width = str(viewport["width"])
        page.set_viewport_size(viewport)
        seen.sizes[width] = tuple(page.evaluate("() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"))
        seen.sideways[width] = page.evaluate(TOO_WIDE)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            expect(page.locator("html")).to_have_attribute("data-theme", scheme)
            if viewport == WIDE:
                seen.findings[scheme] = axe(page)
            picture = PICTURES / f"{width}-{scheme}" / f"{name.replace('/', '-')}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=picture, full_page=True)


def axe(page: Page) -> list[str]:
    """Serious and critical findings, one line an element."""
    response: dict[str, Any] = Axe().run(page, options=AXE).response
    return [
        f"{finding['id']}: {' '.join(map(str, node['target']))}: {node['html'][:100]} {summary(node)}"
        for finding in response["violations"]
        if finding["impact"] in GRAVE
        for node in finding["nodes"]
    ]


def summary(node: dict[str, Any]) -> str:
    return node.get("failureSummary", "").replace("\n", " ")[:160]


@pytest.mark.parametrize("name", PAGES)
def test_nothing_goes_wrong_on_the_page(see: Callable[[str], Seen], name: str) -> None:
    seen = see(name)
    assert (seen.said, seen.failed) == ([], [])


@pytest.mark.parametrize("name", PAGES)
def test_no_request_leaves_the_page(see: Callable[[str], Seen], name: str) -> None:
    assert see(name).outside == []


@pytest.mark.parametrize("name", PAGES)
def test_equations_are_rendered(see: Callable[[str], Seen], name: str) -> None:
    assert see(name).maths == {"bare": [], "wrong": [], "raw": []}


def test_the_book_has_equations() -> None:
    assert sum(len(parsed(name).select(".math")) for name in PAGES) > 100


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_accessible(see: Callable[[str], Seen], name: str, scheme: str) -> None:
    assert see(name).findings[scheme] == []


@pytest.mark.parametrize("name", PAGES)
def test_no_page_scrolls_sideways(see: Callable[[str], Seen], name: str) -> None:
    seen = see(name)
    assert all(document <= screen for document, screen in seen.sizes.values()), (seen.sizes, seen.sideways)
    assert not any(seen.sideways.values()), seen.sideways


def test_search_finds_a_phrase(context: BrowserContext, address: str) -> None:
    seen = Seen()
    page = watched(context, address, seen)
    page.goto(f"{address}search.html")
    box = page.locator("input[name=q]:visible").first
    box.fill("pushing term")
    box.press("Enter")
    results = page.locator("#search-results li a")
    expect(results.first).to_be_visible()
    page.wait_for_load_state("networkidle")  # every hit's page is fetched for its summary; leaving would break that off
    results.first.click()
    expect(page.locator("article")).to_contain_text("pushing term", ignore_case=True)
    assert (seen.said, seen.failed, seen.outside) == ([], [], [])
    page.close()


def with_sliders() -> dict[str, int]:
    """Pages and how many sliders each holds."""
    return {name: count for name in PAGES if (count := len(parsed(name).select("input[type=range]")))}


def test_the_book_has_its_sliders() -> None:
    assert sum(with_sliders().values()) >= FEWEST_SLIDERS


@pytest.mark.parametrize("name", sorted(with_sliders()))
def test_sliders_change_the_picture(context: BrowserContext, address: str, name: str) -> None:
    seen = Seen()
    page = watched(context, address, seen)
    settle(page, f"{address}{name}.html")
    bars = page.locator("input[type=range]")
    assert bars.count() == with_sliders()[name]
    still = [i for i in range(bars.count()) if not moves(bars.nth(i))]
    assert not still, f"of {bars.count()} sliders these do not change what is seen"
    assert (seen.said, seen.failed, seen.outside) == ([], [], [])
    page.close()


def moves(bar: Locator) -> bool:
    """Whether arrow keys on a slider change the picture beside it: the picture's own pixels, not the slider's or its label's."""
    figure = bar.locator("xpath=(ancestor::figure | ancestor::*[contains(@class, 'output')])[last()]")
    picture = figure.locator("img:visible, canvas:visible, svg:visible")
    expect(picture).to_have_count(1)
    before, value = picture.screenshot(), bar.input_value()
    bar.focus()
    bar.press("ArrowRight" if value != bar.get_attribute("max") else "ArrowLeft")
    assert bar.input_value() != value
    return picture.screenshot() != before
