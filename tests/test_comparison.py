import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import tiny_pipeline
from torch import Tensor

from selfimprove.comparison import Sampling, at_one_guidance, compare, newest_player, read_guidances, set_up_comparison, sweep_table
from selfimprove.data.prompt_sets import JudgedPrompts
from selfimprove.errors import ArgumentError
from selfimprove.run_folder import RunError, identity_hash

PROMPTS = JudgedPrompts("three", ["a red star", "a blue ring", "звезда"])
SAMPLING = Sampling(images=2, steps=2, guidances=(1.0, 3.0), batch=4)


def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.flatten(1).mean(1)


def other(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images[:, 0].flatten(1).amax(1)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned") / "pipeline"
    tiny_pipeline(1).save_pretrained(folder)
    return folder


def test_two_pipelines_one_prompt_file_paired_noise_and_nothing_twice(tiny: Path, tuned: Path, tmp_path: Path) -> None:
    models = {"base": str(tiny), "tuned": str(tuned)}
    comparison = set_up_comparison(models, PROMPTS, {"brightness": brightness}, SAMPLING, tmp_path / "run", "cpu")
    assert "4 evaluations of 6 images" in comparison.cost()
    scored = list(comparison.play())
    assert [s.protocol.model for s in scored] == [f"{m} at guidance {g}" for m in ("base", "tuned") for g in (1, 3)]
    for one in scored:
        assert one.table["prompt"].tolist() == PROMPTS.prompts * 2
        assert one.table["image"].tolist() == [0, 0, 0, 1, 1, 1]
    assert scored[0].table["id"].tolist() == scored[2].table["id"].tolist()
    assert scored[0].table["brightness"].tolist() != scored[2].table["brightness"].tolist()
    assert "all finished already" in comparison.cost()

    stamp = (tmp_path / "run" / "base" / "guidance_1" / "scores.parquet").stat().st_mtime_ns
    again = list(comparison.play())
    pd.testing.assert_frame_equal(again[0].table, scored[0].table)
    assert (tmp_path / "run" / "base" / "guidance_1" / "scores.parquet").stat().st_mtime_ns == stamp

    more = set_up_comparison(models, PROMPTS, {"brightness": brightness, "other": other}, SAMPLING, tmp_path / "run", "cpu")
    assert "4 evaluations" in more.cost()  # another scorer: scored again from the latents that are there
    assert next(more.play()).table["brightness"].tolist() == scored[0].table["brightness"].tolist()

    best = at_one_guidance(scored, "brightness")
    assert [b.protocol.model.split(" ")[0] for b in best] == ["base", "tuned"]
    means = sweep_table(scored, ["brightness"])["brightness"]
    assert best[0].table["brightness"].mean() == means["base"].max()


def test_a_run_of_another_comparison_is_refused(tiny: Path, tmp_path: Path) -> None:
    scorers = {"brightness": brightness}
    sampling = Sampling(images=1, steps=2, guidances=(1.0,))
    list(set_up_comparison({"base": str(tiny)}, PROMPTS, scorers, sampling, tmp_path, "cpu").play())
    with pytest.raises(RunError, match="timesteps: '501 1' there, '667 334 1' here"):
        list(set_up_comparison({"base": str(tiny)}, PROMPTS, scorers, Sampling(1, 3, (1.0,)), tmp_path, "cpu").play())


def test_models_are_drawn_in_half_precision_where_that_is_asked_for(tiny: Path, tmp_path: Path) -> None:
    models, scorers, half = {"base": str(tiny)}, {"brightness": brightness}, replace(SAMPLING, guidances=(1.0,), precision="bf16")
    names = [set_up_comparison(models, PROMPTS, scorers, s, "", "cpu").run for s in (half, replace(half, precision="no"))]
    before = identity_hash({**models, "prompts": PROMPTS.hash, "images": 2, "steps": 2})  # float32 is not named
    assert names[0] != names[1] == Path(f"runs/compare-{before}")
    comparison = set_up_comparison(models, PROMPTS, scorers, half, tmp_path, "cpu")
    assert "1 evaluations" in comparison.cost()
    [scored] = comparison.play()
    assert scored.protocol.precision == "bf16 autocast, VAE too"
    with pytest.raises(RunError):
        list(set_up_comparison(models, PROMPTS, scorers, replace(half, precision="no"), tmp_path, "cpu").play())


def test_the_same_weights_twice_are_no_comparison(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'a' and 'b' have the same weights"):
        set_up_comparison({"a": str(tiny), "b": str(tiny)}, PROMPTS, {}, SAMPLING, tmp_path, "cpu")
    with pytest.raises(ValueError, match="models is empty"):
        set_up_comparison({}, PROMPTS, {}, SAMPLING, tmp_path, "cpu")


@pytest.mark.parametrize(
    ("part", "change", "named"),
    [
        ("scheduler/scheduler_config.json", {"timestep_spacing": "trailing"}, "timesteps: 501 1 and 999 499"),
        ("scheduler/scheduler_config.json", {"timestep_spacing": "linspace"}, "timesteps: 501 1 and 999 0"),
        ("scheduler/scheduler_config.json", {"set_alpha_to_one": True}, r"final alpha: 0\.99\d+ and 1\.0"),
        ("unet/config.json", {"sample_size": 12}, "image size: 16x16 and 24x24"),
        ("unet/config.json", {"sample_size": [8, 12]}, "image size: 16x16 and 16x24"),
    ],
)
def test_models_that_would_be_drawn_in_different_ways_are_refused_before_anything_is_drawn(
    tiny: Path, tmp_path: Path, part: str, change: dict[str, object], named: str
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    config = json.loads((other / part).read_text())
    (other / part).write_text(json.dumps(config | change))
    models = {"base": str(tiny), "other": str(other)}
    with pytest.raises(ArgumentError, match=f"'base' and 'other' would be drawn in different ways.*{named}.*timestep_spacing"):
        set_up_comparison(models, PROMPTS, {"brightness": brightness}, SAMPLING, tmp_path / "run", "cpu")
    assert not (tmp_path / "run").exists()


def test_scores_say_what_drew_the_images_and_a_folder_drawn_otherwise_is_refused(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorers, sampling = {"brightness": brightness}, Sampling(images=1, steps=2, guidances=(1.0,))
    comparison = set_up_comparison({"base": str(tiny)}, PROMPTS, scorers, sampling, tmp_path / "run", "cpu")
    (scored,) = comparison.play()
    protocol = scored.protocol
    assert (protocol.timesteps, protocol.image_size, protocol.tf32, protocol.precision) == ("501 1", "16x16", "none", "float32")
    assert 0.99 < float(protocol.final_alpha) < 1
    monkeypatch.setattr("selfimprove.evaluation.evaluate.tf32", lambda: "convolution")
    with pytest.raises(RunError, match="tf32: 'none' there, 'convolution' here"):
        list(set_up_comparison({"base": str(tiny)}, PROMPTS, scorers, sampling, tmp_path / "run", "cpu").play())


def test_a_device_that_is_not_here_is_refused_in_words(tiny: Path, tmp_path: Path) -> None:
    for absent in ("cuda:7", "tpu"):
        with pytest.raises(ArgumentError, match=f"device='{absent}' cannot be used here"):
            set_up_comparison({"base": str(tiny)}, PROMPTS, {}, SAMPLING, tmp_path, absent)
        with pytest.raises(ArgumentError, match=f"device='{absent}' cannot be used here"):
            compare({"base": str(tiny)}, device=absent)


def test_features_only_where_a_scorer_has_them(tiny: Path, tmp_path: Path) -> None:
    class WithFeatures:
        def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
            return images.flatten(1).mean(1)

        def features(self, images: Tensor) -> Tensor:
            return torch.stack([images.flatten(1).mean(1), images.flatten(1).std(1)], 1)

    scorers = {"plain": brightness, "deep": WithFeatures()}
    comparison = set_up_comparison({"base": str(tiny)}, PROMPTS, scorers, Sampling(2, 2, (1.0,), 4), tmp_path, "cpu")
    (scored,) = comparison.play()
    features = comparison.features(scored, "deep")
    assert features.shape == (6, 2)
    assert features[:, 0] == pytest.approx(scored.table["plain"].to_numpy(), abs=1e-5)
    with pytest.raises(ValueError, match="'plain' has no image features"):
        comparison.features(scored, "plain")


def test_guidances_are_read_and_checked() -> None:
    assert read_guidances("1.5, 3,6") == (1.5, 3.0, 6.0)
    assert read_guidances("7.5") == (7.5,)
    with pytest.raises(ValueError, match="guidance='high'"):
        read_guidances("high")
    with pytest.raises(ValueError, match="none below 1"):
        Sampling(guidances=(0.5,))
    with pytest.raises(ValueError, match="images=0"):
        Sampling(images=0)


def test_the_newest_player_is_a_readers_own(tmp_path: Path) -> None:
    """Not one of the book's build, a level deeper, which may be newer and is deleted when its page is executed again."""
    with pytest.raises(ValueError, match="no finished round under"):
        newest_player(tmp_path)
    for age, folder in enumerate(("book/spin_round-0123456789ab/round_2", "b/round_1", "a/round_2")):
        pipeline = tmp_path / folder / "pipeline"
        pipeline.mkdir(parents=True)
        os.utime(pipeline, (1000 - age, 1000 - age))
    assert newest_player(tmp_path) == tmp_path / "b/round_1/pipeline"
