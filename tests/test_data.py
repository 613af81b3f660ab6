import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_images
from PIL import Image

from selfimprove.data import DataError, fitted, load_data, open_image
from selfimprove.shapes.captions import HELD_OUT, SCENES

SIZE = (16, 16)


def load(folder: Path | str, samples: int = 20, seed: int = 0) -> object:
    return load_data(str(folder), samples, 4, 10, SIZE, seed)


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def write_rows(folder: Path, entries: list[dict]) -> None:
    (folder / "metadata.jsonl").write_text("".join(json.dumps(r) + "\n" for r in entries))


def test_missing_empty_and_without_metadata(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="names nothing; give 'shapes' or a folder"):
        load("")
    with pytest.raises(DataError, match="there is no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"is empty; put images and a metadata.jsonl"):
        load(tmp_path)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"has no metadata.jsonl or metadata.csv; write one row an image"):
        load(tmp_path)
    (tmp_path / "metadata.jsonl").write_text("")
    with pytest.raises(DataError, match="has no rows"):
        load(tmp_path)
    (tmp_path / "metadata.jsonl").write_text("{nonsense\n")
    with pytest.raises(DataError, match="holds a line that is no JSON"):
        load(tmp_path)


def test_metadata_naming_a_missing_file(images: Path) -> None:
    write_rows(images, [*rows(images), {"file_name": "gone.png", "text": "gone"}])
    with pytest.raises(DataError, match=r"row 31 names 'gone.png', which is not in the folder; add it or remove the row"):
        load(images)


def test_empty_caption(images: Path) -> None:
    entries = rows(images)
    entries[4]["text"] = "  "
    write_rows(images, entries)
    with pytest.raises(DataError, match=r"row 5 \(004.png\) has an empty caption"):
        load(images)
    del entries[4]["text"]
    write_rows(images, entries)
    with pytest.raises(DataError, match="row 5 lacks file_name or text"):
        load(images)


def test_one_truncated_image_in_a_hundred_is_skipped_and_named(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "many", 100)
    broken = folder / "042.png"
    broken.write_bytes(broken.read_bytes()[:200])
    data = load(folder, samples=200)
    assert data.skipped == ["042.png"]
    assert len(data.captions) == 99
    assert (len(data.train), len(data.validation)) == (90, 4)  # nine are kept out: for 10 evaluation prompts, a tenth at the most


def test_what_is_kept_out_is_judged_on_and_the_same_for_every_seed(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "many", 100)
    write_rows(folder, [row | {"text": f"picture {i}"} for i, row in enumerate(rows(folder))])
    first, other = load(folder, 20, 0), load(folder, 20, 1)
    assert first.evaluation == other.evaluation
    assert first.validation == other.validation
    assert len({prompt for prompt, _ in first.evaluation}) == 10
    assert set(first.train) != set(other.train)
    for data in (first, other):
        assert not {data.captions[i] for i in data.train} & {prompt for prompt, _ in data.evaluation}
        assert {data.captions[i] for i in data.validation} <= {prompt for prompt, _ in data.evaluation}


def test_all_images_unreadable(images: Path) -> None:
    for path in images.glob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="30 of 30 images cannot be read; at least 2 must be readable"):
        load(images)


def test_csv_works_like_jsonl(images: Path) -> None:
    expected = load(images)
    lines = ["file_name,text", *(f'{r["file_name"]},"{r["text"]}"' for r in rows(images))]
    (images / "metadata.jsonl").unlink()
    (images / "metadata.csv").write_text("\n".join(lines))
    assert load(images).captions == expected.captions


def test_split_is_disjoint_and_seeded(images: Path) -> None:
    data = load(images)
    assert not set(data.train) & set(data.validation)
    assert load(images).train == data.train
    assert load(images, seed=1).train != data.train
    assert len(set(data.ids)) == len(data.ids)
    assert len(set(data.evaluation)) == 10
    (images / "007.png").write_bytes((images / "008.png").read_bytes())
    assert load(images).fingerprint != data.fingerprint


def test_every_mode_becomes_rgb_of_the_right_brightness(tmp_path: Path) -> None:
    grey = np.full((30, 20), 128, dtype=np.uint8)
    made = {
        "L": Image.fromarray(grey),
        "RGB": Image.fromarray(np.stack([grey] * 3, -1)),
        "LA": Image.fromarray(np.stack([grey, grey * 0 + 255], -1)),
        "RGBA": Image.fromarray(np.stack([grey] * 3 + [grey * 0 + 255], -1)),
        "P": Image.fromarray(grey).convert("P"),
        "I;16": Image.fromarray(grey.astype(np.uint16) * 257),
        "CMYK": Image.fromarray(np.stack([grey] * 3, -1)).convert("CMYK"),
        "1": Image.fromarray(np.full((30, 20), 255, dtype=np.uint8)).convert("1"),
    }
    for mode, image in made.items():
        assert image.mode == mode
        path = tmp_path / f"{mode.replace(';', '')}.{'tiff' if mode == 'CMYK' else 'png'}"
        image.save(path)
        tensor = open_image(path, (16, 24))
        assert tensor.shape == (3, 16, 24)
        expected = 1.0 if mode == "1" else 128 / 255
        assert torch.allclose(tensor, torch.full_like(tensor, expected), atol=0.01), mode
    clear = Image.fromarray(np.zeros((8, 8, 4), dtype=np.uint8))
    clear.save(tmp_path / "clear.png")
    assert torch.equal(open_image(tmp_path / "clear.png", (4, 4)), torch.ones(3, 4, 4))  # transparent means white
    assert fitted(Image.new("I;16", (4, 4), 255), (4, 4)).max() < 0.01  # a dark image of 16 bits, not a white one of 8
    with pytest.raises(ValueError, match="mode F"):
        fitted(Image.new("F", (4, 4)), (4, 4))


def test_centre_crop_keeps_the_proportions(tmp_path: Path) -> None:
    pixels = np.zeros((10, 30, 3), dtype=np.uint8)
    pixels[:, 10:20] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert open_image(tmp_path / "wide.png", (10, 10)).min() > 0.9


def test_shapes_data() -> None:
    data = load_data("shapes", 12, 4, 20, (64, 64), seed=0)
    assert data.images([0, 5]).shape == (2, 3, 64, 64)
    assert data.scenes is not None
    held_out = {tuple(s) for s in SCENES[HELD_OUT].tolist()}
    assert all(all(c.stated) and c.scene not in held_out for c in data.scenes)
    other = load_data("shapes", 12, 4, 20, (64, 64), seed=1)
    assert other.evaluation == data.evaluation  # one evaluation for all training seeds
    assert other.captions != data.captions
    assert data.fetch_fresh is not None
    assert not torch.equal(data.fetch_fresh(0), data.fetch(0))
