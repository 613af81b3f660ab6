"""Films: strips are cut where they were put together, words and numbers belong to their pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selfimprove.evaluation.round_figures import image_grid
from selfimprove_lab.figures.mixture_films import noised_densities, noising_film, step_margins, total_variation, weight_film
from selfimprove_lab.figures.network_films import above, cells, collapse_film, denoising_film, rounds_film, tile

RESULTS = Path(__file__).parent.parent / "book" / "results"


def solid(colour: tuple[int, int, int], size: tuple[int, int] = (20, 20)) -> Image.Image:
    return Image.new("RGB", size, colour)


def test_a_strip_is_cut_into_its_pictures(tmp_path: Path) -> None:
    """What `image_grid` draws comes back, row by row, without its labels."""
    colours = [[(40 * k, 80 * j, 128) for j in range(3)] for k in range(4)]
    for k, row in enumerate(colours):
        (tmp_path / str(k) / "images").mkdir(parents=True)
        for j, colour in enumerate(row):
            solid(colour).save(tmp_path / str(k) / "images" / f"{j:03d}.png")
    figure = image_grid([tmp_path / str(k) for k in range(4)], ["base", "round 1", "round 2", "round 3"])
    figure.savefig(tmp_path / "strip.png", dpi=130)
    found = cells(tmp_path / "strip.png")
    assert [len(row) for row in found] == [3] * 4
    assert len({picture.size for row in found for picture in row}) == 1
    middle = [[picture.getpixel((picture.width // 2, picture.height // 2)) for picture in row] for row in found]
    assert np.abs(np.array(middle) - np.array(colours)).max() <= 2


def test_what_is_no_strip_is_refused(tmp_path: Path) -> None:
    solid((255, 255, 255)).save(tmp_path / "white.png")
    with pytest.raises(ValueError, match="holds no grid of pictures"):
        cells(tmp_path / "white.png")
    uneven = Image.new("RGB", (60, 20), "white")
    uneven.paste(solid((0, 0, 0)), (0, 0))
    uneven.paste(solid((0, 0, 0), (30, 20)), (30, 0))
    uneven.save(tmp_path / "uneven.png")
    with pytest.raises(ValueError, match="not of one size"):
        cells(tmp_path / "uneven.png")


def test_sheets_keep_the_order() -> None:
    sheet = tile([solid((60 * i, 0, 0)) for i in range(4)], 2)
    assert sheet.size == (43, 43)
    assert [sheet.getpixel(at)[0] for at in ((5, 5), (30, 5), (5, 30), (30, 30))] == [0, 60, 120, 180]
    both = above(solid((1, 0, 0)), solid((2, 0, 0)), 10)
    assert (both.size, both.getpixel((0, 19)), both.getpixel((0, 25)), both.getpixel((0, 30))) == (
        (20, 50), (1, 0, 0), (255, 255, 255), (2, 0, 0),
    )  # fmt: skip


def test_rounds_carry_what_was_measured() -> None:
    film = rounds_film(RESULTS / "spin_shapes", "spin")
    assert list(film.axes) == ["training seed", "round"]
    assert len(film.frames) == len(film.descriptions) == len(film.notes) == len(film.axes["training seed"]) * 4
    measured = json.loads((RESULTS / "spin_shapes" / "spin-1.json").read_text())["rounds"][2]["oracle"]["quality"]["mean"]
    place = film.axes["training seed"].index("1") * 4 + 2
    assert film.notes[place].startswith(f"Seed 1, round 2: quality {measured:.3f}")
    assert "little cyan circle" in film.descriptions[place]


def test_collapse_has_no_care_above_and_the_cure_below() -> None:
    film = collapse_film(RESULTS / "rsi_collapse", ["gentle", "not-run"])
    assert film.axes["below"] == ["+ gentle learning rate"]
    halves = [np.asarray(frame).astype(float) for frame in film.frames]
    height = (halves[0].shape[0] - 18) // 2
    apart = [np.abs(h[:height] - h[-height:]).mean() for h in halves]
    assert apart[0] < 1  # the same base model
    assert apart[-1] > 20
    with pytest.raises(ValueError, match="shows 4 rounds, not 2"):
        collapse_film(RESULTS / "rsi_collapse", ["gentle"], (0, 1))


def test_the_last_step_is_the_strip_of_the_base_model() -> None:
    """The film draws what every evaluation draws: its end is the first row of the exported strip, up to that strip's enlargement."""
    prompts = json.loads((RESULTS / "spin_shapes" / "prompts.json").read_text())[:2]
    end = np.asarray(denoising_film("shapes", prompts, width=64).frames[-1]).astype(float)
    strip = cells(RESULTS / "spin_shapes" / "spin-0.png")[0][:2]
    expected = np.asarray(tile([p.resize((64, 64), Image.Resampling.BICUBIC) for p in strip], 2)).astype(float)
    assert np.abs(end[:64] - expected).mean() < 4
    assert np.array_equal(end[:64], end[-64:])


def test_noise_hides_the_condition() -> None:
    film = noising_film([0, 50, 100])
    chances = [int(note.split()[-4]) for note in film.notes]
    assert chances[0] > 80 > chances[1] > chances[2] == 50
    density = noised_densities([1.0])[0]
    assert total_variation(density) == pytest.approx(total_variation(density[::-1]))
    assert density.sum((1, 2)) * (9 / 120) ** 2 == pytest.approx([1, 1], abs=1e-3)  # the plane that is looked at holds the mass


def test_a_larger_beta_listens_to_fewer() -> None:
    film = weight_film([5], [1.0, 100.0, 10_000.0], 60)
    shares = [int(note.split()[-5]) for note in film.notes]
    assert shares[0] == 10  # at a small beta all count alike
    assert shares[0] < shares[1] < shares[2]
    known, margins = step_margins(3)
    assert margins.shape == (20, 3)
    with pytest.raises(ValueError, match=f"t=21 is no step of the path; give some of {min(known)} to {max(known)}"):
        weight_film([21], [1.0])
