"""Rounds of recursive self-improvement on a random tiny pipeline and a file of prompts: every stage, and being killed in each."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
import torch

from selfimprove import rounds, rsi_stages
from selfimprove import stages as samples
from selfimprove.config import Settings
from selfimprove.data.images import DataError
from selfimprove.data.latents import Store
from selfimprove.data.prompt_files import PromptError
from selfimprove.evaluation.round_figures import selection_figure, training_figure
from selfimprove.models.weights import model_hash
from selfimprove.planning.plan import plan
from selfimprove.presets import Preset
from selfimprove.recursion.collapse import CollapseError
from selfimprove.recursion.selection import SelectionError
from selfimprove.recursion.weighting import WeightingError
from selfimprove.report import drift_table, prompt_lines, read_training, score_table, write_summary
from selfimprove.rounds import play
from selfimprove.run import Run, set_up
from selfimprove.run_folder import RunError
from selfimprove.scorers import ScorerError, load_scorers

SETTINGS = Settings(
    objective="weighted", prompt_source="plain", samples=12, validation=0, rollout_steps=2, guidance=2.0, rollout_batch=6, strategy="pool",
    selected=4, metrics=(("brightness", 1.0), ("contrast", 1.0)), weighting="distance", epochs=3, batch=4, lr=1e-3, decay=False,
    evaluation_prompts=4, evaluation_images=2, evaluation_steps=2, evaluation_guidance=2.0, on_collapse="ignore",
)  # fmt: skip
PRESET = Preset("", "", SETTINGS)


def brightness(images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
    return images.mean((1, 2, 3))


def contrast(images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
    return images.std((1, 2, 3))


SCORERS = {"brightness": brightness, "contrast": contrast}


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(f"a picture of thing number {i}" for i in range(34)))
    return path


def prepared_run(tiny: Path, prompts: Path, run: Path, preset: Preset = PRESET, data: str = "", seed: int = 0) -> Run:
    return set_up(preset, "test", str(tiny), data, run, seed, "cpu", str(prompts), SCORERS)


def files(run: Path) -> dict[str, bytes]:
    """What a result is: tables, weights and metrics of every round."""
    names = ("pool.parquet", "selection.parquet", "selected.parquet", "metrics.json", "pipeline/unet/diffusion_pytorch_model.safetensors")
    return {str(p.relative_to(run)): p.read_bytes() for k in (1, 2) for p in (run / f"round_{k}" / n for n in names)}


def test_two_rounds(tiny: Path, prompts: Path, tmp_path: Path) -> None:
    played, run = prepared_run(tiny, prompts, tmp_path / "run"), tmp_path / "run"
    lines = "\n".join(plan(played, 2).lines)
    assert "30 different prompts collected, 4 kept out for evaluation" in lines
    assert "round 2: 12 rollouts (DDIM in 2 steps), 4 kept (pool), 3 steps of 4 (lr 0.001), evaluation on 8 images" in lines
    infos = play(played, 2)
    stages = [json.loads((run / f"round_{k}" / "manifest.json").read_text())["stages"] for k in range(3)]
    assert list(stages[1]) == ["rollout", "scores", "selection", "weights", "training", "evaluation"]
    assert stages[1]["rollout"]["opponent"] == stages[0]["evaluation"]["player"] == model_hash(tiny)
    assert stages[2]["rollout"]["opponent"] == stages[1]["evaluation"]["player"] != stages[2]["evaluation"]["player"]
    # fresh prompts each round, none of those that models are judged by
    used = [set(pd.read_parquet(run / f"round_{k}" / "prompts.parquet")["prompt"]) for k in (1, 2)]
    assert not used[0] & used[1]
    assert not (used[0] | used[1]) & {p for p, _ in played.data.evaluation}
    # what was kept are the best, and each has its weight
    pool = pd.read_parquet(run / "round_2" / "selection.parquet")
    selected = pd.read_parquet(run / "round_2" / "selected.parquet")
    assert set(selected["id"]) == set(pool.nsmallest(4, "place")["id"])
    weighed = pd.read_parquet(run / "round_2" / "weights.parquet")
    assert selected["weight"].tolist() == pytest.approx(weighed["weight"].tolist())
    assert ((weighed["weight"] > 0) & (weighed["weight"] <= 1)).all()
    assert set(infos[2].metrics["scores"]) == set(SCORERS)
    assert infos[2].metrics["drift"]["variance"] > 0
    assert infos[2].metrics["n_prompts"] == 4
    # the report speaks of all of it
    assert infos[1].log is not None
    assert "Weighted denoising" in read_training(infos[1].log, SETTINGS)
    assert training_figure(infos[1].log).axes
    assert len(selection_figure(run / "round_2").axes) == 3
    assert list(drift_table(infos).index) == [1, 2]
    assert prompt_lines(run)[0] == "empty or repeated: 34 -> 34, dropped 0"
    assert len(score_table(infos)) == 6
    assert write_summary(played, infos)["pictures"].exists()
    # nothing is played twice, and the same seed gives the same bytes elsewhere
    assert not any(i.played for i in play(prepared_run(tiny, prompts, run), 2))
    play(prepared_run(tiny, prompts, tmp_path / "again"), 2)
    assert files(tmp_path / "again") == files(run)


STAGES = [
    (rsi_stages, "prepare"), (samples, "sample_batches"), (rsi_stages, "sampled_images"), (rsi_stages, "select"), (samples, "weigh"),
    (rounds, "train"), (rounds, "evaluate"),
]  # fmt: skip


def test_killed_in_every_stage_it_goes_on_with_the_same_result(
    tiny: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run, killed in each stage in turn: in the preparation of prompts, then in every stage of its second round."""
    play(prepared_run(tiny, prompts, tmp_path / "whole"), 2)
    for module, name in STAGES:
        real = getattr(module, name)
        calls = []

        def killed(*arguments: object, _real: object = real, _calls: list = calls, _name: str = name, **named: object) -> object:
            _calls.append(1)
            if len(_calls) == (2 if _name == "sample_batches" else 1):  # round 1's is let through
                raise KeyboardInterrupt
            return _real(*arguments, **named)  # type: ignore[operator]

        with monkeypatch.context() as patch:
            patch.setattr(module, name, killed)
            with pytest.raises(KeyboardInterrupt):
                play(prepared_run(tiny, prompts, tmp_path / "killed"), 2)
        assert (tmp_path / "killed" / "round_1" / "metrics.json").exists() == (name != "prepare")
    play(prepared_run(tiny, prompts, tmp_path / "killed"), 2)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_the_reference_is_the_base_models_and_never_changes(tiny: Path, prompts: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    played = prepared_run(tiny, prompts, run)
    play(played, 1)
    before = (run / "round_1" / "rollout" / "00000.safetensors").read_bytes()
    edges = json.loads((run / "round_1" / "edges.json").read_text())
    play(played, 2)
    assert (run / "round_1" / "rollout" / "00000.safetensors").read_bytes() == before
    assert json.loads((run / "round_2" / "edges.json").read_text()) == edges
    assert json.loads((run / "round_1" / "manifest.json").read_text())["stages"]["rollout"]["opponent"] == model_hash(tiny)


def test_selection_by_hand_waits_for_the_list(tiny: Path, prompts: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    preset = PRESET.changed(strategy="manual", selected=0, metrics=())
    with pytest.raises(SelectionError, match="strategy='manual' waits for you"):
        play(prepared_run(tiny, prompts, run, preset), 1)
    candidates = sorted(p.stem for p in (run / "round_1" / "candidates").glob("*.png"))
    assert candidates == sorted(pd.read_parquet(run / "round_1" / "prompts.parquet")["id"])
    (run / "round_1" / "kept.txt").write_text("\n".join(candidates[:3]) + "\n")
    play(prepared_run(tiny, prompts, run, preset), 1)
    assert sorted(pd.read_parquet(run / "round_1" / "selected.parquet")["id"]) == candidates[:3]


def test_what_else_a_round_trains_on(tiny: Path, prompts: Path, images: Path, tmp_path: Path) -> None:
    """Samples of earlier rounds, and real images; with real images outside training, their denoising error is measured."""
    run = tmp_path / "run"
    preset = PRESET.changed(accumulate=True, real_samples=5, validation=3, flip=True)
    infos = play(prepared_run(tiny, prompts, run, preset, str(images)), 2)
    assert [Store(run / f"round_{k}" / "selected").rows for k in (1, 2)] == [4 + 5, 4 + 4 + 5]
    assert set(infos[2].metrics["scores"]) == {*SCORERS, "held_out_error", "nearest_real"}
    with pytest.raises(DataError, match="real_samples=50 is more than the 12 real images"):
        prepared_run(tiny, prompts, tmp_path / "other", PRESET.changed(real_samples=50), str(images))


def test_weights_may_be_normalised_by_their_sum(tiny: Path, prompts: Path, tmp_path: Path) -> None:
    preset = PRESET.changed(normalisation="weights", weight_quantile=0.1)
    play(prepared_run(tiny, prompts, tmp_path / "run", preset), 1)
    weight = pd.read_parquet(tmp_path / "run" / "round_1" / "selected.parquet")["weight"]
    assert weight.mean() == pytest.approx(1)
    assert weight.std() > 0


@pytest.mark.filterwarnings("ignore:round 1 shows signs")
def test_a_round_that_collapses_stops_the_run(tiny: Path, prompts: Path, tmp_path: Path) -> None:
    fierce = PRESET.changed(lr=0.1, on_collapse="stop")
    with pytest.raises(CollapseError, match="round 1 shows signs of collapse: .*on_collapse='stop' ends the run here"):
        play(prepared_run(tiny, prompts, tmp_path / "run", fierce), 2)
    assert (tmp_path / "run" / "round_1" / "metrics.json").exists()
    assert not (tmp_path / "run" / "round_2").exists()
    with pytest.raises(CollapseError):  # started again it stops in the same place
        play(prepared_run(tiny, prompts, tmp_path / "run", fierce), 2)


def test_self_play_with_weights_on_the_generated_side(tiny: Path, images: Path, tmp_path: Path) -> None:
    spin = Settings(
        samples=12, validation=3, rollout_steps=2, guidance=2.0, steps=3, batch=4, lr=1e-3, evaluation_prompts=5, evaluation_steps=2,
        weighting="distance", weight_quantile=0.2, on_collapse="ignore",
    )  # fmt: skip
    logs = {}
    for name, preset in (("weighted", Preset("", "", spin)), ("plain", Preset("", "", spin).changed(weighting="none"))):
        infos = play(set_up(preset, name, str(tiny), str(images), tmp_path / name, 0, "cpu"), 1)
        logs[name] = infos[1].log
    weight = pd.read_parquet(tmp_path / "weighted" / "round_1" / "weights.parquet")["weight"]
    assert 0 < weight.min() < 1
    assert logs["weighted"]["opponent_real"].iloc[0] == logs["plain"]["opponent_real"].iloc[0]
    assert logs["weighted"]["opponent_generated"].iloc[0] < logs["plain"]["opponent_generated"].iloc[0]


def test_bad_input_is_refused_before_anything_is_sampled(tiny: Path, prompts: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def refused(error: type[ValueError], match: str, **changes: object) -> None:
        with pytest.raises(error, match=match):
            play(prepared_run(tiny, prompts, run / str(len(list(tmp_path.glob("run/*")))), PRESET.changed(**changes)), 1)

    refused(SelectionError, r"metrics=\['nosuch'\] have no scorer for these images; known are", metrics=(("nosuch", 1.0),))
    refused(ScorerError, "hpsv2 needs HPS_v2_compressed.pt of xswu/HPSv2", metrics=(("hpsv2", 1.0),))
    truth = load_scorers(("quality",), torch.device("cpu"), family="oracle")
    with pytest.raises(SelectionError, match=r"metrics=\['quality'\] read the truth, which must not select"):
        set_up(PRESET.changed(metrics=(("quality", 1.0),)), "test", str(tiny), "", run / "z", 0, "cpu", str(prompts), truth)
    refused(PromptError, "kept=40 is more than the 30 prompts", kept=40)
    refused(PromptError, "every prompt was dropped: clarity: 30 -> 0", prompt_source="filtered")
    refused(ValueError, "judge='/nowhere' cannot be loaded", prompt_source="filtered", judge="/nowhere")
    with pytest.raises(PromptError, match="prompts='' names nothing"):
        set_up(PRESET, "test", str(tiny), "", run / "x", 0, "cpu")
    (tmp_path / "one.txt").write_text("alone")
    with pytest.raises(PromptError, match="leaves none to judge by; give at least two"):
        prepared_run(tiny, tmp_path / "one.txt", run / "y")
    for changes, match in (
        ({"selected": 13}, "selected=13 is more than the pool, samples=12"),
        ({"selected": 0}, "selected=0 with strategy='pool' keeps nothing"),
        ({"weight_sigma2": 0.0}, "weight_sigma2=0.0 must be greater than 0"),
        ({"kept": -1}, "kept=-1 must not be negative"),
    ):
        with pytest.raises(ValueError, match=match):
            PRESET.changed(**changes)
    assert not list(run.glob("*/round_0/evaluation"))


def test_bad_scores_and_weights_lose_nothing(tiny: Path, prompts: Path, tmp_path: Path) -> None:
    spoilt = SCORERS | {"brightness": lambda images, texts: brightness(images, texts) * float("nan")}
    with pytest.raises(ScorerError, match="brightness gave nan for image 0 of 'a picture of .*'; mend the scorer or the image"):
        play(set_up(PRESET, "test", str(tiny), "", tmp_path / "nan", 0, "cpu", str(prompts), spoilt), 1)
    play(prepared_run(tiny, prompts, tmp_path / "nan"), 0)
    with pytest.raises(SelectionError, match="brightness of .* is nan"):
        play(set_up(PRESET, "test", str(tiny), "", tmp_path / "nan", 0, "cpu", str(prompts), spoilt), 1)
    assert list(json.loads((tmp_path / "nan" / "round_1" / "manifest.json").read_text())["stages"]) == ["rollout", "scores"]
    constant = {"brightness": lambda images, texts: torch.zeros(len(texts))}
    alone = PRESET.changed(metrics=(("brightness", 1.0),))
    with pytest.raises(SelectionError, match="all 12 candidates have the same score in brightness"):
        play(set_up(alone, "test", str(tiny), "", tmp_path / "alike", 0, "cpu", str(prompts), constant), 1)
    with pytest.raises(WeightingError, match="every weight is zero"):
        play(
            prepared_run(
                tiny, prompts, tmp_path / "zero", PRESET.changed(metrics=(("contrast", 1.0),), weight_beta=1e-3, weight_sigma2=1e-6)
            ),
            1,
        )


def test_references_of_weights_are_checked(tiny: Path, prompts: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    play(prepared_run(tiny, prompts, run), 1)
    table = run / "round_1" / "prompts.parquet"
    table.write_bytes(table.read_bytes()[:-1])
    with pytest.raises(RunError, match=r"prompts\.parquet is not what round 1's rollout wrote"):
        play(prepared_run(tiny, prompts, run), 2)
