"""The built book as its tests see it: its pages, found in the built folder, and a local server for them."""

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from bs4 import BeautifulSoup

ROOT = Path(__file__).parent.parent
BUILT = ROOT / "book" / "_build" / "html"
PICTURES = ROOT / "runs" / "book-browser"
NO_CHAPTERS = {"index", "genindex", "search"}  # made by Sphinx: a redirection, an empty index, the search


def pages() -> list[str]:
    """Every page with text of the book's own, by its address without .html.

    Raises:
        FileNotFoundError: nothing has been built.
    """
    found = [path.relative_to(BUILT).with_suffix("").as_posix() for path in sorted(BUILT.rglob("*.html"))]
    found = [name for name in found if not name.startswith("_") and name not in NO_CHAPTERS]
    if not found:
        raise FileNotFoundError(f"no page in {BUILT.relative_to(ROOT)}; `make book-test` builds the book first")
    return found


@functools.cache
def parsed(name: str) -> BeautifulSoup:
    """A page's HTML as it is in its file, before any script has run."""
    return BeautifulSoup((BUILT / f"{name}.html").read_text(), "html.parser")


class _Quiet(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: what fails is recorded by the browser."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A folder on a port of this machine that is free; yields its address, ending in a slash."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()
