"""More steps on a finished round: what an undisturbed, longer training gives, from what is there; or a refusal before anything is done."""

import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest
from test_rounds import SETTINGS, prepared_run
from test_stages import SETTINGS as RECURSION
from test_stages import prepared_run as recursive_run

from selfimprove import stages, train
from selfimprove.data import latents
from selfimprove.models.weights import model_hash
from selfimprove.planning import plan as planning
from selfimprove.planning.plan import plan, remaining
from selfimprove.planning.work import count
from selfimprove.presets import Preset
from selfimprove.rounds import play
from selfimprove.run_folder import RunError

CONSTANT = dataclasses.replace(SETTINGS, decay=False, warmup=1, checkpoint_every=100, on_collapse="ignore", evaluation_prompts=2)


def preset(**changes: object) -> Preset:
    return Preset("", "", dataclasses.replace(CONSTANT, **changes))  # type: ignore[arg-type]


def decaying(steps: int) -> Preset:
    return preset(steps=steps, decay=True, warmup=0, objective="sft")


def counted(monkeypatch: pytest.MonkeyPatch, module: object, name: str) -> list[tuple]:
    calls: list[tuple] = []
    real = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *a, **k: (calls.append(a), real(*a, **k))[1])
    return calls


@pytest.mark.parametrize(
    ("changes", "longer"),
    [
        ({"epochs": 1, "ema": 0.9, "flip": True, "caption_dropout": 0.3}, {"epochs": 2}),  # of 3 steps
        ({"epochs": 1, "lora_rank": 2}, {"epochs": 2}),
        ({"steps": 3, "objective": "sft", "lora_rank": 2, "ema": 0.9}, {"steps": 6}),
        ({"steps": 3, "objective": "sft"}, {"steps": 6}),
    ],
)
def test_a_round_trained_on_is_the_longer_round(
    tiny: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict, longer: dict
) -> None:
    """Three steps, then three more: weights, log and evaluation to the last bit, no step is computed twice, and the next round follows."""
    short, long = preset(**changes), preset(**changes | longer)
    whole = play(prepared_run(tiny, images, tmp_path / "whole", long), 1)
    play(prepared_run(tiny, images, tmp_path / "run", short), 1)
    run = prepared_run(tiny, images, tmp_path / "run", long)
    assert "round 1: has had 3 steps, goes on from them" in plan(run, 1).lines
    steps = counted(monkeypatch, train, "make_batch")
    infos = play(run, 1)
    assert [call[-1] for call in steps] == [3, 4, 5]
    assert infos[1].log is not None
    pd.testing.assert_frame_equal(infos[1].log, whole[1].log)
    assert len({model_hash(tmp_path / name / "round_1" / "pipeline") for name in ("whole", "run")}) == 1
    assert infos[1].metrics == whole[1].metrics
    # now this is the run: nothing is done twice, and the next round begins from the new player
    again = prepared_run(tiny, images, tmp_path / "run", long)
    assert not any(info.played for info in play(again, 1))
    if "ema" in changes:
        play(again, 2)
        assert json.loads((tmp_path / "run/round_2/manifest.json").read_text())["stages"]["training"]["start"] == model_hash(
            tmp_path / "whole/round_1/pipeline"
        )
        kept = [(tmp_path / f"run/round_{k}/training/training.pt").exists() for k in (1, 2)]
        assert kept == ["lora_rank" in changes, True]  # an adapter's state is small


def test_a_longer_round_draws_for_further_examples(tiny: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step of four uses four of twelve examples, two use eight: the first four keep their images."""
    monkeypatch.setattr(latents, "SHARD", 2)  # whole shards are kept
    monkeypatch.setattr(planning, "SHARD", 2)
    play(prepared_run(tiny, images, tmp_path / "whole", preset(steps=2)), 1)
    play(prepared_run(tiny, images, tmp_path / "run", preset(steps=1)), 1)
    run = prepared_run(tiny, images, tmp_path / "run", preset(steps=2))
    work = count(run.preset, 1, 12, 2, held_out=3)
    left = {id(stage.work): stage.share for stage in remaining(run, 1, work, 1)}
    assert [left[id(work.stages[name])] for name in ("rollout", "training", "evaluation")] == [0.5, 0.5, 1.0]
    drawn = counted(monkeypatch, stages, "sample_batches")
    with monkeypatch.context() as patch:
        patch.setattr(train, "make_batch", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            play(run, 1)
    assert sum(len(call[2]) for call in drawn) == 4
    play(prepared_run(tiny, images, tmp_path / "run", preset(steps=2)), 1)
    assert sum(len(call[2]) for call in drawn) == 4
    ids = [pd.read_parquet(tmp_path / name / "round_1" / "prompts.parquet")["id"].tolist() for name in ("whole", "run")]
    assert sorted(ids[0]) == sorted(ids[1])
    logs = [pd.read_parquet(tmp_path / name / "round_1" / "train.parquet") for name in ("whole", "run")]
    pd.testing.assert_frame_equal(*logs, rtol=1e-4, atol=1e-5)  # images were drawn in other batches


def test_more_epochs_of_recursion(tiny: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(f"a picture of thing number {i}" for i in range(34)))
    made = Preset("", "", RECURSION)
    for name, epochs in (("whole", (6,)), ("run", (3, 6))):
        for each in epochs:
            infos = play(recursive_run(tiny, tmp_path / "prompts.txt", tmp_path / name, made.changed(epochs=each)), 1)
    assert infos[1].log is not None
    assert len(infos[1].log) == 6
    assert len({model_hash(tmp_path / name / "round_1" / "pipeline") for name in ("whole", "run")}) == 1


def test_what_cannot_be_trained_on_is_refused_before_anything_is_done(tiny: Path, images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    play(prepared_run(tiny, images, run, decaying(2)), 1)
    before = {path: path.read_bytes() for path in run.rglob("*.json")}
    with pytest.raises(
        RunError, match=r"round_1 has been trained for 2 steps, and 1 are asked for; ask for at least 2, or give another run"
    ):
        prepared_run(tiny, images, run, decaying(1))
    with pytest.raises(
        RunError, match=r"training\.pt holds 2 steps, which are not the first ones of a training of 4 .* or delete the file"
    ):
        prepared_run(tiny, images, run, decaying(4))
    assert {path: path.read_bytes() for path in run.rglob("*.json")} == before
    (run / "round_1" / "training" / "training.pt").unlink()  # as the message says
    longer = prepared_run(tiny, images, run, decaying(4))
    assert "round 1: has had 2 steps, begins again: their state is gone" in plan(longer, 1).lines
    play(longer, 1)
    play(prepared_run(tiny, images, tmp_path / "whole", decaying(4)), 1)
    assert len({model_hash(tmp_path / name / "round_1" / "pipeline") for name in ("whole", "run")}) == 1
    (run / "round_2").mkdir()
    with pytest.raises(RunError, match=r"and 6 are asked for; but round_2 began from its player: .* delete the folders of later"):
        prepared_run(tiny, images, run, decaying(6))
    manifest = run / "round_1" / "manifest.json"
    about = json.loads(manifest.read_text())
    del about["stages"]["training"]["steps"]
    manifest.write_text(json.dumps(about))
    prepared_run(tiny, images, run, decaying(4))
    with pytest.raises(RunError, match=r"round_1 was trained by an earlier version, which did not note its steps; give another run folder"):
        prepared_run(tiny, images, run, decaying(6))


def test_an_unfinished_training_keeps_its_rates(tiny: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of a training that was to end elsewhere is refused where rates depend on the end, and goes on where they do not."""
    for name, decay in (("decay", True), ("constant", False)):
        begun = preset(steps=3, decay=decay, checkpoint_every=1, objective="sft", warmup=0)
        with monkeypatch.context() as patch:
            real = train.make_batch
            patch.setattr(train, "make_batch", lambda *a, real=real: real(*a) if a[-1] < 2 else (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                play(prepared_run(tiny, images, tmp_path / name, begun), 1)
        longer = prepared_run(tiny, images, tmp_path / name, begun.changed(steps=4))
        if decay:
            with pytest.raises(RunError, match=r"training\.pt holds 2 steps, which are not the first ones of a training of 4"):
                play(longer, 1)
        else:
            assert len(play(longer, 1)[1].log) == 4  # type: ignore[arg-type]
