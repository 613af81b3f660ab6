import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_images
from PIL import Image

from selfimprove.data.images import DataError, ImageText, load_data, shapes_prompts
from selfimprove.data.opening import fitted
from selfimprove.shapes.captions import HELD_OUT, SCENES

SIZE = (16, 16)


def load(folder: Path | str, samples: int = 20, seed: int = 0, part: str = "test") -> ImageText:
    return load_data(str(folder), samples, 4, 10, SIZE, seed, part)


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def write_rows(folder: Path, entries: list[dict]) -> None:
    (folder / "metadata.jsonl").write_text("".join(json.dumps(r) + "\n" for r in entries))


def test_missing_empty_and_without_metadata(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="names nothing; give 'shapes' or a folder"):
        load("")
    with pytest.raises(DataError, match="there is no such file or folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"is empty; put images and a metadata.jsonl"):
        load(tmp_path)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"has no metadata.jsonl or metadata.csv; it has a.png; write one row an image"):
        load(tmp_path)
    (tmp_path / "metadata.jsonl").write_text("")
    with pytest.raises(DataError, match="has no rows"):
        load(tmp_path)
    (tmp_path / "metadata.jsonl").write_text("{nonsense\n")
    with pytest.raises(DataError, match="holds a line that is no JSON"):
        load(tmp_path)


def test_metadata_naming_a_missing_file(images: Path) -> None:
    write_rows(images, [*rows(images), {"file_name": "gone.png", "text": "gone"}])
    data = load(images)
    assert data.skipped == ["gone.png: named in metadata.jsonl row 31, but not in the folder"]
    assert len(data.captions) == 30


def test_empty_caption(images: Path) -> None:
    entries = rows(images)
    entries[4]["text"] = "  "
    write_rows(images, entries)
    with pytest.raises(DataError, match=r"row 5 \(004.png\) has an empty caption"):
        load(images)
    del entries[4]["text"]
    write_rows(images, entries)
    with pytest.raises(DataError, match=r"row 5 \(004.png\) lacks 'text'; both file_name and text are needed"):
        load(images)


def test_one_truncated_image_in_a_hundred_is_skipped_and_named(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "many", 100)
    broken = folder / "042.png"
    broken.write_bytes(broken.read_bytes()[:200])
    data = load(folder, samples=200)
    assert [text.partition(":")[0] for text in data.skipped] == ["042.png"]
    assert "truncated" in data.skipped[0]
    assert len(data.captions) == 99
    shown = [
        data.captions.count(caption) for caption in {p for p, _ in load(folder).evaluation + load(folder, part="validation").evaluation}
    ]
    assert len(shown) == 2  # of seven captions one each: a tenth would be less
    assert len(data.train) == 99 - sum(shown)
    assert len(data.validation) == 4


def parts(folder: Path, seed: int = 0) -> tuple[set[str], set[str], set[str]]:
    """Captions trained on (as many as there are), those of validation, those of the test."""
    chosen = load(folder, 1000, seed, "validation")
    return ({chosen.captions[i] for i in chosen.train}, {p for p, _ in chosen.evaluation}, {p for p, _ in load(folder, 1, seed).evaluation})


def test_three_parts_share_no_caption_and_are_the_same_for_every_seed(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "many", 100)
    write_rows(folder, [row | {"text": f"picture {i}"} for i, row in enumerate(rows(folder))])
    train, validation, test = parts(folder)
    assert (len(train), len(validation), len(test)) == (90, 5, 5)  # ten were asked for in each; kept out is a tenth
    assert train | validation | test == {f"picture {i}" for i in range(100)}
    assert parts(folder, seed=1) == (train, validation, test)
    first, other = load(folder, 20, 0), load(folder, 20, 1, "validation")
    assert set(first.train) != set(other.train)
    assert first.validation == other.validation
    assert load(folder, 20, 0, "validation").train == first.train  # what is trained on does not depend on who judges
    assert {first.captions[i] for i in first.validation} < validation
    assert first.fingerprint == other.fingerprint


def test_a_caption_of_many_images_is_trained_on(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "many", 100)
    write_rows(folder, [row | {"text": "the usual" if i < 60 else f"picture {i}"} for i, row in enumerate(rows(folder))])
    train, validation, test = parts(folder)
    assert "the usual" in train
    assert (len(validation), len(test)) == (2, 2)  # a twentieth of the captions each


def test_images_that_share_captions_are_split_one_by_one(tmp_path: Path) -> None:
    """With two captions nothing would be left to train on."""
    folder = write_images(tmp_path / "few", 40)
    write_rows(folder, [row | {"text": f"picture {i % 2}"} for i, row in enumerate(rows(folder))])
    data = load(folder, 100)
    assert len(data.train) == 36
    assert len(data.validation) == 2
    assert not set(data.train) & set(data.validation)


def test_too_few_images_to_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2 of 2 images can be read; at least 3 are needed, to train on, to validate and to test by"):
        load(write_images(tmp_path / "two", 2))
    data = load(write_images(tmp_path / "three", 3))
    assert (len(data.train), len(data.validation)) == (1, 1)
    with pytest.raises(DataError, match="evaluation_part='train' is not known; choose one of .'test', 'validation'."):
        load(tmp_path / "three", part="train")


def test_all_images_unreadable(images: Path) -> None:
    for path in images.glob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"0 of 30 images can be read \(000.png: no image of a known format\); at least 3 are needed"):
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
        tensor = fitted(path.read_bytes(), (16, 24))
        assert tensor.shape == (3, 16, 24)
        expected = 1.0 if mode == "1" else 128 / 255
        assert torch.allclose(tensor, torch.full_like(tensor, expected), atol=0.01), mode
    clear = Image.fromarray(np.zeros((8, 8, 4), dtype=np.uint8))
    clear.save(tmp_path / "clear.png")
    assert torch.equal(fitted((tmp_path / "clear.png").read_bytes(), (4, 4)), torch.ones(3, 4, 4))  # transparent means white
    Image.new("I;16", (4, 4), 255).save(tmp_path / "dark.png")
    assert fitted((tmp_path / "dark.png").read_bytes(), (4, 4)).max() < 0.01  # a dark image of 16 bits, not a white one of 8
    Image.new("F", (4, 4)).save(tmp_path / "floats.tiff")
    with pytest.raises(DataError, match="mode F"):
        fitted((tmp_path / "floats.tiff").read_bytes(), (4, 4))


def test_centre_crop_keeps_the_proportions(tmp_path: Path) -> None:
    pixels = np.zeros((10, 30, 3), dtype=np.uint8)
    pixels[:, 10:20] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert fitted((tmp_path / "wide.png").read_bytes(), (10, 10)).min() > 0.9


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


def test_shapes_are_judged_by_other_prompts_on_validation() -> None:
    """The test's prompts and the identity of the data are those of all runs there are."""
    data, chosen = (load_data("shapes", 12, 4, 20, (64, 64), 0, part) for part in ("test", "validation"))
    assert data.fingerprint == chosen.fingerprint == "shapes winners 12+4"
    assert data.evaluation[0] == ("little cyan circle, black background", 0)
    assert [p for p, _ in chosen.evaluation] == [c.text for c in shapes_prompts(20, stream="validation")]
    assert len({p for p, _ in data.evaluation} & {p for p, _ in chosen.evaluation}) == 1  # of thousands of phrasings one is drawn twice
    assert chosen.scenes is not None
    assert [c.text for c in chosen.scenes] == [p for p, _ in chosen.evaluation]
    assert (chosen.train, chosen.validation, chosen.captions) == (data.train, data.validation, data.captions)
