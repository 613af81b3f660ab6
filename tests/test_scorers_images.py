"""Preprocessing of images, pinned by values that the original code gave (torchvision 0.28, hpsv2 1.2.0, transformers 4.40)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from selfimprove.scorers import ScorerError
from selfimprove.scorers.clip import processor_pixels
from selfimprove.scorers.images import crop_square, eight_bit, fit_square, squares, to_rgb

SIZE = 16
GOLDEN = {  # (width, height): mean, standard deviation and four values of each way
    (37, 24): {
        "crop": [0.216045, 0.904343, -1.047743, 1.42955, 1.534434, -0.098845],
        "fit": [-0.513764, 1.078406, -1.792263, 0.965493, -1.48022, -1.104676],
        "clip": [0.216045, 0.904343, -1.047743, 1.42955, 1.534434, -0.098845],
    },
    (19, 16): {  # an odd number of columns to cut: the two crops differ
        "crop": [0.218335, 1.057328, -1.587885, 2.02986, 0.211968, 0.820856],
        "fit": [-0.136022, 1.146014, -1.792263, 1.037004, -1.48022, 0.708612],
        "clip": [0.215907, 1.051405, -1.690073, 1.849767, -0.100873, 0.601879],
    },
    (8, 5): {
        "crop": [-0.406838, 0.618835, -1.704672, -0.491445, 1.065172, -1.135333],
        "fit": [-0.869257, 0.819732, -1.792263, -0.540878, -1.48022, -1.196464],
        "clip": [-0.406838, 0.618835, -1.704672, -0.491445, 1.065172, -1.135333],
    },
}


def picture(width: int, height: int) -> Image.Image:
    y, x, c = np.mgrid[:height, :width, :3]
    return Image.fromarray(((7 * x + 13 * y + 31 * c + x * y) % 256).astype(np.uint8))


def processor_folder(folder: Path, size: int) -> Path:
    settings = {"size": {"shortest_edge": size}, "crop_size": size, "image_processor_type": "CLIPImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("size", sorted(GOLDEN))
@pytest.mark.parametrize("way", ["crop", "fit", "clip"])
def test_preprocessing_gives_the_originals_pixels(size: tuple[int, int], way: str, tmp_path: Path) -> None:
    if way == "clip":
        pixels = processor_pixels(processor_folder(tmp_path, SIZE))([picture(*size)])[0]
    else:
        pixels = squares([picture(*size)], crop_square if way == "crop" else fit_square, SIZE)[0]
    values = [pixels.mean(), pixels.std(), pixels[0, 0, 0], pixels[1, 5, 11], pixels[2, 15, 15], pixels[0, 8, 3]]
    assert torch.allclose(torch.stack(values), torch.tensor(GOLDEN[size][way]), atol=2e-6)


def test_images_of_any_shape_become_squares() -> None:
    for size in ((1, 1), (10000, 10), (3, 700)):
        for fit in (crop_square, fit_square):
            assert squares([Image.new("RGB", size, "white")], fit, SIZE).shape == (1, 3, SIZE, SIZE)
    assert fit_square(Image.new("RGB", (10000, 10), "white"), SIZE).amax((0, 2)).count_nonzero() == 1  # one row is kept
    unpadded = fit_square(Image.new("RGB", (SIZE, 6), "white"), SIZE)  # no resizing, yet padding
    assert unpadded.shape == (3, SIZE, SIZE)
    assert (unpadded == 1).float().mean() == 6 / SIZE


def test_modes_become_rgb_as_published_code_does() -> None:
    assert to_rgb(Image.new("L", (1, 1), 77)).getpixel((0, 0)) == (77, 77, 77)
    assert to_rgb(Image.new("RGBA", (1, 1), (200, 10, 5, 0))).getpixel((0, 0)) == (200, 10, 5)  # alpha is dropped
    for mode in ("I;16", "I;16B", "I"):
        assert to_rgb(Image.new(mode, (1, 1), 32896)).getpixel((0, 0)) == (128, 128, 128)  # PIL alone would make this white
    assert to_rgb(Image.new("1", (1, 1), 1)).getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(ScorerError, match="mode F"):
        to_rgb(Image.new("F", (1, 1)))


def test_tensors_become_what_a_saved_image_holds() -> None:
    values = torch.tensor([0.0, 0.5 / 255, 100.4 / 255, 100.6 / 255, 1.0]).expand(1, 3, 1, 5)
    assert [eight_bit(values)[0].getpixel((x, 0))[0] for x in range(5)] == [0, 0, 100, 101, 255]
    assert [eight_bit(values, torch.floor)[0].getpixel((x, 0))[0] for x in range(5)] == [0, 0, 100, 100, 255]
