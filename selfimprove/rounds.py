"""Rounds of self-play, each a list of resumable stages in a run folder.

Round k starts from round k-1's player, which is also its opponent: real latents (once a run) -> rollout -> training ->
evaluation. Round 0 is the base model's evaluation.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from accelerate import PartialState
from torch import Tensor

from selfimprove import shapes
from selfimprove.config import Preset, Settings
from selfimprove.data import DataError, ImageText, load_data
from selfimprove.evaluate import evaluate, held_out_error, summarise
from selfimprove.latents import Store, build_store
from selfimprove.models import Diffuser, load_diffuser, model_hash, resolve_model, write_pipeline
from selfimprove.rollout import sample_batches
from selfimprove.runs import RunFolder, identity_hash, open_run, write_json
from selfimprove.train import TrainingSet, train


class RoundState(NamedTuple):
    """What the next round needs: the number of the last one played and its player, a pipeline folder."""

    number: int
    player: Path


class RoundInfo(NamedTuple):
    """What diagnostics need: the metrics, the training log (None for round 0), and whether it was computed just now."""

    metrics: dict[str, Any]
    log: pd.DataFrame | None
    played: bool


@dataclass(frozen=True)
class Game:
    """A run that is set up and checked: preset, loaded base pipeline, data, seed, folder."""

    preset: Preset
    diffuser: Diffuser
    data: ImageText
    seed: int
    run: RunFolder

    @property
    def truncated(self) -> list[str]:
        """Captions that the tokenizer's limit cuts."""
        return self.diffuser.truncated(self.data.captions)


def set_up(preset: Preset, name: str, model: str = "", data: str = "", run: str | Path = "", seed: int = 0, device: str = "") -> Game:
    """Check everything and load model and data; nothing expensive, nothing written but run.json.

    Empty `model`, `data`: the preset's. Empty `run`: `runs/<name>-<hash of the identity>`. Empty `device`: a GPU if there is one.

    Raises:
        ValueError: `ModelError`, `DataError` or `RunError`, which say what is wrong and what to do.
    """
    chosen = torch.device(device) if device else PartialState().device
    settings = preset.settings
    folder = resolve_model(model or preset.model)
    diffuser = load_diffuser(folder, chosen)
    images = load_data(data or preset.data, settings.samples, settings.validation, settings.evaluation_prompts, diffuser.image_size, seed)
    if settings.generated_source != "rollout" and images.fetch_fresh is None:
        raise DataError(f"generated_source={settings.generated_source!r} needs fresh real images, which only data='shapes' can give")
    identity = {**preset.identity(), "model": model_hash(folder), "data": images.fingerprint, "seed": seed}
    path = Path(run) if run else Path("runs") / f"{name}-{identity_hash(identity)}"
    return Game(preset, diffuser, images, seed, open_run(path, identity, {"preset": name, "data_name": images.name}))


def play(game: Game, last: int) -> list[RoundInfo]:
    """Rounds 0 to `last`, those missing; finished ones are read back."""
    state, infos = RoundState(-1, game.diffuser.folder), []
    for _ in range(last + 1):
        state, info = spin_round(state, game)
        infos.append(info)
    return infos


def spin_round(state: RoundState, game: Game) -> tuple[RoundState, RoundInfo]:
    """Play the round after `state.number`: rollout, training and evaluation, each done once (SPIN-Diffusion, Algorithm 1)."""
    index = state.number + 1
    folder = game.run.round(index)
    played = not game.run.is_done(index, "evaluation")
    player = state.player
    if index > 0:
        settings = game.preset.for_round(index)
        player = folder / "pipeline"
        if not game.run.is_done(index, "training"):
            opponent = game.diffuser.folder if settings.opponent == "base" else state.player
            training_set = _training_set(game, settings, opponent, index)
            _train(game, settings, training_set, state.player, opponent, index)
    if played:
        _evaluate(game, player, index)
    metrics = json.loads((folder / "metrics.json").read_text())
    log = pd.read_parquet(folder / "train.parquet") if index > 0 else None
    return RoundState(index, player), RoundInfo(metrics, log, played)


def _precision(settings: Settings) -> torch.dtype:
    return torch.float32 if settings.precision == "no" else torch.float16


def _encoded(game: Game, images: Tensor, flip: bool) -> dict[str, Tensor]:
    mean, std = game.diffuser.encode(images)
    tensors = {"mean": mean, "std": std}
    if flip:
        tensors["mean_flipped"], tensors["std_flipped"] = game.diffuser.encode(images.flip(3))
    return tensors


def _training_set(game: Game, settings: Settings, opponent: Path, index: int) -> TrainingSet:
    """Real latents and text of the run, and this round's generated latents; whatever is there already is read."""
    data, folder, dtype = game.data, game.run.path, _precision(settings)
    captions = [data.captions[i] for i in data.train]
    texts = ["", *sorted(set(captions))]
    text = build_store(folder / "text", len(texts), lambda r: {"embedding": game.diffuser.embed(texts[r.start : r.stop])}, "text", dtype)
    real = build_store(
        folder / "real", len(captions),
        lambda r: _encoded(game, data.images([data.train[i] for i in r]), settings.flip), "real latents", dtype,
    )  # fmt: skip
    generated = None
    if settings.objective == "spin":
        ids = [data.ids[i] for i in data.train]
        with game.run.stage(index, "rollout", opponent=model_hash(opponent)):
            pd.DataFrame({"id": ids, "prompt": captions}).to_parquet(game.run.round(index) / "prompts.parquet")
            generated = _generated(game, settings, opponent, index, captions, ids)
    rows = {caption: row for row, caption in enumerate(texts)}
    return TrainingSet(tuple(data.ids[i] for i in data.train), [rows[c] for c in captions], text, real, generated)


def _generated(game: Game, settings: Settings, opponent: Path, index: int, captions: list[str], ids: list[str]) -> Store:
    """The opponent's images of the training prompts, as latents: x'_0 ~ p_{theta_k}(. | c)."""
    diffuser, data = game.diffuser, game.data
    unet = diffuser.load_unet(opponent)

    def make(rows: range) -> dict[str, Tensor]:
        part = slice(rows.start, rows.stop)
        if settings.generated_source != "rollout":
            assert data.fetch_fresh is not None
            images = torch.stack([data.fetch_fresh(data.train[i]) for i in rows])
            if settings.generated_source == "real-reencoded":
                images = diffuser.decode(diffuser.encode(images)[0])
            return _encoded(game, images, settings.flip)
        latents = sample_batches(
            diffuser, unet, captions[part], ids[part], settings.rollout_batch, "sampling", seed=game.seed, stream="rollout",
            round_index=index, steps=settings.rollout_steps, guidance=settings.guidance, eta=settings.eta,
        )  # fmt: skip
        if settings.generated_latents == "raw":
            raw = {"mean": latents, "std": torch.zeros_like(latents)}
            return raw | ({"mean_flipped": latents.flip(3), "std_flipped": raw["std"]} if settings.flip else {})
        parts = [_encoded(game, diffuser.decode(z), settings.flip) for z in latents.split(settings.rollout_batch)]
        return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}

    return build_store(game.run.round(index) / "rollout", len(captions), make, f"round {index}: rollout", _precision(settings))


def _train(game: Game, settings: Settings, data: TrainingSet, start: Path, opponent_folder: Path, index: int) -> None:
    folder, work = game.run.round(index), game.run.round(index) / "training"
    with game.run.stage(index, "training", files=("train.parquet",), opponent=model_hash(opponent_folder)):
        player = game.diffuser.load_unet(start)
        opponent = game.diffuser.load_unet(opponent_folder).requires_grad_(False) if data.generated else None
        log = train(player, opponent, data, game.diffuser.schedule, settings, game.seed, index, work)
        if PartialState().is_main_process:
            unfinished = folder / "pipeline.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            write_pipeline(unfinished, player, game.diffuser.folder)
            shutil.rmtree(folder / "pipeline", ignore_errors=True)
            unfinished.rename(folder / "pipeline")
            log.to_parquet(folder / "train.parquet")
            (work / "training.pt").unlink(missing_ok=True)


def _evaluate(game: Game, player: Path, index: int) -> None:
    """Scores of a round's player, and their differences to the rounds before."""
    folder, data, diffuser = game.run.round(index), game.data, game.diffuser
    with game.run.stage(index, "evaluation", files=("scores.parquet", "metrics.json"), player=model_hash(player)):
        settings = game.preset.settings
        unet = diffuser.load_unet(player)
        real, _ = diffuser.encode(data.images(data.validation))
        text = diffuser.embed([data.captions[i] for i in data.validation])
        scores = evaluate(diffuser, unet, data, (real, text), settings, folder)
        errors = held_out_error(diffuser, unet, real, text, [data.ids[i] for i in data.validation])
        pd.DataFrame(
            {"id": [data.ids[i] for i in data.validation], "prompt": [data.captions[i] for i in data.validation], "image": 0,
             "held_out_error": errors.numpy()}
        ).to_parquet(folder / "held_out.parquet")  # fmt: skip
        write_json(folder / "metrics.json", _metrics(game.run, index, scores))


def _metrics(run: RunFolder, index: int, scores: pd.DataFrame) -> dict[str, Any]:
    def earlier(name: str, which: int) -> pd.DataFrame | None:
        return pd.read_parquet(run.round(which) / name) if 0 <= which < index else None

    summary = summarise(scores, earlier("scores.parquet", index - 1), earlier("scores.parquet", 0))
    held_out = pd.read_parquet(run.round(index) / "held_out.parquet")
    summary |= summarise(held_out, earlier("held_out.parquet", index - 1), earlier("held_out.parquet", 0))
    oracle = {k.removeprefix("oracle_"): summary.pop(k) for k in list(summary) if k.startswith("oracle_")}
    metrics: dict[str, Any] = {
        "round": index,
        "model": run.identity["model"],
        "n_prompts": int(scores["prompt"].nunique()),
        "scores": summary,
    }
    if oracle:
        ceiling = json.loads((shapes.ASSETS / "card.json").read_text())["oracle"]
        metrics["oracle"] = oracle | {"ceiling": ceiling}
    if index > 0:
        log = pd.read_parquet(run.round(index) / "train.parquet")
        metrics["train"] = {"loss_first": float(log["loss"].iloc[0]), "loss_last": float(log["loss"].iloc[-1])}
        if "implicit_accuracy" in log:
            metrics["train"]["implicit_accuracy"] = float(log["implicit_accuracy"].tail(10).mean())
    return metrics
