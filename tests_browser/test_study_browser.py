"""The study and the selection by hand in a real browser, against a real Jupyter server: `make study-test`.

Twenty pairs by mouse and keyboard, the kernel is killed, the page opened again: nothing is lost. Screenshots: runs/study-browser/.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import nbformat
import pandas as pd
import papermill
import psutil
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from selfimprove.recursion.selection import KEPT_BY_HAND
from selfimprove.study import open_study, read_answers
from selfimprove.study.page import HASTE
from selfimprove.study.store import read_log, standing
from selfimprove_lab.study_demo import QUALITIES, write_demo

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "runs" / "study-browser"
TOKEN = "study"
CHOICES = ("left", "tie", "right")
PATIENCE = 60_000  # milliseconds


class Server(NamedTuple):
    """A running JupyterLab and the folder it serves."""

    url: str
    folder: Path
    process: psutil.Process

    def kill_kernels(self) -> int:
        """SIGKILL to every kernel, as if memory had run out; returns how many."""
        kernels = [p for p in self.process.children(recursive=True) if "ipykernel_launcher" in " ".join(p.cmdline())]
        for kernel in kernels:
            kernel.send_signal(signal.SIGKILL)
        return len(kernels)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    base = tmp_path_factory.mktemp("jupyter")
    folder, config, runtime = (base / name for name in ("work", "config", "runtime"))
    news = config / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    folder.mkdir()
    environment = os.environ | {"JUPYTER_CONFIG_DIR": str(config), "JUPYTER_RUNTIME_DIR": str(runtime)}
    options = ["--no-browser", "--allow-root", "--port=0", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}"]
    log = (base / "log").open("w")
    started = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], env=environment, stdout=log, stderr=log)
    try:
        for _ in range(300):
            found = list(runtime.glob("jpserver-*.json"))
            if found and (text := found[0].read_text()):
                break
            time.sleep(0.2)
        else:
            pytest.fail((base / "log").read_text())
        yield Server(json.loads(text)["url"], folder, psutil.Process(started.pid))
    finally:
        started.terminate()
        started.wait(30)
        log.close()


@pytest.fixture
def page(server: Server, browser: Browser) -> Iterator[Page]:
    """A page that knows nothing of earlier ones."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    page = browser.new_page(viewport={"width": 1400, "height": 1150})
    page.set_default_timeout(PATIENCE)
    yield page
    page.close()


def open_notebook(page: Page, server: Server, name: str) -> Locator:
    """Open a notebook, close what stands in the way, run all its cells; returns the study's frame."""
    page.goto(f"{server.url}lab/tree/{name}?token={TOKEN}")
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    if page.locator(".jp-DirListing").is_visible():
        page.keyboard.press("Control+b")  # room for the study
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    frame = page.locator(".si-frame:visible")
    frame.wait_for(timeout=PATIENCE)
    frame.locator("button:visible").last.scroll_into_view_if_needed()
    return frame


def until(check: Callable[[], bool], what: str) -> None:
    """Wait for something on disk."""
    for _ in range(100):
        if check():
            return
        time.sleep(0.1)
    pytest.fail(f"waited in vain for {what}")


def look(frame: Locator, name: str) -> None:
    time.sleep(0.3)
    frame.page.screenshot(path=PICTURES / f"{name}.png")


def layout(frame: Locator) -> list[tuple[float, ...]]:
    """Where everything stands within the frame, and how large it is: must be the same for every pair."""
    corner = frame.bounding_box()
    boxes = [part.bounding_box() for part in frame.locator("img, button:visible, .si-prompt, .si-question").all()]
    return [(b["x"] - corner["x"], b["y"] - corner["y"], b["width"], b["height"]) for b in boxes]


def test_twenty_pairs_survive_a_killed_kernel(server: Server, page: Page) -> None:
    folders = write_demo(server.folder / "demo")
    database = server.folder / "answers.sqlite"
    models = server.folder / "models.txt"
    models.write_text("".join(f"{name}: {folder}\n" for name, folder in folders.items()))
    papermill.execute_notebook(
        ROOT / "notebooks" / "study.ipynb",
        server.folder / "study.ipynb",
        {"models": str(models), "database": str(database)},
        prepare_only=True,
    )
    study = open_study(folders, database)
    trials = study.trials("Ada L.")
    frame = open_notebook(page, server, "study.ipynb")
    look(frame, "1-sign-in")
    height = frame.bounding_box()["height"]
    frame.locator("input").fill("Ada L.")
    frame.locator("input").press("Enter")
    counter = frame.locator(".si-bar")
    expect(counter).to_contain_text(f"Pair 1 of {len(trials)}")
    look(frame, "2-first-pair")
    assert frame.bounding_box()["height"] == height, "the page jumped when the study began"
    places, cells = layout(frame), page.locator(".jp-Cell").count()

    expected = {}
    for number, trial in enumerate(trials[:20]):
        expect(counter).to_contain_text(f"Pair {number + 1} of")
        expect(frame.locator(".si-prompt")).to_have_text(trial.prompt)
        page.wait_for_timeout(1000 * HASTE + 50)
        assert layout(frame) == places, "the page jumped"
        answers = {"appeal": CHOICES[number % 3], "faithfulness": CHOICES[number // 3 % 3]}
        for row, (question, answer) in enumerate(answers.items()):
            expected[trial.item, question] = answer
            if number < 10:
                frame.locator(".si-question").nth(row).get_by_role("button").nth(CHOICES.index(answer)).click()
            else:
                page.keyboard.press((("1", "2", "3"), ("ArrowLeft", "ArrowDown", "ArrowRight"))[number % 2][CHOICES.index(answer)])
            if row == 0:
                expect(frame.locator(".si-question").nth(1)).to_have_class(re.compile("si-current"))
                if number in (0, 12):
                    look(frame, f"3-between-questions-{number}")
        visible = page.locator("body").inner_text()
        assert not any(model in visible for model in QUALITIES)
    expect(counter).to_contain_text("Pair 21 of")
    look(frame, "4-pair-21")

    # keys that would cut cells or restart the kernel in Jupyter, a second press at once, undo, and an answer changed
    for key in ("x", "d", "d", "0", "0", "b", "Escape"):
        page.keyboard.press(key)
    assert page.locator(".jp-Cell").count() == cells
    page.wait_for_timeout(1000 * HASTE + 50)
    for key in ("1", "3", "3", "3"):
        page.keyboard.press(key)  # the third and fourth come before anyone can have seen the next pair
    expect(counter).to_contain_text("Pair 22 of")
    page.wait_for_timeout(400)
    expect(counter).to_contain_text("Pair 22 of")
    page.keyboard.press("u")
    expect(counter).to_contain_text("Pair 21 of")
    expect(frame.locator(".si-chosen")).to_have_count(1)
    page.keyboard.press("u")
    expect(frame.locator(".si-chosen")).to_have_count(0)

    assert server.kill_kernels() == 1
    held = read_answers(database)
    assert {(row.pair + "-again" * row.repeat, row.question): row.answer for row in held.itertuples()} == expected
    assert len(expected) == 40

    again = page.context.browser.new_page(viewport={"width": 1400, "height": 1150})
    page.close()
    frame = open_notebook(again, server, "study.ipynb")
    frame.locator("input").fill("Ada L.")
    frame.get_by_role("button", name="Start").click()
    counter = frame.locator(".si-bar")
    expect(counter).to_contain_text("Pair 21 of")
    expect(frame.locator(".si-prompt")).to_have_text(trials[20].prompt)
    look(frame, "5-reopened")
    for number in range(20, len(trials)):
        expect(counter).to_contain_text(f"Pair {number + 1} of")
        again.wait_for_timeout(1000 * HASTE + 50)
        again.keyboard.press("s")
    expect(counter).to_contain_text(f"All {len(trials)} pairs are answered")
    look(frame, "6-finished")
    assert len(read_answers(database)) == 2 * len(trials)
    again.close()


def grid_notebook(server: Server) -> tuple[Path, list[str]]:
    """A round that waits for selection by hand, with 30 candidates, and a notebook that shows its grid."""
    folder = server.folder / "round_1"
    source = Path(write_demo(server.folder / "candidates", prompts=30)["fair"])
    (folder / "candidates").mkdir(parents=True)
    table = [json.loads(line) for line in (source / "metadata.jsonl").read_text().splitlines()]
    ids = [f"1-{number:016x}" for number in range(len(table))]
    for name, row in zip(ids, table, strict=True):
        shutil.copy(source / row["file_name"], folder / "candidates" / f"{name}.png")
    pd.DataFrame({"id": ids, "prompt": [row["prompt"] for row in table]}).to_parquet(folder / "pool.parquet")
    cell = nbformat.v4.new_code_cell("from selfimprove.study.grid import select_by_hand\n\nselect_by_hand('round_1').show()")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), server.folder / "grid.ipynb")
    return folder, ids


def test_selection_by_hand_survives_a_killed_kernel(server: Server, page: Page) -> None:
    folder, ids = grid_notebook(server)
    decided = lambda: {a.item: a.answer for a in standing(read_log(folder / "kept.sqlite"))}  # noqa: E731
    frame = open_notebook(page, server, "grid.ipynb")
    counter = frame.locator(".si-bar")
    expect(counter).to_contain_text("30 undecided")
    look(frame, "7-grid")
    page.wait_for_timeout(1000 * HASTE + 50)
    cells = frame.locator(".si-cell")
    cells.nth(0).get_by_role("button", name="Keep").click()
    cells.nth(1).get_by_role("button", name="Drop").click()
    page.keyboard.press("k")  # the third: the next undecided one
    page.keyboard.press("ArrowDown")
    page.keyboard.press("d")  # the eighth
    until(lambda: len(decided()) == 4, "four decisions")
    assert decided() == {ids[0]: "keep", ids[1]: "drop", ids[2]: "keep", ids[7]: "drop"}
    look(frame, "8-grid-decided")
    page.keyboard.press("u")
    until(lambda: len(decided()) == 3, "one decision taken back")
    for key in "kdkdkdkdk":  # the rest of the page
        page.keyboard.press(key)
    expect(counter).to_contain_text("Page 2 of 3")
    page.wait_for_timeout(1000 * HASTE + 50)
    for key in "kkkkdddd":
        page.keyboard.press(key)
    expect(counter).to_contain_text("10 undecided")
    before = decided()
    assert len(before) == 20

    assert server.kill_kernels() >= 1
    assert decided() == before
    again = page.context.browser.new_page(viewport={"width": 1400, "height": 1150})
    page.close()
    frame = open_notebook(again, server, "grid.ipynb")
    expect(frame.locator(".si-bar")).to_contain_text("Page 2 of 3")
    expect(frame.locator(".si-bar")).to_contain_text("10 undecided")
    look(frame, "9-grid-reopened")
    frame.get_by_role("button", name="Finish").click()
    expect(frame.locator(".si-message")).to_contain_text("are kept")
    kept = (folder / KEPT_BY_HAND).read_text().split()
    assert kept == [name for name in ids if before.get(name) == "keep"]
    look(frame, "10-grid-finished")
    again.close()
