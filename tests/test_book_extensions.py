"""What the book's own Sphinx extensions do to a page."""

import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "book" / "_extensions"))

from launch_links import no_dead_buttons, to_the_source  # type: ignore[import-not-found]  # noqa: E402
from lazy_images import make_lazy  # type: ignore[import-not-found]  # noqa: E402
from light import lighten  # type: ignore[import-not-found]  # noqa: E402
from unbroken import keep_together  # type: ignore[import-not-found]  # noqa: E402


def config(url: str) -> SimpleNamespace:
    return SimpleNamespace(html_theme_options={"repository_url": url, "launch_buttons": {"colab_url": "https://colab.example"}})


def test_no_address_no_buttons() -> None:
    without, with_one = config(""), config("https://github.com/someone/selfimprove")
    for settings in (without, with_one):
        no_dead_buttons(None, settings)
    assert without.html_theme_options["launch_buttons"] == {}
    assert with_one.html_theme_options["launch_buttons"] != {}


def test_buttons_open_the_notebook_that_is_in_the_repository() -> None:
    launch = {"label": "launch-buttons", "buttons": [{"url": "https://colab.example/blob/main/executed/04_gradient.ipynb"}]}
    download = {"label": "download-buttons", "buttons": [{"url": "_sources/executed/04_gradient.ipynb"}]}
    to_the_source(None, "executed/04_gradient", "page.html", {"header_buttons": [launch, download]}, None)
    assert launch["buttons"][0]["url"] == "https://colab.example/blob/main/notebooks/04_gradient.ipynb"
    assert download["buttons"][0]["url"] == "_sources/executed/04_gradient.ipynb"


def test_pages_of_the_course_have_no_launch_buttons() -> None:
    page = "executed/course/04_dpo_and_spin"
    launch = {"label": "launch-buttons", "buttons": [{"url": f"https://colab.example/blob/main/{page}.ipynb"}]}
    download = {"label": "download-buttons", "buttons": [{"url": f"_sources/{page}.ipynb"}]}
    context = {"header_buttons": [launch, download]}
    to_the_source(None, page, "page.html", context, None)
    assert context["header_buttons"] == [download]
    without: dict[str, object] = {}
    to_the_source(None, page, "page.html", without, None)
    assert not without.get("header_buttons")


def test_pictures_wait_and_hold_their_place(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "source.png")
    app = SimpleNamespace(srcdir=tmp_path, builder=SimpleNamespace(name="html", images={"source.png": "shown.png"}))
    other = '<img alt="frame" src="data:image/png;base64,AA">'
    context = {"body": f'<p><img alt="a plot" src="../_images/shown.png" /></p>{other}'}
    make_lazy(app, "page", "page.html", context, None)
    assert context["body"] == f'<p><img loading="lazy" width="30" height="20" alt="a plot" src="../_images/shown.png" /></p>{other}'
    app.builder.name = "singlehtml"
    plain = {"body": '<img src="_images/shown.png" />'}
    make_lazy(app, "page", "page.html", plain, None)
    assert plain == {"body": '<img src="_images/shown.png" />'}


def test_intervals_and_formulas_stay_whole() -> None:
    formula = r'<span class="math notranslate nohighlight">\(x_t\)</span>'
    context = {"body": f"<td>+0.1 [+0.05, +0.15] *</td><p>[1, 2] in words, and {formula}, then</p><pre>[0.1, 0.2]</pre>"}
    keep_together(None, "page", "page.html", context, None)
    space = "\N{NO-BREAK SPACE}"
    cell, prose = (
        f"<td>+0.1 [+0.05,{space}+0.15]{space}*</td>",
        f'<p>[1, 2] in words, and <span class="unbroken">{formula},</span> then</p>',
    )
    assert context["body"] == f"{cell}{prose}<pre>[0.1, 0.2]</pre>"


def test_what_no_reader_loads_is_not_published(tmp_path: Path) -> None:
    static = tmp_path / "_static"
    kept = ("mathjax/tex-chtml.js", "mathjax/output/chtml.js", "mathjax/sre/mathmaps/en.json", "scripts/theme.js")
    for name in (*kept, "mathjax/tex-svg.js", "mathjax/sre/mathmaps/de.json", "scripts/theme.js.map"):
        (static / name).parent.mkdir(parents=True, exist_ok=True)
        (static / name).write_text("")
    shown = nbformat.v4.new_output("stream", text="long")
    download = tmp_path / "_sources" / "executed" / "page.ipynb"
    download.parent.mkdir(parents=True)
    cells = [nbformat.v4.new_markdown_cell("# Title"), nbformat.v4.new_code_cell("print(1)", outputs=[shown], execution_count=1)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), download)
    lighten(SimpleNamespace(outdir=tmp_path, config=SimpleNamespace(mathjax_path="mathjax/tex-chtml.js")), None)
    assert {p.relative_to(static).as_posix() for p in static.rglob("*") if p.is_file()} == set(kept)
    title, code = nbformat.read(download, as_version=4).cells
    assert (title.source, code.source, code.outputs) == ("# Title", "print(1)", [])
