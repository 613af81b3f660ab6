"""Pictures from folders, and how they are shown."""

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from selfimprove.study.images import load_pictures, png
from selfimprove.study.store import StudyError


def test_pictures_carry_no_metadata_and_stay_sharp(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("parameters", "model: fine")
    picture = Image.new("RGB", (64, 64), "red")
    picture.putpixel((0, 0), (0, 0, 255))
    picture.save(tmp_path / "small.png", pnginfo=info)
    shown = png(tmp_path / "small.png", 384)
    assert b"fine" not in shown
    (tmp_path / "shown.png").write_bytes(shown)
    with Image.open(tmp_path / "shown.png") as large:
        assert large.size == (768, 768)
        assert large.getpixel((11, 11)) == (0, 0, 255)
        assert large.getpixel((12, 11)) == (255, 0, 0)
    Image.new("RGB", (3000, 1500)).save(tmp_path / "large.png")
    (tmp_path / "shown.png").write_bytes(png(tmp_path / "large.png", 384))
    with Image.open(tmp_path / "shown.png") as small:
        assert small.size == (768, 384)


def test_rounds_of_a_run(tmp_path: Path) -> None:
    """The first images of an evaluation are kept as files; the table has more rows."""
    folder = tmp_path / "round_1"
    (folder / "images").mkdir(parents=True)
    for row in range(3):
        Image.new("RGB", (8, 8)).save(folder / "images" / f"{row:03d}.png")
    pd.DataFrame({"prompt": ["b", "a", "b", "c"], "image": [0, 0, 1, 0], "clip": 0.0}).to_parquet(folder / "scores.parquet")
    assert [(p.prompt, p.image, p.path.name) for p in load_pictures(folder)] == [
        ("b", 0, "000.png"),
        ("a", 0, "001.png"),
        ("b", 1, "002.png"),
    ]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_any_folder_with_a_table(tmp_path: Path, suffix: str) -> None:
    for name in ("x.png", "y.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    frame = pd.DataFrame({"file_name": ["x.png", "y.png"], "prompt": ["NA", "NA"]})
    {
        "csv": lambda p: frame.to_csv(p, index=False),
        "parquet": frame.to_parquet,
        "jsonl": lambda p: frame.to_json(p, orient="records", lines=True),
    }[suffix](tmp_path / f"metadata.{suffix}")
    assert [(p.prompt, p.image, p.name) for p in load_pictures(tmp_path)] == [("NA", 0, "x"), ("NA", 1, "y")]


def test_errors_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="is no folder"):
        load_pictures(tmp_path / "nowhere")
    with pytest.raises(StudyError, match="needs one table of prompts .* and has none"):
        load_pictures(tmp_path)
    table = tmp_path / "metadata.csv"
    for text, message in {
        "file_name,said\nx.png,a\n": "has no column text, caption, prompt or the like; its columns are",
        "file_name,prompt\nx.png,\n": "metadata.csv row 1 .line 2. .x.png. has an empty caption",
        "file_name,prompt\n": "has no rows",
        "file_name,prompt\nx.png,a\n": "lists x.png, which is not there",
        "file_name,prompt\nbad.png,a\n": "cannot be read as an image",
        "file_name,prompt,image\ny.png,a,0\nz.png,a,0\n": "has image 0 of 'a' twice .y.png, z.png.",
    }.items():
        table.write_text(text)
        for name in ("y.png", "z.png"):
            Image.new("RGB", (8, 8)).save(tmp_path / name)
        (tmp_path / "bad.png").write_bytes(b"no image")
        with pytest.raises(StudyError, match=message):
            load_pictures(tmp_path)
