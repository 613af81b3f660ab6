"""Play rounds of self-play and of recursive self-improvement, each a list of resumable stages in a run folder.

Round k starts from the player of round k-1: make the training set (`selfimprove.stages`), train, evaluate. Round 0 is the evaluation
of the base model.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from accelerate import PartialState
from torch import nn

from selfimprove import shapes
from selfimprove.batches import TrainingSet
from selfimprove.config import Settings
from selfimprove.draws import integers
from selfimprove.evaluation.aggregate import summarise
from selfimprove.evaluation.evaluate import HeldOut, draw, evaluate, evaluation_latents, held_out_error
from selfimprove.evaluation.watch import Watch
from selfimprove.files import read_json, replacing, write_json, write_table
from selfimprove.models.execution import compiled, laid_out, rounded
from selfimprove.models.lora import FILE as ADAPTER
from selfimprove.models.lora import Adapters
from selfimprove.models.pipeline import load_denoiser
from selfimprove.models.players import write_pipeline
from selfimprove.models.weights import model_hash
from selfimprove.opponent import LiveOpponent, Opponent, precompute
from selfimprove.publishing.card import CARD, write_card
from selfimprove.recursion.collapse import drift, sampled_rows, warn_of_collapse
from selfimprove.rsi_stages import prepared_prompts, rsi_training_set
from selfimprove.run import Run
from selfimprove.run_folder import RunFolder, identity_hash, lasting
from selfimprove.stages import held_out_latents, spin_training_set
from selfimprove.train import CHECKPOINT, step_away, train


class RoundState(NamedTuple):
    """What the next round needs: the number of the last round that was played, and its player, a pipeline folder."""

    number: int
    player: Path


class RoundInfo(NamedTuple):
    """What diagnostics need: metrics, training log (None for round 0), and whether this call evaluated the round (else read it back)."""

    metrics: dict[str, Any]
    log: pd.DataFrame | None
    played: bool


def play(run: Run, last: int) -> list[RoundInfo]:
    """Play the missing rounds from 0 to `last`, and return one `RoundInfo` per round; finished rounds are read back."""
    recursive = run.preset.settings.objective == "weighted"
    if recursive:
        prepared_prompts(run, run.preset.settings)  # first, so that an error in the prompts shows before any sampling
    state, infos = RoundState(-1, run.diffuser.folder), []
    for _ in range(last + 1):
        state, info = (rsi_round if recursive else spin_round)(state, run)
        infos.append(info)
    return infos


def play_share(run: Run, last: int) -> None:
    """Make this process's share of all that rounds up to `last` can share out, until a round must be trained: see `processes.take_share`.

    Shared out are real latents, texts, rollouts, scores of pools, answers of judges, and the images of evaluations. A share finishes no
    stage and trains nothing: `play` does, once all shares are there.

    Raises:
        IncompleteError: the next thing to make needs shards of other shares, which are missing, or a stage that `play` finishes.
    """
    recursive, player = run.preset.settings.objective == "weighted", run.diffuser.folder
    if recursive:
        prepared_prompts(run, run.preset.settings)
    for index in range(last + 1):
        if index > 0 and not run.folder.is_done(index, "training"):
            settings = run.preset.for_round(index)
            if recursive:
                made = rsi_training_set(run, settings, player, index)
            else:
                made = spin_training_set(run, settings, _opponent(RoundState(index - 1, player), run, settings), index)
            made.fingerprint()  # raises if a store lacks shards
            return
        player = run.folder.round(index) / "pipeline" if index else player
        weights = model_hash(player)
        if not run.folder.is_done(index, "evaluation"):
            with run.folder.stage(index, "evaluation", rebind=True, player=weights, judged_by=_judged_by(run)):
                denoiser = run.drawing(player, run.preset.settings)
                draw(run.diffuser, denoiser, run.data, run.preset.settings, run.folder.round(index), weights)


def spin_round(state: RoundState, run: Run) -> tuple[RoundState, RoundInfo]:
    """Play the round after `state.number`: rollout, training and evaluation, each done once (SPIN-Diffusion, Algorithm 1).

    With objective "sft" there is no opponent and no rollout.
    """
    index = state.number + 1
    if index > 0 and not run.folder.is_done(index, "training"):
        settings = run.preset.for_round(index)
        opponent = _opponent(state, run, settings)
        samples = spin_training_set(run, settings, opponent, index)
        _train(run, settings, samples, state.player, opponent, index)
    return _finish(state, run)


def rsi_round(state: RoundState, run: Run) -> tuple[RoundState, RoundInfo]:
    """Play the round after `state.number`: prompts, rollout, scores, selection, weights, training, evaluation (RSIDiff, Algorithm 1)."""
    index = state.number + 1
    if index > 0 and not run.folder.is_done(index, "training"):
        settings = run.preset.for_round(index)
        samples = rsi_training_set(run, settings, state.player, index)
        _train(run, settings, samples, state.player, state.player, index)
    return _finish(state, run)


def _opponent(state: RoundState, run: Run, settings: Settings) -> Path:
    if settings.opponent == "previous":
        return state.player
    earlier = int(integers(run.seed, "opponent", (state.number + 1,), ["round"], state.number + 1)) if settings.opponent == "earlier" else 0
    return run.folder.round(earlier) / "pipeline" if earlier else run.diffuser.folder


def _finish(state: RoundState, run: Run) -> tuple[RoundState, RoundInfo]:
    """Evaluate the round after `state.number`, unless that is done, and return its state and results."""
    index = state.number + 1
    folder = run.folder.round(index)
    if index > 0:
        opponent = model_hash(_opponent(state, run, run.preset.for_round(index)))
        made_from = {"opponent": opponent, "start": model_hash(state.player)}
        run.folder.check_same(index, "training", **made_from, player=model_hash(folder / "pipeline"))
    player = folder / "pipeline" if index > 0 else state.player
    run.folder.check_same(index, "evaluation", player=model_hash(player))
    judged_by = _judged_by(run)
    played = not run.folder.is_done(index, "evaluation") or run.folder.record(index, "evaluation").get("judged_by") != judged_by
    if played:
        _evaluate(run, player, index, judged_by)
    metrics = read_json(folder / "metrics.json")
    log = pd.read_parquet(folder / "train.parquet") if index > 0 else None
    if index > 0:
        if played or not (player / CARD).exists():
            write_card(run, index)
        warn_of_collapse(index, metrics["drift"], run.preset.for_round(index).on_collapse)
    return RoundState(index, player), RoundInfo(metrics, log, played)


def _train(run: Run, settings: Settings, data: TrainingSet, start: Path, opponent_folder: Path, index: int) -> None:
    folder, work = run.folder.round(index), run.folder.round(index) / "training"
    opponent_hash, errors_from = model_hash(opponent_folder), "precomputed" if run.opponent_cache and data.generated else "network"
    made_from: dict[str, Any] = {"opponent": opponent_hash, "start": model_hash(start), "data": data.fingerprint()}
    files = ("train.parquet", *([f"lora/{ADAPTER}"] if settings.lora_rank else []))
    with run.folder.stage(index, "training", files=files, **made_from) as record:
        record["opponent_errors"] = errors_from  # the same up to rounding
        record |= {"examples": data.images, "steps": settings.steps_for(data.images)}
        rank, base, adapters = settings.lora_rank, _adapted(run, start) if settings.lora_rank else start, None
        device, precision = run.diffuser.device, settings.precision
        player = load_denoiser(base).requires_grad_(True)
        if settings.resolution and "sample_size" in player.config:  # the size that plain diffusers draws at
            player.register_to_config(sample_size=run.diffuser.latent_shape[1])
        if not rank and PartialState().is_main_process:  # the last round may be trained on; the others' states, of three networks each, go
            (run.folder.round(index - 1) / "training" / CHECKPOINT).unlink(missing_ok=True)
        opponent: Opponent | None = None
        network: Any = None
        if rank:
            adapters = Adapters(player, run.diffuser.family, rank, settings.lora_alpha, settings.lora_targets, settings.use_dora)
            adapters.add_player(_adapter(start, base), run.seed, index)
        if data.generated:
            if adapters and base == _adapted(run, opponent_folder):
                network = adapters.opponent(_adapter(opponent_folder, base))
            else:
                network = laid_out(run.diffuser.load_frozen(opponent_folder, precision), device, precision)
        exact = not adapters or settings.use_dora  # DoRA asks for the lengths of weights, outside of autocast
        player = laid_out(player if exact else rounded(player, precision), device, precision)
        if settings.compile:
            player, network = compiled(player), compiled(network) if isinstance(network, nn.Module) else network
        if data.generated:
            opponent = LiveOpponent(network)
            if cache := run.cache_of(index, opponent_hash):
                opponent = precompute(cache, network, opponent_hash, data, run.diffuser.schedule, settings, run.seed, index)
        del network  # frees the memory if the errors are precomputed
        # not the data: a longer training may draw for further examples
        named = identity_hash({"round": index, "opponent": opponent_hash, "start": made_from["start"], "run": lasting(run.folder.identity)})
        log = train(player, opponent, data, run.diffuser.schedule, settings, run.seed, index, work, named, _watch(run, settings, index))
        if settings.neon:
            step_away(player, run.diffuser.load_denoiser(start), settings.neon)
        if PartialState().is_main_process:
            if adapters:
                adapters.merge(folder / "lora", None if exact or precision == "no" else load_denoiser(base))
            with replacing(folder / "pipeline") as unfinished:
                write_pipeline(unfinished, player, run.diffuser.folder)
            record["player"] = model_hash(folder / "pipeline")
            write_table(folder / "train.parquet", log)


def _adapted(run: Run, player: Path) -> Path:
    """Return the pipeline that a player's adapter changes: the last one without an adapter, at least the base model."""
    while _adapter(player, run.diffuser.folder):
        index = int(player.parent.name.removeprefix("round_"))
        player = run.folder.round(index - 1) / "pipeline" if index > 1 else run.diffuser.folder
    return player


def _adapter(player: Path, base: Path) -> Path | None:
    """Return the folder of a player's adapter on `base`, None if the player is the base or has changed all weights."""
    folder = player.parent / "lora"
    return folder if player != base and (folder / ADAPTER).exists() else None


def _watch(run: Run, settings: Settings, index: int) -> Watch | None:
    """Return what looks at the player of a round while it trains, if anything does."""
    if not (settings.sample_every or settings.validate_every):
        return None
    data, prompts = run.data, [prompt for prompt, _ in run.data.evaluation]
    captions, ids = [data.captions[i] for i in data.validation], [data.ids[i] for i in data.validation]
    held_out = HeldOut(held_out_latents(run), captions) if settings.validate_every else None
    return Watch(run.diffuser, prompts, data.evaluation_ids(), held_out, ids, settings, run.folder.round(index))


def _judged_by(run: Run) -> dict[str, Any]:
    """Return what an evaluation depends on beside the player. One that differs is done again; images that are the same are kept."""
    settings = run.preset.settings
    names = ("evaluation_images", "evaluation_steps", "evaluation_guidance", "evaluation_part", "precision")
    scorers = {name: getattr(scorer, "version", name) for name, scorer in run.scorers.items()}
    prompts = identity_hash({"prompts": run.data.evaluation})
    return {name: getattr(settings, name) for name in names} | {"prompts": prompts, "scorers": scorers}


def _evaluate(run: Run, player: Path, index: int, judged_by: dict[str, Any]) -> None:
    """Write the scores of a round's player, and their differences from earlier rounds."""
    folder, data, diffuser = run.folder.round(index), run.data, run.diffuser
    weights, name = model_hash(player), f"round {index}" if index else "base"
    files = ("scores.parquet", "metrics.json", "evaluation/store.json", *(["held_out.parquet"] if data.validation else []))
    with run.folder.stage(index, "evaluation", files, rebind=True, player=weights, judged_by=judged_by):
        denoiser = run.drawing(player, run.preset.settings)
        held_out = None
        if data.validation:
            captions, ids = [data.captions[i] for i in data.validation], [data.ids[i] for i in data.validation]
            real = held_out_latents(run)
            held_out = HeldOut(real, captions)
            errors = held_out_error(diffuser, denoiser, real, captions, ids, run.preset.settings)
            frame = pd.DataFrame({"id": ids, "prompt": captions, "image": 0, "held_out_error": errors.numpy()})
            write_table(folder / "held_out.parquet", frame)
        scored = evaluate(diffuser, denoiser, data, run.scorers, held_out, run.preset.settings, folder, name, weights)
        if PartialState().is_main_process:
            write_json(folder / "metrics.json", _metrics(run.folder, index, scored.table))


def _drift(folder: RunFolder, index: int, scores: pd.DataFrame) -> dict[str, float]:
    """Return the signs of collapse of a round, as ratios to the base model's values, from at most `SAMPLED` of its images."""
    rows = sampled_rows(scores["id"].tolist())
    now, base = (evaluation_latents(folder.round(k), rows) for k in (index, 0))
    return drift(now, base, scores["prompt"].iloc[rows].tolist())


def _metrics(folder: RunFolder, index: int, scores: pd.DataFrame) -> dict[str, Any]:
    def earlier(name: str, which: int) -> pd.DataFrame | None:
        return pd.read_parquet(folder.round(which) / name) if 0 <= which < index else None

    summary = summarise(scores, earlier("scores.parquet", index - 1), earlier("scores.parquet", 0))
    if (folder.round(index) / "held_out.parquet").exists():
        held_out = pd.read_parquet(folder.round(index) / "held_out.parquet")
        summary |= summarise(held_out, earlier("held_out.parquet", index - 1), earlier("held_out.parquet", 0))
    oracle = {k.removeprefix("oracle_"): summary.pop(k) for k in list(summary) if k.startswith("oracle_")}
    metrics: dict[str, Any] = {
        "round": index,
        "model": folder.identity["model"],
        "n_prompts": int(scores["prompt"].nunique()),
        "scores": summary,
    }
    if oracle:
        ceiling = json.loads((shapes.ASSETS / "card.json").read_text())["oracle"]
        metrics["oracle"] = oracle | {"ceiling": ceiling}
    if index > 0:
        metrics["drift"] = _drift(folder, index, scores)
        log = pd.read_parquet(folder.round(index) / "train.parquet")
        metrics["train"] = {"loss_first": float(log["loss"].iloc[0]), "loss_last": float(log["loss"].iloc[-1])}
        if "implicit_accuracy" in log:
            metrics["train"]["implicit_accuracy"] = float(log["implicit_accuracy"].tail(10).mean())
    return metrics
