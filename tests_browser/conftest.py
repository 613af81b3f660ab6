"""The system's Chromium, for every test in this folder; installing Playwright's own would be a download that nobody asked for."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser a file of tests; what must know nothing of earlier pages takes a context or a page of its own."""
    if CHROMIUM is None:
        pytest.fail("no Chromium is installed; install the system's package chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page of a test file's own `address`, which runs without an error and asks for nothing but itself."""
    page = browser.new_page(viewport={"width": 1000, "height": 900})
    requests, problems = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(address)
    yield page
    assert not problems
    assert [url for url in requests if not url.startswith("data:")] == [address], "the page asked for something"
    page.close()
