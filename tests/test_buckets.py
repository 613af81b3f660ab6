"""Aspect-ratio buckets: images to train on keep their shape, and the opponent draws in the shape of its partner."""

import json
import math
from collections import Counter
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from test_pairs import row as labelled
from test_pairs import shard
from test_rounds import PRESET, prepared_run
from test_stages import SCORERS
from test_stages import SETTINGS as RECURSION
from torch import Tensor

from selfimprove import draws, stages, train
from selfimprove.batches import TrainingSet
from selfimprove.config import Settings
from selfimprove.data.buckets import bucket_sizes, frame
from selfimprove.data.images import load_data
from selfimprove.data.latents import SHAPE, SHARD, Store, build_store
from selfimprove.data.opening import ORIENTATION
from selfimprove.errors import ArgumentError
from selfimprove.files import DamagedFileError
from selfimprove.models.pipeline import load_diffuser
from selfimprove.models.resolution import at_resolution, least_step
from selfimprove.models.weights import ModelError, model_hash
from selfimprove.opponent import LiveOpponent
from selfimprove.planning.plan import mean_area, plan
from selfimprove.presets import Preset
from selfimprove.rollout import rollout
from selfimprove.rounds import play
from selfimprove.run import Run, set_up

SHAPES = ((40, 40), (88, 48), (48, 88), (20, 80), (72, 64))  # (width, height): square, landscape, portrait, tall, nearly square
BUCKETS = [(16, 16), (12, 20), (20, 12), (32, 8), (16, 16)]  # (height, width)
MIXED = PRESET.changed(aspect_ratio_buckets=True)


def write_mixed(folder: Path, count: int = 30) -> Path:
    """A folder of images of `SHAPES` in turn."""
    folder.mkdir(parents=True)
    rows = []
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (*SHAPES[i % 5][::-1], 3), np.uint8)
        Image.fromarray(pixels).resize(SHAPES[i % 5], Image.Resampling.BILINEAR, reducing_gap=None).save(folder / f"{i:03d}.png")
        rows.append(json.dumps({"file_name": f"{i:03d}.png", "text": f"picture {i}"}))
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    return folder


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    return write_mixed(tmp_path / "mixed")


def number(run: Run, row: int) -> int:
    """The number of a row's image among those of `write_mixed`."""
    return int(run.data.captions[row].split()[1])


# Sizes.


@pytest.mark.parametrize(("size", "least"), [((512, 512), 64), ((768, 768), 64), ((1024, 1024), 32), ((1024, 1024), 16), ((64, 64), 16)])
def test_buckets_are_of_about_one_area(size: tuple[int, int], least: int) -> None:
    sizes = bucket_sizes(size, least)
    assert sizes[0] == size
    assert len(sizes) == len(set(sizes)) <= 33
    assert {(width, height) for height, width in sizes} == set(sizes)
    for height, width in sizes:
        assert height % least == width % least == 0
        assert 0.75 * math.prod(size) <= height * width <= math.prod(size)
        assert size[0] / 2 <= min(height, width) <= max(height, width) <= 2 * size[0]


def test_the_buckets_are_those_of_other_trainers() -> None:
    """sd-scripts makes these of 512 pixels in steps of 64; Stability's list for XL has these of 1,024."""
    assert {(448, 576), (384, 640), (320, 768), (256, 1024)} < set(bucket_sizes((512, 512), 64))
    assert {(896, 1152), (832, 1216), (768, 1344), (640, 1536)} < set(bucket_sizes((1024, 1024), 32))


def test_an_image_goes_where_least_is_lost() -> None:
    sizes = bucket_sizes((512, 512), 64)
    assert frame((3000, 4000), sizes).size == (448, 576)
    assert frame((4000, 3000), sizes).size == (576, 448)
    assert frame((1080, 1920), sizes) == ((1080, 1920), (384, 640))
    assert frame((1080, 1920), sizes).crop == (0, 21)
    assert frame((100, 5000), sizes).size == (256, 1024)
    for shape in [(300, 900), (1080, 1920), (2000, 2100)]:
        assert frame(shape, sizes).left >= max(frame(shape, [size]).left for size in sizes) - 0.1
        assert frame(shape, sizes).left >= frame(shape, sizes[:1]).left


# Images.


def test_images_are_scaled_and_cut_as_plain_pillow_does(mixed: Path) -> None:
    data = load_data(str(mixed), 100, 3, 5, (16, 16), 0, buckets=bucket_sizes((16, 16), 4))
    for row in data.train:
        i = int(data.captions[row].split()[1])
        height, width = data.frames[row].size
        assert (height, width) == BUCKETS[i % 5]
        image = Image.open(mixed / f"{i:03d}.png")
        scale = max(height / image.height, width / image.width)
        scaled = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        top, left = data.frames[row].crop
        assert (top, left) == ((scaled.height - height) // 2, (scaled.width - width) // 2)
        wanted = np.asarray(scaled.crop((left, top, left + width, top + height)), np.float32) / 255
        assert data.fetch(row).shape == (3, height, width)
        assert np.abs(data.fetch(row).permute(1, 2, 0).numpy() - wanted).max() <= 1.5 / 255
        assert data.frames[row].original == (image.height, image.width)
    assert {data.frames[row].size for row in data.validation} == {(16, 16)}


def test_the_account_says_how_many_are_in_each_bucket(mixed: Path) -> None:
    data = load_data(str(mixed), 20, 3, 5, (16, 16), 0, buckets=bucket_sizes((16, 16), 4))
    count = Counter(data.frames[row].size for row in data.train)
    said = ", ".join(f"{count[h, w]} of {w} x {h}" for h, w in sorted(count))
    assert any(
        line.startswith(f"images to train on by aspect-ratio bucket, width x height: {said}; the crop leaves 9") for line in data.notes
    )
    assert {data.frames[row].size for row in {*range(30)} - {*data.train}} == {(16, 16)}, "others are judged by, at the default size"
    plain = load_data(str(mixed), 20, 3, 5, (16, 16), 0)
    assert not [line for line in plain.notes if "bucket" in line]
    assert {each.size for each in plain.frames} == {(16, 16)}
    assert plain.fingerprint == data.fingerprint


def test_small_images_are_enlarged_and_said_to_be(mixed: Path) -> None:
    Image.new("RGB", (10, 6), "red").save(mixed / "000.png")
    data = load_data(str(mixed), 100, 3, 5, (16, 16), 0, buckets=bucket_sizes((16, 16), 4))
    assert any(line.startswith("1 images are smaller than ") and line.endswith("enlarged: 000.png (10 x 6)") for line in data.notes)


def test_a_photograph_held_upright_is_upright(mixed: Path) -> None:
    image = Image.open(mixed / "001.png")  # landscape, as a sensor has it
    exif = image.getexif()
    exif[ORIENTATION] = 6
    image.save(mixed / "001.png", exif=exif)
    data = load_data(str(mixed), 100, 3, 5, (16, 16), 0, buckets=bucket_sizes((16, 16), 4))
    row = data.captions.index("picture 1")
    assert row in data.train
    assert data.frames[row] == ((88, 48), (20, 12))
    assert data.fetch(row).shape == (3, 20, 12)


# Stores.


def latents(row: int) -> Tensor:
    height, width = BUCKETS[row % 4]
    return torch.full((4, height, width), float(row)) + torch.arange(width)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_rows_of_different_shapes_come_back_as_they_were(tmp_path: Path, dtype: torch.dtype) -> None:
    rows = SHARD + 5
    store = build_store(tmp_path, rows, lambda part: {"mean": [latents(i) for i in part], "std": [-latents(i) for i in part]}, "", dtype)
    for row in (0, 1, 2, 3, SHARD - 1, SHARD, rows - 1):
        assert store.shape(row) == tuple(latents(row).shape)
        assert torch.equal(store.take("mean", [row])[0], latents(row))
        assert torch.equal(store.take("std", [row])[0], -latents(row))
    assert store.take("mean", [1, 5, SHARD + 1]).shape == (3, 4, *BUCKETS[1])


def test_a_store_of_one_shape_is_what_it_was(tmp_path: Path) -> None:
    """Caches and runs made before are read on."""
    stacked = torch.arange(24.0).view(2, 3, 2, 2)
    for name, made in {"stacked": stacked, "in rows": list(stacked)}.items():
        store = build_store(tmp_path / name, 2, lambda _, made=made: {"mean": made}, "")  # type: ignore[misc]
        assert store.digest().startswith("bab0ce5b1a69c21c")  # as before rows could differ
        assert list(load_file(tmp_path / name / "00000.safetensors")) == ["mean"]


def test_exchanged_sides_are_noticed(tmp_path: Path) -> None:
    build_store(tmp_path, 4, lambda part: {"mean": [latents(i) for i in part]}, "")
    path = tmp_path / "00000.safetensors"
    tensors = load_file(path)
    tensors[SHAPE] = tensors[SHAPE][:, [0, 2, 1]]
    save_file(tensors, path, {"content": json.loads((tmp_path / "store.json").read_text())["shards"][0]})
    with pytest.raises(DamagedFileError, match="holds other tensors than were written"):
        Store(tmp_path)


# Rounds.


def test_the_opponent_draws_in_the_shape_of_its_partner(tiny: Path, mixed: Path, tmp_path: Path) -> None:
    played = prepared_run(tiny, mixed, tmp_path / "run", MIXED)
    play(played, 2)
    data, seen = played.data, set()
    for k in (1, 2):
        real, generated = Store(tmp_path / "run" / "real"), Store(tmp_path / "run" / f"round_{k}" / "rollout")
        assert pd.read_parquet(tmp_path / "run" / f"round_{k}" / "prompts.parquet")["id"].tolist() == [data.ids[row] for row in data.train]
        for place, row in enumerate(data.train):
            height, width = BUCKETS[number(played, row) % 5]
            assert real.shape(place) == generated.shape(place) == (4, height // 2, width // 2)
            seen.add((height, width))
            mean = played.diffuser.encode(data.fetch(row)[None])[0]
            assert torch.allclose(real.take("mean", [place]), mean, atol=1e-5)
    assert len(seen) == 4
    # drawn again, each alone, from the noise of its own identity and shape
    place = next(i for i, row in enumerate(data.train) if BUCKETS[number(played, row) % 5] == (12, 20))
    alone = rollout(
        played.diffuser.sized((12, 20)), played.diffuser.denoiser, played.diffuser.embed([data.captions[data.train[place]]]),
        played.diffuser.embed([""]), [data.ids[data.train[place]]], 0, "rollout", 1, 2, 2.0,
    )  # fmt: skip
    first = Store(tmp_path / "run" / "round_1" / "rollout")
    assert torch.allclose(first.take("sampled", [place]), alone, atol=1e-4)
    # what is judged is of the default size
    for store, name in (("held_out", "mean"), ("round_1/evaluation", "latent")):
        assert Store(tmp_path / "run" / store).take(name, [0]).shape == (1, 4, 8, 8)


@pytest.mark.parametrize("where", ["rollout", "training"])
def test_a_killed_run_goes_on_bit_for_bit(tiny: Path, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    preset = MIXED.changed(checkpoint_every=1, flip=True, caption_dropout=0.3, epochs=2)
    play(prepared_run(tiny, mixed, tmp_path / "whole", preset), 1)
    module, name = (stages, "sample_batches") if where == "rollout" else (train, "make_batch")
    play(prepared_run(tiny, mixed, tmp_path / "killed", preset), 0)
    actual, calls = getattr(module, name), []

    def killed(*arguments: object, **named: object) -> object:
        calls.append(1)
        if len(calls) == 3:  # among the shapes of one shard, and of one step
            raise KeyboardInterrupt
        return actual(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, killed)
        with pytest.raises(KeyboardInterrupt):
            play(prepared_run(tiny, mixed, tmp_path / "killed", preset), 1)
    play(prepared_run(tiny, mixed, tmp_path / "killed", preset), 1)
    logs = [pd.read_parquet(tmp_path / which / "round_1" / "train.parquet") for which in ("whole", "killed")]
    pd.testing.assert_frame_equal(*logs, check_exact=True)
    hashes = [model_hash(tmp_path / which / "round_1" / "pipeline") for which in ("whole", "killed")]
    assert hashes[0] == hashes[1]


def test_a_longer_training_is_as_if_asked_for_at_once(tiny: Path, mixed: Path, tmp_path: Path) -> None:
    """A round that reached four examples goes on to all: the opponent draws for the others in their shapes."""
    preset = MIXED.changed(decay=False)
    for name, lengths in {"whole": [4], "longer": [1, 4]}.items():
        for steps in lengths:
            play(prepared_run(tiny, mixed, tmp_path / name, preset.changed(steps=steps)), 1)
    logs = [pd.read_parquet(tmp_path / which / "round_1" / "train.parquet") for which in ("whole", "longer")]
    pd.testing.assert_frame_equal(*logs, rtol=1e-3, atol=1e-5)


def test_batches_change_nothing_but_rounding(tiny: Path, mixed: Path, tmp_path: Path) -> None:
    runs = {"whole": {}, "small": {"rollout_batch": 2, "micro_batch": 1}}
    found = {}
    for name, changes in runs.items():
        play(prepared_run(tiny, mixed, tmp_path / name, MIXED.changed(lr=1e-5, **changes)), 1)
        found[name] = Store(tmp_path / name / "round_1" / "rollout"), pd.read_parquet(tmp_path / name / "round_1" / "train.parquet")
    for row in range(found["whole"][0].rows):
        assert torch.allclose(found["whole"][0].take("mean", [row]), found["small"][0].take("mean", [row]), atol=1e-4)
    pd.testing.assert_frame_equal(
        found["whole"][1][["loss", "player_real"]], found["small"][1][["loss", "player_real"]], rtol=1e-3, atol=1e-4
    )


def sets(folder: Path, count: int) -> TrainingSet:
    """Examples of random latents whose shapes change in turn."""

    def rows(side: int) -> Store:
        made = [draws.normal(side, "latents", (), [str(i)], (4, *(n // 2 for n in BUCKETS[i % 4])))[0] for i in range(count)]
        return build_store(folder / str(side), count, lambda part: {name: made[part.start : part.stop] for name in ("mean", "std")}, "")

    text = build_store(folder / "text", 2, lambda part: {"text": torch.zeros(len(part), 24, 32)}, "")
    return TrainingSet(tuple(f"example {i}" for i in range(count)), [1] * count, text, rows(0), rows(1))


def test_every_image_is_trained_on_once_an_epoch_in_passes_of_one_shape(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, diffuser, seen = sets(tmp_path, 11), load_diffuser(tiny, torch.device("cpu")), []
    real = train.make_batch

    def noted(data: TrainingSet, rows: list[tuple[int, int]], *others: object) -> object:
        batch = real(data, rows, *others)  # type: ignore[arg-type]
        assert {data.real.shape(row) for row, _ in rows} == {tuple(batch.noisy.shape[1:])}
        assert len(rows) <= 3
        seen.extend(rows)
        return batch

    monkeypatch.setattr(train, "make_batch", noted)
    settings = Settings(samples=11, batch=6, micro_batch=3, epochs=6)
    player = diffuser.load_denoiser(diffuser.folder)
    log = train.train(player, LiveOpponent(diffuser.denoiser), data, diffuser.schedule, settings, 0, 1, tmp_path / "work")
    assert len(log) == 11  # 66 examples
    assert Counter(seen) == {(row, epoch): 1 for row in range(11) for epoch in range(6)}


def test_a_step_is_the_mean_over_its_examples_whatever_their_shapes(tiny: Path, tmp_path: Path) -> None:
    data, diffuser = sets(tmp_path, 8), load_diffuser(tiny, torch.device("cpu"))
    settings = Settings(samples=8, batch=8, steps=1, beta=5.0)
    logs = []
    for size in (0, 1):
        player = diffuser.load_denoiser(diffuser.folder)
        opponent = LiveOpponent(diffuser.denoiser)
        with torch.no_grad():
            player.conv_out.bias.add_(0.3)
        chosen = replace(settings, micro_batch=size)
        logs.append(train.train(player, opponent, data, diffuser.schedule, chosen, 0, 1, tmp_path / f"work {size}"))
    pd.testing.assert_frame_equal(*logs, rtol=1e-4)


def test_precomputed_errors_of_different_shapes_are_the_live_ones(tiny: Path, mixed: Path, tmp_path: Path) -> None:
    preset = MIXED.changed(rollout_batch=3, steps=4)
    play(set_up(preset, "test", str(tiny), str(mixed), tmp_path / "live", 0, "cpu"), 1)
    play(set_up(preset, "test", str(tiny), str(mixed), tmp_path / "read", 0, "cpu", opponent_cache=tmp_path / "cache"), 1)
    logs = [pd.read_parquet(tmp_path / name / "round_1" / "train.parquet") for name in ("live", "read")]
    pd.testing.assert_frame_equal(*logs, rtol=1e-2, atol=1e-3)
    with pytest.raises(ValueError, match="aspect_ratio_buckets"):
        play(
            set_up(
                preset.changed(aspect_ratio_buckets=False),
                "test",
                str(tiny),
                str(mixed),
                tmp_path / "x",
                0,
                "cpu",
                opponent_cache=tmp_path / "cache",
            ),
            1,
        )


@pytest.mark.parametrize("changes", [{"objective": "sft"}, {"generated_latents": "raw", "flip": True}])
def test_other_objectives_take_shapes_too(tiny: Path, mixed: Path, tmp_path: Path, changes: dict) -> None:
    played = prepared_run(tiny, mixed, tmp_path / "run", MIXED.changed(**changes))
    play(played, 1)
    real = Store(tmp_path / "run" / "real")
    assert len({real.shape(row) for row in range(real.rows)}) == 4


def test_the_loser_of_a_pair_has_the_winners_shape(tiny: Path, tmp_path: Path) -> None:
    """Each loser is as wide as its winner is high."""

    def noise(i: int, size: tuple[int, int]) -> bytes:
        stream = BytesIO()
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8)).save(stream, "PNG")
        return stream.getvalue()

    images = [{"jpg_0": noise(i, SHAPES[i % 5][::-1]), "jpg_1": noise(99 + i, SHAPES[i % 5])} for i in range(30)]
    folder = shard(tmp_path / "pairs", [labelled(0, 0, 1.0, caption=f"picture {i}", **both) for i, both in enumerate(images)])
    played = prepared_run(tiny, folder, tmp_path / "run", MIXED.changed(generated_source="loser", opponent="base"))
    play(played, 1)
    real, generated = Store(tmp_path / "run" / "real"), Store(tmp_path / "run" / "round_1" / "rollout")
    shapes = [real.shape(place) for place in range(real.rows)]
    assert shapes == [generated.shape(place) for place in range(real.rows)]
    assert shapes == [(4, *(side // 2 for side in BUCKETS[number(played, i) % 5])) for i in played.data.train]
    assert any("lose more than half to the crop" in note for note in played.data.notes)


def test_real_images_of_recursion_keep_their_shape(tiny: Path, mixed: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"a star number {i}" for i in range(40)))
    preset = Preset("", "", replace(RECURSION, real_samples=5, aspect_ratio_buckets=True))
    played = set_up(preset, "test", str(tiny), str(mixed), tmp_path / "run", 0, "cpu", str(prompts), scorers=SCORERS)
    play(played, 1)
    selected = Store(tmp_path / "run" / "round_1" / "selected")
    wanted = [(4, *(side // 2 for side in played.data.frames[i].size)) for i in played.data.train_rows(5)]
    assert [selected.shape(i) for i in range(selected.rows)] == [(4, 8, 8)] * (selected.rows - 5) + wanted
    assert len(set(wanted)) > 2


def test_a_cache_keeps_sizes_apart(tiny: Path, mixed: Path, tmp_path: Path) -> None:
    """The square images are encoded once for runs with and without buckets, the others in each size."""
    found = {}
    for name, preset in (("plain", PRESET), ("buckets", MIXED), ("again", MIXED)):
        run = set_up(preset, "test", str(tiny), str(mixed), tmp_path / name, 0, "cpu", latent_cache=tmp_path / "cache")
        made = []
        real = run.data.fetch
        run = replace(run, data=replace(run.data, fetch=lambda row, made=made, real=real: (made.append(row), real(row))[1], threads=1))
        store = stages.real_latents(run, preset.settings)
        found[name] = run, made, store
    run, made, _ = found["buckets"]
    assert len(found["plain"][1]) == len(run.data.train)
    assert sorted(made) == sorted(row for row in run.data.train if run.data.frames[row].size != (16, 16))
    assert found["again"][1] == []
    assert [found["again"][2].shape(i) for i in range(12)] == [found["buckets"][2].shape(i) for i in range(12)]


def test_without_buckets_nothing_is_named_otherwise(tiny: Path, mixed: Path, tmp_path: Path) -> None:
    played = prepared_run(tiny, mixed, tmp_path / "run")
    assert "aspect_ratio_buckets" not in played.folder.identity
    assert stages.wanted_latents(played, PRESET.settings).keys == [played.data.ids[row] for row in played.data.train]
    assert prepared_run(tiny, mixed, tmp_path / "mixed run", MIXED).folder.identity["aspect_ratio_buckets"] is True


# Costs, and what is refused.


def test_the_plan_counts_the_pixels_of_buckets(tiny: Path, mixed: Path, tmp_path: Path) -> None:
    run, plain = prepared_run(tiny, mixed, tmp_path / "run", MIXED), prepared_run(tiny, mixed, tmp_path / "plain")
    areas = [math.prod(BUCKETS[number(run, row) % 5]) / 256 for row in run.data.train]
    assert mean_area(run) == pytest.approx(sum(areas) / 12)
    assert mean_area(plain) == 1
    assert plan(run, 1).flops < plan(plain, 1).flops
    assert plan(run, 1).memory <= plan(plain, 1).memory


def test_a_network_that_refuses_a_size_is_named_before_work(
    tiny: Path, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = UNet2DConditionModel.forward

    def square(self: UNet2DConditionModel, sample: Tensor, *others: object, **named: object) -> object:
        if sample.shape[2] != sample.shape[3]:
            raise ValueError("positions are known for squares alone")
        return forward(self, sample, *others, **named)

    monkeypatch.setattr(UNet2DConditionModel, "forward", square)
    with pytest.raises(
        ModelError, match=r"cannot draw images 20 pixels wide and 12 high .*positions are known.* aspect_ratio_buckets=False"
    ) as refused:
        prepared_run(tiny, mixed, tmp_path / "run", MIXED)
    assert "\n" not in str(refused.value)
    prepared_run(tiny, mixed, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weighting": "distance"}, "weighting='distance' compares images of one size; leave aspect_ratio_buckets at False"),
        ({"objective": "weighted"}, "aspect_ratio_buckets=True is for real images to train on; leave it at False, or give real_samples"),
    ],
)
def test_where_buckets_make_no_sense_they_are_refused(changes: dict, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        MIXED.changed(**changes)


def test_buckets_of_one_round_alone_are_refused() -> None:
    with pytest.raises(ArgumentError, match="aspect_ratio_buckets holds for the whole run; give it without the round"):
        PRESET.changed(**{"round 2 aspect_ratio_buckets": True})


def test_steps_follow_from_the_configuration(tiny: Path) -> None:
    diffuser = load_diffuser(tiny, torch.device("cpu"))
    assert least_step(diffuser) == 4
    assert bucket_sizes(at_resolution(diffuser, 24).image_size, 4)[0] == (24, 24)
