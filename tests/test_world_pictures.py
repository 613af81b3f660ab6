"""Pictures of the world: what the renderer draws, one factor at a time, with words for readers who do not see them."""

import base64
import io
import itertools
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from selfimprove.shapes.render import ATTRIBUTES, FACTORS
from selfimprove_lab.figures.world import LEVELS, PICTURES, SCENE, WELL, Cell, main, picture, svg

SVG = "{http://www.w3.org/2000/svg}"
LARGEST = 40_000  # bytes of one picture in a page


def pixels(cell: Cell) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture(cell))).convert("RGB"), dtype=float) / 255


def test_the_scene_becomes_what_its_quality_says() -> None:
    poor, good = (pixels(Cell(SCENE, [quality] * len(FACTORS))) for quality in (0.1, 0.9))
    assert np.ptp(good) > np.ptp(poor)  # contrast
    assert np.abs(np.diff(good, axis=1)).max() > np.abs(np.diff(poor, axis=1)).max()  # sharpness


def test_rows_of_factors_change_that_factor_alone() -> None:
    (all_five, together), *alone = PICTURES["factors"].rows()
    assert all_five == "all five"
    assert [cell.label for cell in together] == [f"{level:g}" for level in LEVELS]
    assert [name for name, _ in alone] == list(FACTORS)
    for place, (_, cells) in enumerate(alone):
        factors = np.array([cell.factors for cell in cells])
        assert list(factors[:, place]) == list(LEVELS)
        assert (np.delete(factors, place, axis=1) == WELL).all()
        drawn = [pixels(cell) for cell in cells]
        assert all(np.abs(a - b).max() > 0.04 for a, b in itertools.pairwise(drawn))  # every step is seen


def test_every_value_of_every_attribute_is_shown() -> None:
    cells = [cell for _, row in PICTURES["scenes"].rows() for cell in row]
    for name, known in ATTRIBUTES.items():
        assert set(known) <= {cell.label for cell in cells if cell.label == cell.scene[name]}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_small_and_has_words(name: str) -> None:
    drawn = svg(name)
    assert len(drawn) < LARGEST
    root = ElementTree.fromstring(drawn)
    assert len(PICTURES[name].words) > 100
    assert {tag.text for tag in root if tag.tag in (f"{SVG}title", f"{SVG}desc")} == {PICTURES[name].title, PICTURES[name].words}
    across, down = float(root.get("width") or 0), float(root.get("height") or 0)
    for tag in root.iter(f"{SVG}image"):
        x, y, wide = (float(tag.get(k) or 0) for k in ("x", "y", "width"))
        assert x + wide <= across
        assert y + wide <= down
        data = base64.b64decode((tag.get("href") or "").partition(",")[2])
        assert Image.open(io.BytesIO(data)).size == (64, 64)


def test_files_hold_the_same_pictures(tmp_path: Path) -> None:
    main(str(tmp_path))
    assert {p.stem: p.read_text().strip() for p in tmp_path.iterdir()} == {name: svg(name) for name in PICTURES}


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match=r"factors has \[1.2\]"):
        picture(Cell(SCENE, [1.2, 0.0, 0.0, 0.0, 0.0]))
    with pytest.raises(ValueError, match="scene has size 'huge'; give one of"):
        picture(Cell({**SCENE, "size": "huge"}, [0.5] * 5))
    with pytest.raises(ValueError, match="'stars' is no picture of the world; give one of"):
        svg("stars")


def test_pages_show_every_picture() -> None:
    root = Path(__file__).parent.parent
    pages = [root / "book" / "chapters" / "world.md", root / "notebooks" / "00_tour.ipynb"]
    assert {name for page in pages for name in re.findall(r"\{world\} (\w+)", page.read_text())} == set(PICTURES)
