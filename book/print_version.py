"""python book/print_version.py: write the book as one page, book/_build/print/index.html, and as a PDF if Chromium is installed.

The page is built from the executed copies that exist; `python book/build.py` makes them.
"""

import html
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BOOK = Path(__file__).parent
BUILT, PRINT = BOOK / "_build" / "singlehtml", BOOK / "_build" / "print"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-pdf-header-footer"]


def titles(text: str) -> list[str]:
    """Return the first- and second-level headings of a page, without markup and equations."""
    found = re.findall(r"<h[12]>((?:(?!</h).)*?)<a class=\"headerlink\"", text, re.DOTALL)
    return [html.unescape(re.sub(r"<span class=\"math.*?</span>|<[^>]+>", "", title)).strip() for title in found]


def missing(single: str, pages: list[Path]) -> list[str]:
    """Return the names of the book's pages whose title the single page does not have."""
    have = set(titles(single))
    return [page.stem for page in pages if not set(titles(page.read_text())[:1]) <= have]


def to_pdf(page: Path) -> Path | None:
    """Print a page with the system's Chromium and return the PDF's path; return None without a Chromium."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        return None
    target = page.with_name("book.pdf")
    with tempfile.TemporaryDirectory() as profile:
        wait = "--virtual-time-budget=60000"  # milliseconds of the page's own clock, to render its equations
        command = [chromium, *FLAGS, f"--user-data-dir={profile}", wait, f"--print-to-pdf={target}", page.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True)
    return target


def main() -> None:
    builder = [str(Path(sys.executable).parent / "jupyter-book"), "build", "-W", "--keep-going", "-q"]
    beside = os.environ | {"PYTHONPATH": str(BOOK.parent)}  # selfimprove_lab is not installed
    subprocess.run([*builder, "--builder", "singlehtml", str(BOOK)], check=True, env=beside)
    shutil.rmtree(PRINT, ignore_errors=True)
    BUILT.rename(PRINT)
    (PRINT / "intro.html").replace(PRINT / "index.html")
    shutil.rmtree(PRINT / "slides", ignore_errors=True)  # they lie beside the book's own pages already, where links from print/ lead
    (PRINT / "course.zip").unlink(missing_ok=True)
    built = BOOK / "_build" / "html"
    pages = [*built.glob("executed/*.html"), *built.glob("chapters/**/*.html")]
    if absent := missing((PRINT / "index.html").read_text(), pages):
        sys.exit(f"the page to print lacks {absent}")
    printed = to_pdf(PRINT / "index.html")
    print(f"one page: {PRINT / 'index.html'}" + (f"; printed: {printed}" if printed else ""))


if __name__ == "__main__":
    main()
