"""Make what a round trains on, stage by stage: real latents, prompts, rollouts, scores, selection, weights. Each stage is done once.

Self-play trains on all rollouts, each paired with its real image. Recursive self-improvement trains on the rollouts that it selects,
with weights.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from torch import Tensor

from selfimprove.batches import TrainingSet, batch_rows
from selfimprove.config import Settings
from selfimprove.data.images import indexed
from selfimprove.data.latents import Part, Store, build_store, link_store
from selfimprove.draws import example_id
from selfimprove.evaluation.evaluate import save_image
from selfimprove.models.pipeline import model_hash
from selfimprove.opponent import check_identity
from selfimprove.recursion.judges import load_judge
from selfimprove.recursion.prompts import PromptSet, prepare, read_reports
from selfimprove.recursion.selection import KEPT_BY_HAND, SelectionError, select
from selfimprove.recursion.weighting import weigh
from selfimprove.rollout import sample_batches
from selfimprove.run import Run
from selfimprove.run_folder import identity_hash, write_json, write_table
from selfimprove.scorers import in_turn
from selfimprove.shapes.oracle import truth_hidden


def spin_training_set(run: Run, settings: Settings, opponent: Path, index: int) -> TrainingSet:
    """Return the run's real latents and text with this round's generated latents; stores that exist are read, others are made."""
    data, folder, dtype = run.data, run.folder.path, _precision(settings)
    captions, ids = [data.captions[i] for i in data.train], tuple(data.ids[i] for i in data.train)
    text, rows = _text(run, folder / "text", captions, dtype)
    real = build_store(
        folder / "real", len(captions),
        lambda r: _encoded(run, data.images([data.train[i] for i in r]), settings.flip), "real latents", dtype,
    )  # fmt: skip
    if settings.objective == "sft":
        return TrainingSet(ids, rows, text, real, None)
    chosen = _reached(run, settings, ids, index)
    if len(chosen) < len(ids):
        ids, rows, captions = tuple(ids[i] for i in chosen), [rows[i] for i in chosen], [captions[i] for i in chosen]
        real = Part(real, chosen)
    generated = _rollout(run, settings, opponent, index, captions, list(ids), [data.train[i] for i in chosen])
    weights = None if settings.pushing == 1 else torch.full((len(ids),), settings.pushing)
    if settings.weighting != "none":
        weights = settings.pushing * _weights(run, settings, index, list(ids), generated, range(len(ids)))
    return TrainingSet(ids, rows, text, real, generated, weights)


def held_out_latents(run: Run) -> Tensor:
    """Return the latents of the real images that are kept out of training, encoded once, a few images at a time."""
    data, few = run.data, run.diffuser.vae_batch

    def make(rows: range) -> dict[str, Tensor]:
        parts = [data.images([data.validation[i] for i in rows[start : start + few]]) for start in range(0, len(rows), few)]
        return {"mean": torch.cat([run.diffuser.encode(images)[0] for images in parts])}

    store = build_store(run.folder.path / "held_out", len(data.validation), make, "held-out latents")
    return store.take("mean", range(store.rows))


def _reached(run: Run, settings: Settings, ids: tuple[str, ...], index: int) -> list[int]:
    """Return the rows of the examples for which the opponent draws an image (`Settings.drawn`), in ascending order.

    Within the first epoch, these examples come in the same order as among all examples, so the batches are the same.
    """
    count = settings.drawn(len(ids), PartialState().num_processes, bool(run.opponent_cache))
    if count == len(ids):
        return list(range(len(ids)))
    return sorted(row for row, _ in batch_rows(ids, run.seed, index, 0, count))


def rsi_training_set(run: Run, settings: Settings, generator: Path, index: int) -> TrainingSet:
    """Return the training set of RSIDiff, Algorithm 1, up to the weights: prompts of the round, images, scores, selection, weights."""
    folder, dtype = run.folder.round(index), _precision(settings)
    prompts = prepared_prompts(run, settings).of_round(index, settings.samples)
    ids = [f"{index}-{example_id(*pair)}" for pair in indexed(prompts)]
    generated = _rollout(run, settings, generator, index, prompts, ids)
    scores = _scores(run, settings, index, ids, prompts, generated)
    kept = _selection(run, settings, index, scores, generated)
    if not run.folder.is_done(index, "weights"):
        with run.folder.stage(index, "weights", files=("selected.parquet",)):
            weight = np.ones(len(kept))
            if settings.weighting != "none":
                weight = _weights(run, settings, index, [ids[i] for i in kept], generated, kept).double().numpy()
            if settings.normalisation == "weights":
                weight = weight / weight.mean()
            columns = {"id": [ids[i] for i in kept], "prompt": [prompts[i] for i in kept], "row": list(kept), "weight": weight}
            write_table(folder / "selected.parquet", pd.DataFrame(columns))
    return _selected(run, settings, index, dtype)


def prepared_prompts(run: Run, settings: Settings) -> PromptSet:
    """Return the run's filtered prompts, made once and kept in `prompts.parquet` and `prompts.json` of the run folder."""
    assert run.collection is not None
    table, reports = run.folder.path / "prompts.parquet", run.folder.path / "prompts.json"
    if not reports.exists() and PartialState().is_main_process:
        judge = load_judge(settings.judge, str(run.diffuser.device)) if settings.prompt_source == "filtered" else None
        clusters = settings.clusters if settings.prompt_source == "filtered" else 0
        kept = 0 if settings.prompt_source == "template" else settings.kept
        made = prepare(run.collection, judge, run.diffuser.embed_pooled, clusters, kept, run.seed, run.folder.path / "judged.jsonl")
        write_table(table, pd.DataFrame({"prompt": made.prompts}))
        write_json(reports, [r._asdict() for r in made.reports])
    PartialState().wait_for_everyone()
    return PromptSet(pd.read_parquet(table)["prompt"].tolist(), read_reports(reports))


def _precision(settings: Settings) -> torch.dtype:
    return torch.float32 if settings.precision == "no" else torch.float16


def _text(run: Run, folder: Path, captions: list[str], dtype: torch.dtype) -> tuple[Store, list[int]]:
    """Return the embeddings of all different captions, the empty caption first, and the row of each caption."""
    texts = ["", *sorted(set(captions))]
    store = build_store(folder, len(texts), lambda r: {"embedding": run.diffuser.embed(texts[r.start : r.stop])}, "text", dtype)
    rows = {caption: row for row, caption in enumerate(texts)}
    return store, [rows[c] for c in captions]


def _encoded(run: Run, images: Tensor, flip: bool) -> dict[str, Tensor]:
    mean, std = run.diffuser.encode(images)
    tensors = {"mean": mean, "std": std}
    if flip:
        tensors["mean_flipped"], tensors["std_flipped"] = run.diffuser.encode(images.flip(3))
    return tensors


def _rollout(
    run: Run, settings: Settings, opponent: Path, index: int, captions: list[str], ids: list[str], partners: Sequence[int] = ()
) -> Store:
    """Return the images that `opponent` draws for a round's captions, x'_0 ~ p_{theta_k}(. | c), as latents.

    `partners`: rows in the data of the real images beside them, for a `generated_source` other than "rollout".
    """
    diffuser, data = run.diffuser, run.data
    drawn = 1 if settings.opponent == "base" else index  # a frozen opponent keeps its images

    def make(rows: range) -> dict[str, Tensor]:
        part = slice(rows.start, rows.stop)
        if settings.generated_source != "rollout":
            fetch = data.fetch_loser if settings.generated_source == "loser" else data.fetch_fresh
            assert fetch is not None
            images = torch.stack([fetch(partners[i]) for i in rows])
            if settings.generated_source == "real-reencoded":
                images = diffuser.decode(diffuser.encode(images)[0])
            return _encoded(run, images, settings.flip)
        latents = sample_batches(
            diffuser, unet, captions[part], ids[part], settings.rollout_batch, "sampling", settings.precision, seed=run.seed,
            stream="rollout", round_index=drawn, steps=settings.rollout_steps, guidance=settings.guidance, eta=settings.eta,
            sampler=settings.sampler,
        )  # fmt: skip
        if settings.generated_latents == "raw":
            raw = {"mean": latents, "std": torch.zeros_like(latents)}
            return raw | ({"mean_flipped": latents.flip(3), "std_flipped": raw["std"]} if settings.flip else {})
        parts = [_encoded(run, diffuser.decode(z), settings.flip) for z in latents.split(settings.rollout_batch)]
        return {name: torch.cat([p[name] for p in parts]) for name in parts[0]} | {"sampled": latents}

    folder, weights = run.folder.round(index), model_hash(opponent)
    if run.folder.is_done(index, "rollout"):
        run.folder.check_same(index, "rollout", opponent=weights, images=len(ids))
        return Store(folder / "rollout")
    with run.folder.stage(index, "rollout", opponent=weights, images=len(ids)):
        if cache := run.cache_of(index, weights):
            check_identity(cache / "rollout.json", _drawn_from(run, settings, weights, drawn, captions, ids))
        unet = diffuser.load_unet(opponent).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        write_table(folder / "prompts.parquet", pd.DataFrame({"id": ids, "prompt": captions}))
        into = cache / "rollout" if cache else folder / "rollout"
        store = build_store(into, len(captions), make, f"round {index}: rollout", _precision(settings))
        return link_store(into, folder / "rollout") if cache else store


def _drawn_from(run: Run, settings: Settings, opponent: str, round_index: int, captions: list[str], ids: list[str]) -> dict[str, Any]:
    """Return everything that the images of a rollout depend on."""
    names = ("generated_source", "rollout_steps", "guidance", "eta", "sampler", "generated_latents", "flip", "precision")
    examples = identity_hash({"ids": ids, "captions": captions, "data": run.folder.identity["data"]})
    return {"opponent": opponent, "examples": examples, "seed": run.seed, "round": round_index} | {n: getattr(settings, n) for n in names}


def sampled_images(run: Run, store: Store, rows: range) -> Tensor:
    """Return the images of some rollouts, (B, 3, H, W) in [0, 1], decoded from the sampled latents."""
    return run.diffuser.decode(store.take("sampled" if store.has("sampled") else "mean", rows))


def _scores(run: Run, settings: Settings, index: int, ids: list[str], prompts: list[str], generated: Store) -> pd.DataFrame:
    """Return each candidate's score by every scorer that selects, kept in `pool.parquet`."""
    folder, names = run.folder.round(index), [name for name, _ in settings.metrics]

    def make(rows: range) -> dict[str, Tensor]:
        images = sampled_images(run, generated, rows)
        found = {}
        for name in names:
            with truth_hidden(), in_turn(run.scorers[name]) as scorer:
                found[name] = scorer(images, [prompts[i] for i in rows])[:, None]
        return found

    if not run.folder.is_done(index, "scores"):
        with run.folder.stage(index, "scores", files=("pool.parquet",)):
            frame = pd.DataFrame({"id": ids, "prompt": prompts})
            if names:
                scored = build_store(folder / "pool", len(ids), make, f"round {index}: scoring the pool")
                frame = frame.assign(**{name: scored.take(name, range(len(ids)))[:, 0].double().numpy() for name in names})
            write_table(folder / "pool.parquet", frame)
    return pd.read_parquet(folder / "pool.parquet")


def _selection(run: Run, settings: Settings, index: int, scores: pd.DataFrame, generated: Store) -> list[int]:
    """Return the rows of the rollout that the round trains on; `selection.parquet` holds the reasons."""
    folder = run.folder.round(index)
    if not run.folder.is_done(index, "selection"):
        kept = _kept_by_hand(run, folder, scores, generated) if settings.strategy == "manual" else []
        with run.folder.stage(index, "selection", files=("selection.parquet",)):
            frame = select(
                scores, dict(settings.metrics), settings.strategy, settings.selected, run.seed * 1000 + index, settings.combination,
                settings.threshold, kept,
            )  # fmt: skip
            write_table(folder / "selection.parquet", frame)
    chosen = pd.read_parquet(folder / "selection.parquet")["kept"].to_numpy()
    return np.flatnonzero(chosen).tolist()


def _kept_by_hand(run: Run, folder: Path, scores: pd.DataFrame, generated: Store) -> list[str]:
    """Return the ids in `kept.txt`, one per line; without the file, write the candidates as images and raise, so that the round waits."""
    path = folder / KEPT_BY_HAND
    if not path.exists():
        pictures = folder / "candidates"
        pictures.mkdir(exist_ok=True)
        for start in range(0, len(scores), 64):
            rows = range(start, min(start + 64, len(scores)))
            for row, image in zip(rows, sampled_images(run, generated, rows), strict=True):
                save_image(image, pictures / f"{scores['id'][row]}.png")
        raise SelectionError(
            f"strategy='manual' waits for you: choose in a notebook with selfimprove.study.grid.select_by_hand({str(folder)!r}).show(), "
            f"or look at {pictures} and write the ids to keep (the file names without .png), one a line, into {path}; then run again; "
            "everything done so far is kept"
        )
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]


def _references(run: Run) -> tuple[Tensor, list[str]]:
    """Return D_0, the base model's samples of round 1, which never change, and their ids."""
    first = run.folder.round(1)
    store = Store(first / "rollout")
    return store.take("mean", range(store.rows)), pd.read_parquet(first / "prompts.parquet")["id"].tolist()


def _weights(run: Run, settings: Settings, index: int, ids: list[str], generated: Store, rows: list[int] | range) -> Tensor:
    references, reference_ids = _references(run)
    own = ids if index == 1 else [f"{index}/{i}" for i in ids]  # the same prompt in another round is another sample
    result = weigh(
        generated.take("mean", rows), own, references, reference_ids, settings.distance, settings.reference, settings.neighbours,
        settings.weight_beta, settings.weight_sigma2, settings.weight_quantile, run.diffuser.scaling_factor,
    )  # fmt: skip
    frame = pd.DataFrame({"id": ids, "distance": result.distance.numpy(), "weight": result.weight.numpy()})
    write_table(run.folder.round(index) / "weights.parquet", frame)
    edges = result.edges._asdict() | {"distance": settings.distance, "reference": settings.reference}
    write_json(run.folder.round(index) / "edges.json", edges)
    return result.weight


def _selected(run: Run, settings: Settings, index: int, dtype: torch.dtype) -> TrainingSet:
    """Return the selected samples of this round (with `accumulate`, of all rounds so far) and the real images, if any, as one set."""
    rounds = range(1, index + 1) if settings.accumulate else [index]
    frames = {k: pd.read_parquet(run.folder.round(k) / "selected.parquet") for k in rounds}
    stores = {k: Store(run.folder.round(k) / "rollout") for k in rounds}
    entries = [(stores[k], int(row)) for k, frame in frames.items() for row in frame["row"]]
    ids = [i for frame in frames.values() for i in frame["id"]]
    prompts = [p for frame in frames.values() for p in frame["prompt"]]
    weights = [w for frame in frames.values() for w in frame["weight"]]
    data = run.data
    real = data.train[: settings.real_samples]
    ids += [f"real-{data.ids[i]}" for i in real]
    prompts += [data.captions[i] for i in real]
    weights += [1.0] * len(real)

    def make(rows: range) -> dict[str, Tensor]:
        parts = []
        for row in rows:
            if row < len(entries):
                store, where = entries[row]
                parts.append({name: store.take(name, [where]) for name in names})
            else:
                parts.append(_encoded(run, data.images([real[row - len(entries)]]), settings.flip))
        return {name: torch.cat([p[name] for p in parts]) for name in names}

    names = ["mean", "std"] + (["mean_flipped", "std_flipped"] if settings.flip else [])
    folder = run.folder.round(index)
    text, text_rows = _text(run, folder / "text", prompts, dtype)
    latents = build_store(folder / "selected", len(ids), make, f"round {index}: training latents", dtype)
    return TrainingSet(tuple(ids), text_rows, text, latents, None, torch.tensor(weights, dtype=torch.float32))
