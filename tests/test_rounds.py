"""Whole rounds on a random tiny pipeline and a folder of images: stages, resumption, identity, baselines."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from selfimprove import rounds, train
from selfimprove import stages as samples
from selfimprove.config import Settings
from selfimprove.data.images import DataError
from selfimprove.data.latents import Store
from selfimprove.errors import SelfImproveError
from selfimprove.evaluation import evaluate
from selfimprove.evaluation.round_figures import training_figure
from selfimprove.models.pipeline import load_diffuser
from selfimprove.models.weights import ModelError, model_hash
from selfimprove.planning.plan import plan
from selfimprove.presets import PRESETS, Preset
from selfimprove.report import ceiling_sentence, oracle_sentence, read_training, score_table, write_summary
from selfimprove.rounds import RoundInfo, play
from selfimprove.run import Run, set_up
from selfimprove.run_folder import RunError
from tests.forks import python

SETTINGS = Settings(
    samples=12, validation=3, rollout_steps=2, guidance=2.0, steps=3, batch=4, lr=1e-3, evaluation_prompts=5, evaluation_steps=2,
    evaluation_guidance=2.0,
)  # fmt: skip
PRESET = Preset("", "", SETTINGS, ({}, {"lr": 5e-4}))


def prepared_run(tiny: Path, images: Path, run: Path, preset: Preset = PRESET, seed: int = 0) -> Run:
    return set_up(preset, "test", str(tiny), str(images), run, seed, "cpu")


def test_a_deleted_player_is_named_with_the_remedy(tiny: Path, images: Path, tmp_path: Path) -> None:
    play(prepared_run(tiny, images, tmp_path / "run"), 1)
    shutil.rmtree(tmp_path / "run" / "round_1" / "pipeline")
    for last in (1, 2):
        with pytest.raises(
            ModelError, match=r"round_1/pipeline' has no weights of a UNet or transformer; restore .* delete the folder of its round and"
        ):
            play(prepared_run(tiny, images, tmp_path / "run"), last)


def test_two_rounds(tiny: Path, images: Path, tmp_path: Path) -> None:
    played = prepared_run(tiny, images, tmp_path / "run")
    lines = plan(played, 2).lines
    assert lines[3].startswith("round 1: 12 rollouts (DDIM in 2 steps), 3 steps of 4 pairs (lr 0.001, beta 2000), evaluation on 5 images")
    assert lines[4].startswith("round 2: 12 rollouts (DDIM in 2 steps), 3 steps of 4 pairs (lr 0.0005")
    infos = play(played, 2)
    assert [i.metrics["round"] for i in infos] == [0, 1, 2]
    run = tmp_path / "run"
    manifests = [json.loads((run / f"round_{k}" / "manifest.json").read_text())["stages"] for k in range(3)]
    # round k's opponent is round k-1's player
    assert manifests[1]["training"]["opponent"] == manifests[0]["evaluation"]["player"] == model_hash(tiny)
    assert manifests[2]["training"]["opponent"] == manifests[1]["evaluation"]["player"] == model_hash(run / "round_1" / "pipeline")
    assert manifests[2]["rollout"]["opponent"] == manifests[1]["evaluation"]["player"]
    assert manifests[2]["evaluation"]["player"] != manifests[1]["evaluation"]["player"]
    assert infos[2].log is not None
    assert infos[2].log["lr"].iloc[0] == pytest.approx(5e-4)
    # what was written is read back, and nothing is played twice
    again = play(prepared_run(tiny, images, run), 2)
    assert not any(i.played for i in again)
    assert again[2].metrics == infos[2].metrics
    assert "finished already" in " ".join(plan(prepared_run(tiny, images, run), 2).lines)
    # the report speaks of all of it
    table = score_table(infos)
    assert set(table.index.get_level_values("score")) == {"nearest_real", "held_out_error"}
    assert "Implicit accuracy" in read_training(infos[1].log, SETTINGS)
    assert len(training_figure(infos[1].log).axes) == 5
    assert ceiling_sentence(infos[1]) == oracle_sentence(infos) == ""
    assert all(p.exists() for p in write_summary(played, infos).values())
    load_diffuser(run / "round_2" / "pipeline", torch.device("cpu"))


def test_the_report_begins_with_what_the_oracle_reads() -> None:
    """By hand: the oracle's rows come first, an error of a hundredth keeps its digits, and one sentence has the changes from the base."""
    won = {"win_rate_prev": 0.6, "win_rate_base": 0.6}
    moved = {"delta_prev": 0.00021, "delta_prev_ci95": [0.0001, 0.0003], "delta_base": -0.2, "delta_base_ci95": [-0.3, -0.1], **won}
    level = {"mean": 0.5, "ci95": [0.4, 0.6]}
    scores, oracle = dict.fromkeys(("clip", "held_out_error"), level), dict.fromkeys(("quality", "all_right"), level)
    later = [{name: entry | moved for name, entry in group.items()} for group in (scores, oracle)]
    infos = [
        RoundInfo({"round": 0, "scores": scores, "oracle": oracle}, None, False),
        RoundInfo({"round": 1, "scores": later[0], "oracle": later[1]}, None, False),
    ]
    table = score_table(infos)
    assert list(dict.fromkeys(table.index.get_level_values("score"))) == ["oracle: quality", "oracle: all_right", "clip", "held_out_error"]
    assert table.loc[("held_out_error", 1), "change from round before"] == "+0.00021 [+0.00010, +0.00030]"
    assert table.loc[("clip", 1), "change from round before"] == "+0.000 [+0.000, +0.000]"
    changes = "quality -0.200 [-0.300, -0.100]; obedience -0.200 [-0.300, -0.100]"
    assert oracle_sentence(infos) == f"After round 1, changes from the base: {changes}."
    assert oracle_sentence(infos[:1]) == ""


STAGES = ["rollout", "training step", "writing the player", "evaluation"]


@pytest.mark.parametrize("where", STAGES)
def test_a_run_killed_anywhere_goes_on_to_the_same_result(
    tiny: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    whole = play(prepared_run(tiny, images, tmp_path / "whole"), 1)
    module, name = {
        "rollout": (samples, "sample_batches"), "training step": (train, "make_batch"), "writing the player": (rounds, "write_pipeline"),
        "evaluation": (evaluate, "save_image"),
    }[where]  # fmt: skip
    play(prepared_run(tiny, images, tmp_path / "killed"), 0)

    def kill(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, name, kill)
        with pytest.raises(KeyboardInterrupt):
            play(prepared_run(tiny, images, tmp_path / "killed"), 1)
    resumed = play(prepared_run(tiny, images, tmp_path / "killed"), 1)
    assert resumed[1].metrics == whole[1].metrics
    pd.testing.assert_frame_equal(resumed[1].log, whole[1].log)
    hashes = [model_hash(tmp_path / run / "round_1" / "pipeline") for run in ("whole", "killed")]
    assert hashes[0] == hashes[1]


def test_a_folder_of_another_run_is_refused_and_the_fields_are_named(tiny: Path, images: Path, tmp_path: Path) -> None:
    prepared_run(tiny, images, tmp_path / "run")
    differing = r"holds another run \(beta: 2000.0 there, 7.0 here; examples: '.*' there, '.*' here; seed: 0 there, 1 here\); give another"
    with pytest.raises(RunError, match=differing):
        prepared_run(tiny, images, tmp_path / "run", PRESET.changed(beta=7.0), seed=1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("do not touch")
    with pytest.raises(RunError, match=r"holds 'thesis.txt' and no run.json"):
        prepared_run(tiny, images, tmp_path / "other")


def test_evaluation_is_paired_and_training_rollouts_are_not_its(tiny: Path, images: Path, tmp_path: Path) -> None:
    first = play(prepared_run(tiny, images, tmp_path / "a"), 0)
    preset = PRESET.changed(samples=8)
    second = play(prepared_run(tiny, images, tmp_path / "b", preset), 0)
    assert first[0].metrics["scores"]["nearest_real"]["mean"] == pytest.approx(second[0].metrics["scores"]["nearest_real"]["mean"])


@pytest.mark.parametrize(
    "changes", [{"generated_latents": "raw"}, {"opponent": "base"}, {"objective": "sft"}, {"flip": True, "shared": "t"}]
)
def test_the_arms_run(tiny: Path, images: Path, tmp_path: Path, changes: dict) -> None:
    preset = PRESET.changed(**changes, on_collapse="ignore")
    infos = play(prepared_run(tiny, images, tmp_path / "run", preset), 2)
    manifest = json.loads((tmp_path / "run" / "round_2" / "manifest.json").read_text())["stages"]
    assert ("rollout" in manifest) == (preset.settings.objective == "spin")
    assert (manifest["training"]["opponent"] == model_hash(tiny)) == (changes.get("opponent") == "base")
    assert infos[2].log is not None


def test_diffusion_dpo_is_self_play_against_the_losers_of_the_pairs(tmp_path: Path) -> None:
    preset = PRESETS["smoke"].changed(generated_source="loser", opponent="base", evaluation_prompts=2, on_collapse="ignore")
    made = set_up(preset, "dpo", run=tmp_path / "run", device="cpu")
    info = play(made, 1)[1]
    assert info.log is not None
    assert info.log["loss"].iloc[0] == pytest.approx(math.log(2), abs=1e-4)  # the player starts as the reference
    generated = Store(tmp_path / "run" / "round_1" / "rollout").take("mean", range(4))
    assert made.data.fetch_loser is not None
    losers = made.diffuser.encode(torch.stack([made.data.fetch_loser(i) for i in made.data.train[:4]]))[0]
    assert torch.allclose(generated, losers, atol=1e-5)


def test_an_opponent_that_stays_keeps_its_images(tiny: Path, images: Path, tmp_path: Path) -> None:
    """And the one that changes draws new ones: continuing against the old images is then a control for moving on."""
    for name, changes, same in (("stays", {"opponent": "base"}, True), ("moves", {}, False)):
        play(prepared_run(tiny, images, tmp_path / name, PRESET.changed(**changes)), 2)
        first, second = (Store(tmp_path / name / f"round_{k}" / "rollout").take("mean", range(12)) for k in (1, 2))
        assert torch.equal(first, second) == same


def test_only_what_is_trained_on_is_drawn(tiny: Path, images: Path, tmp_path: Path) -> None:
    """Two steps of four use eight of twelve examples; the others' images change nothing, as the same run shows that draws them all."""
    preset = Preset("", "", dataclasses.replace(SETTINGS, steps=2))
    short = prepared_run(tiny, images, tmp_path / "short", preset)
    whole = dataclasses.replace(prepared_run(tiny, images, tmp_path / "whole", preset), opponent_cache=tmp_path / "errors")
    assert "8 rollouts" in "".join(plan(short, 1).lines)
    logs = [play(g, 1)[1].log for g in (short, whole)]
    assert [Store(g.folder.round(1) / "rollout").rows for g in (short, whole)] == [8, 12]
    assert logs[0] is not None
    assert logs[1] is not None
    pd.testing.assert_frame_equal(logs[0], logs[1], rtol=1e-4, atol=1e-6)
    with pytest.raises(RunError, match="its rollout was made with another images than there is now"):
        samples.spin_training_set(dataclasses.replace(short, opponent_cache=tmp_path / "errors"), preset.settings, tiny, 1)


def test_without_the_pushing_term_only_real_images_count(tiny: Path, images: Path, tmp_path: Path) -> None:
    played = prepared_run(tiny, images, tmp_path / "off", PRESET.changed(pushing=0.0))
    log = play(played, 1)[1].log
    assert log is not None
    assert (log["player_generated"] == 0).all()
    assert (log["opponent_generated"] == 0).all()
    assert (log["player_real"] > 0).all()


def test_losers_are_of_labelled_pairs_only(tiny: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs labelled pairs"):
        prepared_run(tiny, images, tmp_path / "run", PRESET.changed(generated_source="loser"))


def test_a_round_against_an_opponent_that_is_no_more_is_not_read_back(tiny: Path, images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    play(prepared_run(tiny, images, run), 2)
    manifest = json.loads((run / "round_2" / "manifest.json").read_text())
    manifest["stages"]["training"]["opponent"] = "0" * 64  # as if round 1 had been played anew since
    (run / "round_2" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match="round_2: its training was made with another opponent than there is now"):
        play(prepared_run(tiny, images, run), 2)


@pytest.mark.parametrize("tampered", ["unet", "scheduler", "gone", "rollout", "scores"])
def test_a_finished_round_that_is_not_what_was_written_is_refused(tiny: Path, images: Path, tmp_path: Path, tampered: str) -> None:
    """Nothing is trained on a player, a rollout or scores that somebody or something has changed; the message names the round."""
    run = tmp_path / "run"
    play(prepared_run(tiny, images, run), 1)
    player = run / "round_1" / "pipeline"
    if tampered == "unet":
        weights = player / "unet" / "diffusion_pytorch_model.safetensors"
        state = load_file(weights)
        save_file({name: 3 * tensor if name == "conv_in.bias" else tensor for name, tensor in state.items()}, weights)
    elif tampered == "scheduler":
        file = player / "scheduler" / "scheduler_config.json"
        file.write_text(file.read_text().replace("0.02", "0.5"))
    elif tampered == "gone":
        shutil.rmtree(player)
    elif tampered == "rollout":  # of a round whose training was cut off
        manifest = json.loads((run / "round_1" / "manifest.json").read_text())
        manifest["stages"] = {"rollout": manifest["stages"]["rollout"]}
        (run / "round_1" / "manifest.json").write_text(json.dumps(manifest))
        shard = run / "round_1" / "rollout" / "00000.safetensors"
        shard.write_bytes(shard.read_bytes()[:-64] + bytes(64))
    else:
        (run / "round_1" / "scores.parquet").write_bytes(b"PAR1")
    with pytest.raises(SelfImproveError, match="round_1"):
        play(prepared_run(tiny, images, run), 2)
    assert not (run / "round_2" / "train.parquet").exists()


def test_a_model_of_another_size_is_no_model_of_the_shapes_world(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"draws images of \(16, 16\) pixels, and the shapes world"):
        set_up("smoke-rsi", model=str(tiny), run=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


SMALLEST = {
    "samples": 1, "validation": 0, "rollout_steps": 1, "guidance": 1.0, "rollout_batch": 1, "steps": 1, "batch": 1, "micro_batch": 1,
    "evaluation_prompts": 1, "evaluation_images": 1, "evaluation_steps": 1, "evaluation_guidance": 1.0, "checkpoint_every": 1,
    "caption_dropout": 0.0, "ema": 0.0, "eta": 0.0, "pushing": 0.0, "warmup": 0, "weight_decay": 0.0, "beta": 1e-9, "lr": 1e-12,
    "clip": 1e-9,
}  # fmt: skip
LARGEST = {
    "samples": 10**9, "validation": 10**9, "guidance": 50.0, "rollout_batch": 10**6, "micro_batch": 10**6, "epochs": 2,
    "evaluation_images": 2,
    "evaluation_guidance": 50.0, "checkpoint_every": 10**9, "caption_dropout": 1.0, "ema": 1.0, "eta": 1.0, "pushing": 1.0, "warmup": 10**6,
    "weight_decay": 1.0, "beta": 1e9, "clip": 1e9, "flip": True, "lora_rank": 32, "lora_alpha": 10**3, "gradient_checkpointing": True,
}  # fmt: skip


@pytest.mark.parametrize("extreme", [SMALLEST, LARGEST], ids=["smallest", "largest"])
def test_the_smallest_and_the_largest_settings_play_a_whole_round(tiny: Path, images: Path, tmp_path: Path, extreme: dict) -> None:
    """Nothing fails after the training for want of a check before it."""
    infos = play(prepared_run(tiny, images, tmp_path / "run", PRESET.changed(**extreme, on_collapse="ignore")), 1)
    assert [i.played for i in infos] == [True, True]
    assert (tmp_path / "run" / "round_1" / "metrics.json").exists()


def test_a_larger_evaluation_goes_on_from_the_smaller_one(tiny: Path, images: Path, tmp_path: Path) -> None:
    """How players are judged is no part of the run: it is judged anew on more prompts, and no training is repeated."""
    run, preset = tmp_path / "run", PRESET.changed(evaluation_prompts=2, on_collapse="ignore")
    play(prepared_run(tiny, images, run, preset), 1)
    trained = (run / "round_1" / "train.parquet").stat().st_mtime_ns
    more = play(prepared_run(tiny, images, run, preset.changed(evaluation_images=3)), 1)
    assert [i.played for i in more] == [True, True]
    assert len(pd.read_parquet(run / "round_1" / "scores.parquet")) == 6
    assert (run / "round_1" / "train.parquet").stat().st_mtime_ns == trained
    assert not any(i.played for i in play(prepared_run(tiny, images, run, preset.changed(evaluation_images=3)), 1))


def test_an_adapter_beside_the_base_is_none_of_the_runs(tiny: Path, images: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny, tmp_path / "models" / "base")
    (tmp_path / "models" / "lora").mkdir()
    (tmp_path / "models" / "lora" / "pytorch_lora_weights.safetensors").write_bytes(b"of another run")
    played = prepared_run(base, images, tmp_path / "run", PRESET.changed(lora_rank=2))
    assert play(played, 1)[1].played


def test_later_scorers_judge_the_earlier_rounds_too(tiny: Path, images: Path, tmp_path: Path) -> None:
    play(prepared_run(tiny, images, tmp_path / "run"), 1)

    def bright(pictures: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        return pictures.mean((1, 2, 3))

    more = set_up(PRESET, "test", str(tiny), str(images), tmp_path / "run", 0, "cpu", scorers={"bright": bright})
    infos = play(more, 2)
    assert [i.played for i in infos] == [True, True, True]
    assert all("bright" in i.metrics["scores"] for i in infos)
    assert "delta_prev" in infos[2].metrics["scores"]["bright"]


def test_recursion_on_a_short_list_of_ones_own_prompts(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(f"a photo of animal number {i}" for i in range(12)))

    def bright(pictures: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        return pictures.mean((1, 2, 3))

    names = [name for name, _ in PRESETS["own-prompts"].settings.metrics]
    preset = PRESETS["own-prompts"].changed(
        samples=8, selected=4, batch=2, epochs=1, rollout_steps=2, evaluation_images=1, evaluation_steps=2, precision="no",
        on_collapse="ignore",
    )  # fmt: skip
    preset = dataclasses.replace(preset, scorers=())
    played = set_up(preset, "own", str(tiny), "", tmp_path / "run", 0, "cpu", str(tmp_path / "prompts.txt"), dict.fromkeys(names, bright))
    assert play(played, 1)[1].played
    assert len(pd.read_parquet(tmp_path / "run" / "round_1" / "selected.parquet")) == 4
    for file in (tmp_path / "run").rglob("*.json"):  # one image a prompt: no distance within a prompt, and JSON has no NaN
        json.loads(file.read_text(), parse_constant=pytest.fail)
    drift = json.loads((tmp_path / "run" / "round_1" / "metrics.json").read_text())["drift"]
    assert "variance" in drift
    assert "within_prompt" not in drift


def test_a_round_where_renaming_replaces_no_file(tiny: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""
    rename = Path.rename

    def refusing(self: Path, target: Path) -> Path:
        if Path(target).exists():
            raise FileExistsError(target)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refusing)
    run = prepared_run(tiny, images, tmp_path / "run", PRESET.changed(checkpoint_every=1))
    assert [info.played for info in play(run, 1)] == [True, True]


def test_a_device_that_is_not_there(tiny: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="device='cuda:7' cannot be used here"):
        set_up(PRESET, "test", str(tiny), str(images), tmp_path / "run", 0, "cuda:7")


def test_truncated_captions_are_counted(tiny: Path, images: Path, tmp_path: Path) -> None:
    lines = (images / "metadata.jsonl").read_text().splitlines()
    lines[0] = json.dumps({"file_name": "000.png", "text": "word " * 40})
    lines[1] = json.dumps({"file_name": "001.png", "text": "山の上の赤い星"})
    (images / "metadata.jsonl").write_text("\n".join(lines))
    made = prepared_run(tiny, images, tmp_path / "run", PRESET.changed(samples=40))
    assert ("word " * 40).strip() in made.truncated
    assert play(made, 1)[1].played


def test_command_line(tiny: Path, images: Path, tmp_path: Path) -> None:
    command = ["-m", "selfimprove", "spin", "--preset", "smoke", "--model", str(tiny), "--data", str(images)]
    done = python(*command, "--iter", "1", "--run", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert "round 1: 21 rollouts (DDIM in 2 steps), 3 steps of 8 pairs" in done.stdout
    assert "30 images with 30 captions: 21 to train on, " in done.stdout
    assert "images or rows skipped: 0\n" in done.stdout
    assert str(tmp_path / "run" / "summary.png") in done.stdout
    failed = python(*command, "--iter", "0")
    assert failed.returncode != 0
    assert failed.stderr.strip().splitlines()[-1] == "error: iter=0 cannot be the round to play; give a whole number from 1 on"


@pytest.mark.parametrize("name", ["held_out.parquet", "evaluation/store.json"])
def test_what_later_rounds_are_compared_with_is_checked(tiny: Path, images: Path, tmp_path: Path, name: str) -> None:
    play(prepared_run(tiny, images, tmp_path / "run"), 0)
    file = tmp_path / "run" / "round_0" / name
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(RunError, match=rf"{name} is not what round 0's evaluation wrote"):
        play(prepared_run(tiny, images, tmp_path / "run"), 1)


def test_a_round_at_another_resolution(tiny: Path, images: Path, tmp_path: Path) -> None:
    """Images of 24 pixels on a pipeline of 16: everything is drawn, learnt and judged at that size, and plain diffusers draws at it too."""
    with pytest.raises(ModelError, match="resolution=18 must be a multiple of 4 for this model; give 16 or 20"):
        prepared_run(tiny, images, tmp_path / "run", PRESET.changed(resolution=18))
    with pytest.raises(ModelError, match="resolution=2 must be a multiple of 4 for this model; give 4"):
        prepared_run(tiny, images, tmp_path / "run", PRESET.changed(resolution=2))
    played = prepared_run(tiny, images, tmp_path / "run", PRESET.changed(resolution=24))
    assert played.diffuser.image_size == (24, 24)
    play(played, 1)
    for store in ("real", "held_out", "round_1/rollout", "round_1/evaluation"):
        found = Store(tmp_path / "run" / store)
        assert found.take("latent" if "evaluation" in store else "mean", [0]).shape == (1, 4, 12, 12)
    player = StableDiffusionPipeline.from_pretrained(tmp_path / "run" / "round_1" / "pipeline", local_files_only=True)
    player.set_progress_bar_config(disable=True)
    assert player("a star", num_inference_steps=1).images[0].size == (24, 24)
    with pytest.raises(RunError, match="resolution: 24 there, None here"):
        prepared_run(tiny, images, tmp_path / "run")


def test_a_round_that_nothing_judges_ends_with_an_empty_table(tiny: Path, images: Path, tmp_path: Path) -> None:
    """Without scorers, and without held-out images."""
    settings = Settings(samples=6, validation=0, steps=1, batch=2, rollout_steps=1, rollout_batch=4)
    settings = dataclasses.replace(settings, evaluation_prompts=2, evaluation_images=1, evaluation_steps=1, on_collapse="ignore")
    run = set_up(Preset("", "", settings), "test", str(tiny), str(images), tmp_path / "run", 0, "cpu")
    infos = play(run, 1)
    assert score_table(infos).empty
    assert write_summary(run, infos)["numbers"].read_text().startswith("score,round,mean")
