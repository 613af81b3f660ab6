"""What is done with a finished round: card, export in half precision, the hub, pruning."""

import json
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import write_images
from diffusers import StableDiffusionPipeline
from huggingface_hub.repocard import metadata_load
from safetensors.torch import load_file, save_file
from test_rounds import PRESET

from selfimprove import __main__ as command_line
from selfimprove.config import Settings
from selfimprove.data.latents import Store
from selfimprove.errors import ArgumentError, SelfImproveError
from selfimprove.files import read_json, write_json
from selfimprove.models.pipeline import load_diffuser
from selfimprove.models.weights import ModelError, model_hash
from selfimprove.presets import Preset
from selfimprove.publishing import hub
from selfimprove.publishing.prune import prune
from selfimprove.rounds import play
from selfimprove.run import Run, set_up
from selfimprove.run_folder import RunError

LORA = PRESET.changed(lora_rank=2, lora_alpha=2)


@pytest.fixture(scope="module")
def world(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model whose card states a licence, images, and a run of two finished rounds; read only."""
    folder = tmp_path_factory.mktemp("published")
    shutil.copytree(tiny, folder / "model")
    (folder / "model" / "README.md").write_text("---\nlicense: creativeml-openrail-m\nbase_model: owner/first\n---\n# A model\n")
    write_images(folder / "images", 30)
    play(opened(folder, folder / "run"), 2)
    return folder


def opened(world: Path, run: Path, preset: Preset = LORA) -> Run:
    return set_up(preset, "own-images", str(world / "model"), str(world / "images"), run, 0, "cpu")


@pytest.fixture
def run(world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world / "run", tmp_path / "run"))


def test_a_card_says_what_the_player_is(world: Path, run: Path) -> None:
    for name in ("pipeline", "lora"):
        card = run / "round_2" / name / "README.md"
        head, text = metadata_load(card), card.read_text()
        assert head is not None
        assert (head["license"], head["base_model"], head["library_name"]) == ("creativeml-openrail-m", "owner/first", "diffusers")
        assert "# Round 2 of self-play (SPIN-Diffusion), from model\n" in text
        assert "Data (images): 12 images with captions trained on, 3 kept out of training, 0 skipped. Preset own-images, seed 0" in text
        assert "lora_rank=2" in text
        assert "lr=0.0005" in text  # of round 2
        metrics = [json.loads((run / f"round_{k}" / "metrics.json").read_text()) for k in range(3)]
        row = next(line for line in text.splitlines() if line.startswith("| held_out_error | "))
        means = [m["scores"]["held_out_error"] for m in metrics]
        for m in means:
            assert f"{m['mean']:.4f} [one prompt]" in row  # a single held-out caption has no interval
        assert f"{means[2]['delta_prev']:+.4f} [one prompt]" in row
        drawn = next(line for line in text.splitlines() if line.startswith("| nearest_real | "))
        score = metrics[2]["scores"]["nearest_real"]
        assert metrics[2]["n_prompts"] == 1 or f"{score['mean']:.4f} [{score['ci95'][0]:.4f}, {score['ci95'][1]:.4f}]" in drawn
        assert str(world) not in text
        assert str(Path.home()) not in text
    assert "load_lora_weights" in (run / "round_2" / "lora" / "README.md").read_text()
    assert StableDiffusionPipeline.from_pretrained(run / "round_2" / "pipeline", local_files_only=True)


def test_cards_of_models_without_a_licence(world: Path, tmp_path: Path) -> None:
    """No licence is invented; a base's card that cannot be read is none. An older run's player gets its card when it is read back."""
    for name, text in (("none", ""), ("broken", "---\nlicense: [\n---\n"), ("other", "---\nlicense: other\nlicense_name: my-own\n---\n")):
        model = Path(shutil.copytree(world / "model", tmp_path / name))
        (model / "README.md").write_text(text)
        run = tmp_path / f"run_{name}"
        shutil.copytree(world / "run", run)
        (run / "round_1" / "pipeline" / "README.md").unlink()
        play(set_up(LORA, "own-images", str(model), str(world / "images"), run, 0, "cpu"), 1)
        card = run / "round_1" / "pipeline" / "README.md"
        assert ("No card of the base model states a licence here" in card.read_text()) == (name != "other")
        assert ("as its card says: my-own" in card.read_text()) == (name == "other")
        assert (metadata_load(card) or {}).get("license") == ("other" if name == "other" else None)


def test_a_pruned_run_is_whole_and_goes_on(world: Path, run: Path) -> None:
    rollouts = {k: load_file(run / f"round_{k}" / "rollout" / "00000.safetensors") for k in (1, 2)}
    before = {k: model_hash(run / f"round_{k}" / "pipeline") for k in (1, 2)}
    size = sum(p.stat().st_size for p in (run / "round_1" / "rollout").iterdir())
    assert prune(run) == size
    assert not (run / "round_1" / "rollout").exists()
    assert Store(run / "round_2" / "rollout").rows == 12  # the last round's may be trained on
    manifest = json.loads((run / "round_1" / "manifest.json").read_text())
    assert set(manifest["stages"]) == {"training", "evaluation"}
    assert manifest["pruned"]["rollout"]["files"]
    assert prune(run) == 0
    assert not any(info.played for info in play(opened(world, run), 2))  # every file is checked, and nothing is played again
    assert play(opened(world, run), 3)[3].played
    assert prune(run, last=True) > 0
    assert not list(run.glob("round_*/rollout"))
    assert not any(info.played for info in play(opened(world, run), 3))
    assert {k: model_hash(run / f"round_{k}" / "pipeline") for k in (1, 2)} == before
    shutil.rmtree(run / "round_3")
    for name in ("training", "evaluation"):  # whoever trains round 2 again finds its opponent's images drawn again
        path = run / "round_2" / "manifest.json"
        stages = json.loads(path.read_text())
        stages["stages"].pop(name)
        path.write_text(json.dumps(stages))
    play(opened(world, run), 2)
    again = load_file(run / "round_2" / "rollout" / "00000.safetensors")
    assert all(torch.allclose(again[n], rollouts[2][n], atol=1e-5) for n in again)
    assert model_hash(run / "round_2" / "pipeline") == before[2]


def test_what_a_killed_prune_leaves_goes_next_time(world: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("selfimprove.publishing.prune.remove", killed)
        with pytest.raises(KeyboardInterrupt):
            prune(run)
    assert not any(info.played for info in play(opened(world, run), 2))
    assert prune(run) > 0
    assert not (run / "round_1" / "rollout").exists()


@pytest.mark.parametrize(("changes", "kept"), [({"weighting": "distance"}, {1}), ({"accumulate": True}, {1, 2}), ({}, set())])
def test_what_later_rounds_read_is_kept(tiny: Path, tmp_path: Path, changes: dict, kept: set) -> None:
    """Weights are distances to round 1's samples; accumulated samples are of all rounds."""
    settings = Settings(
        objective="weighted", prompt_source="plain", samples=8, validation=0, rollout_steps=2, strategy="pool", selected=4, batch=4,
        metrics=(("brightness", 1.0),), epochs=1, evaluation_prompts=4, evaluation_steps=2, on_collapse="ignore", **changes,
    )  # fmt: skip
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"a picture of thing number {i}" for i in range(40)))
    scorers = {"brightness": lambda images, prompts: images.mean((1, 2, 3))}

    def played(last: int) -> list:
        return play(set_up(Preset("", "", settings), "test", str(tiny), "", tmp_path / "run", 0, "cpu", str(prompts), scorers), last)

    played(2)
    card = (tmp_path / "run" / "round_2" / "pipeline" / "README.md").read_text()
    assert "# Round 2 of recursive self-improvement (RSIDiff), from pipeline\n" in card
    assert "prompts (prompts.txt): 36 collected, 4 kept out" in card
    prune(tmp_path / "run", last=True)
    assert {k for k in (1, 2) if (tmp_path / "run" / f"round_{k}" / "rollout").exists()} == kept
    assert not any(info.played for info in played(2))
    assert played(3)[3].played


def test_no_run_is_pruned_or_taken(tmp_path: Path, run: Path) -> None:
    with pytest.raises(RunError, match=r"holds no run\.json; give a run folder"):
        prune(tmp_path / "nowhere")
    (tmp_path / "run.json").write_text('{"identity": {}}')
    with pytest.raises(RunError, match="was made by an earlier version"):
        prune(tmp_path)
    with pytest.raises(RunError, match=r"round 3 is not finished; finished are \[1, 2\]"):
        hub.player(run, 3)
    shutil.rmtree(run / "round_2" / "lora")
    with pytest.raises(SelfImproveError, match="pytorch_lora_weights.safetensors is missing; restore it"):
        hub.player(run, 2)
    manifest = read_json(run / "round_2" / "manifest.json")  # now of a round that had no adapter
    del manifest["stages"]["training"]["files"]["lora/pytorch_lora_weights.safetensors"]
    write_json(run / "round_2" / "manifest.json", manifest)
    with pytest.raises(RunError, match="has no lora/: its round trained all weights"):
        hub.player(run, 2, "lora")
    weights = run / "round_1" / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({n: w + 1 for n, w in load_file(weights).items()}, weights)
    with pytest.raises(RunError, match="made with another player"):
        hub.player(run, 1)


def test_a_player_in_half_precision(run: Path, tmp_path: Path) -> None:
    source = hub.player(run)
    assert source == run / "round_2" / "pipeline"
    half = hub.export(source, tmp_path / "half")
    whole, small = (load_file(f / "unet" / "diffusion_pytorch_model.safetensors") for f in (source, half))
    assert {w.dtype for w in small.values()} == {torch.float16}
    assert all(torch.equal(small[n], whole[n].half()) for n in whole)
    assert (half / "README.md").read_text() == (source / "README.md").read_text()
    assert load_diffuser(half, torch.device("cpu")).image_size == (16, 16)  # a base of further runs
    with pytest.raises(ArgumentError, match="exists already; give a new folder"):
        hub.export(source, tmp_path / "half")
    path = source / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({n: w * 1e6 for n, w in whole.items()}, path, {"format": "pt"})
    with pytest.raises(ModelError, match="unet: the weight '.*' is too large for half precision"):
        hub.export(source, tmp_path / "other")
    assert not (tmp_path / "other").exists()


class Hub:
    """Stands in for the hub's client: keeps what would be uploaded."""

    uploaded: dict[str, dict[str, int]] = {}  # noqa: RUF012 - the client is made anew for every upload
    private: bool | None = None

    def create_repo(self, name: str, private: bool, exist_ok: bool) -> str:
        Hub.private = private
        if name.startswith("others/"):
            raise PermissionError("403 Forbidden")
        return f"address of {name}"

    def upload_folder(self, folder_path: Path, repo_id: str, commit_message: str) -> None:
        files = [p for p in Path(folder_path).rglob("*") if p.is_file()]
        Hub.uploaded[repo_id] = {p.relative_to(folder_path).as_posix(): p.stat().st_size for p in files}


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["selfimprove", *map(str, arguments)])
        command_line.main()
        return capsys.readouterr().out

    monkeypatch.setattr(hub, "HfApi", Hub)
    return run


def test_the_commands(run: Path, tmp_path: Path, command: Callable[..., str]) -> None:
    assert command("push", run, "--to", "me/player") == "model: address of me/player\n"
    assert Hub.private is True
    whole = Hub.uploaded["me/player"]
    assert {"README.md", "model_index.json", "unet/diffusion_pytorch_model.safetensors"} <= set(whole)
    command("push", run, "--to", "me/half", "--half", "--public")
    assert Hub.private is False
    assert Hub.uploaded["me/half"]["unet/diffusion_pytorch_model.safetensors"] < 0.6 * whole["unet/diffusion_pytorch_model.safetensors"]
    command("push", run, "--to", "me/lora", "--lora", "--round", 1)
    assert set(Hub.uploaded["me/lora"]) == {"README.md", "pytorch_lora_weights.safetensors"}
    with pytest.raises(SystemExit, match=r"error: to='others/player': the hub did not take it \(PermissionError: 403 Forbidden\); log in"):
        command("push", run, "--to", "others/player")
    with pytest.raises(SystemExit, match="error: to='no name!' cannot name a repository; give owner/name"):
        command("push", run, "--to", "no name!")
    assert command("export", run, "--into", tmp_path / "half") == f"model: {tmp_path / 'half'}\n"
    assert command("prune", run).endswith("B freed\n")
    with pytest.raises(SystemExit, match=r"error: run='nowhere' holds no run\.json"):
        command("prune", "nowhere")


def test_a_run_that_is_stopped_says_so_in_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """No traceback, where somebody has read the plan and pressed Ctrl+C; and a warning without its line of code."""

    def stopped(*_: object) -> None:
        warnings.warn("mind the gap", stacklevel=1)
        raise KeyboardInterrupt

    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(command_line, "_play", stopped)
    monkeypatch.setattr("sys.argv", ["selfimprove", "spin", "--iter", "1"])
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with pytest.raises(SystemExit, match="130"):
            command_line.main()
    assert capsys.readouterr().err == "warning: mind the gap\n\nstopped; the same command goes on from what is finished\n"
