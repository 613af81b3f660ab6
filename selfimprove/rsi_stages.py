"""Make what a round of recursive self-improvement trains on: prompts, rollout, scores, selection, weights. Each stage is done once."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from selfimprove.batches import TrainingSet
from selfimprove.config import Settings
from selfimprove.data.images import indexed
from selfimprove.data.latents import Rows, Store, build_store
from selfimprove.draws import example_id
from selfimprove.evaluation.evaluate import save_image
from selfimprove.files import write_json, write_table
from selfimprove.processes import IncompleteError, share
from selfimprove.recursion.judges import load_judge
from selfimprove.recursion.prompts import PromptSet, prepare, read_reports
from selfimprove.recursion.selection import KEPT_BY_HAND, SelectionError, select
from selfimprove.run import Run
from selfimprove.scorers import in_turn
from selfimprove.shapes.oracle import truth_hidden
from selfimprove.stages import distance_weights, real_latents, rollout_store, sampled_images, stored_as, text_store


def rsi_training_set(run: Run, settings: Settings, generator: Path, index: int) -> TrainingSet:
    """Return the training set of RSIDiff, Algorithm 1, up to the weights: prompts of the round, images, scores, selection, weights."""
    folder, dtype = run.folder.round(index), stored_as(settings)
    prompts = prepared_prompts(run, settings).of_round(index, settings.samples)
    ids = [f"{index}-{example_id(*pair)}" for pair in indexed(prompts)]
    generated = rollout_store(run, settings, generator, index, prompts, ids)
    scores = _scores(run, settings, index, ids, prompts, generated)
    kept = _selection(run, settings, index, scores, generated)
    if not run.folder.is_done(index, "weights"):
        with run.folder.stage(index, "weights", files=("selected.parquet",)):
            weight = np.ones(len(kept))
            if settings.weighting != "none":
                weight = distance_weights(run, settings, index, [ids[i] for i in kept], generated, kept).double().numpy()
            if settings.normalisation == "weights":
                weight = weight / weight.mean()
            columns = {"id": [ids[i] for i in kept], "prompt": [prompts[i] for i in kept], "row": list(kept), "weight": weight}
            write_table(folder / "selected.parquet", pd.DataFrame(columns))
    return _selected(run, settings, index, dtype)


def prepared_prompts(run: Run, settings: Settings) -> PromptSet:
    """Return the run's filtered prompts, made once and kept in `prompts.parquet` and `prompts.json` of the run folder."""
    assert run.collection is not None
    table, reports = run.folder.path / "prompts.parquet", run.folder.path / "prompts.json"
    if run.folder.is_done(0, "prompts"):
        run.folder.record(0, "prompts")
        return PromptSet(pd.read_parquet(table)["prompt"].tolist(), read_reports(reports))
    with run.folder.stage(0, "prompts", files=(f"../{table.name}", f"../{reports.name}")):
        if not reports.exists():
            _prepare_prompts(run, settings, table, reports)
    return PromptSet(pd.read_parquet(table)["prompt"].tolist(), read_reports(reports))


def _prepare_prompts(run: Run, settings: Settings, table: Path, reports: Path) -> None:
    """Prepare the prompts on every process, which share out the judging, the only long part; the main process writes them."""
    assert run.collection is not None
    judge = load_judge(settings.judge, str(run.diffuser.device)) if settings.prompt_source == "filtered" else None
    clusters = settings.clusters if settings.prompt_source == "filtered" else 0
    kept = 0 if settings.prompt_source == "template" else settings.kept

    def embed(prompts: list[str]) -> np.ndarray:
        if (own := share()) and own.number > 1:  # clusters found on another machine may differ in the last bits, and then in the prompts
            raise IncompleteError(f"{table} is missing; the share 1/{own.of} makes it")
        return run.diffuser.embed_pooled(prompts)

    made = prepare(run.collection, judge, embed, clusters, kept, run.seed, run.folder.path / "judged")
    write_table(table, pd.DataFrame({"prompt": made.prompts}))
    write_json(reports, [r._asdict() for r in made.reports])


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
                versions = {name: getattr(run.scorers[name], "version", name) for name in names}
                scored = build_store(
                    folder / "pool", len(ids), make, f"round {index}: scoring the pool",
                    made_from={"rollout": generated.digest(), **versions}, keys=prompts,
                )  # fmt: skip
                frame = frame.assign(**{name: scored.take(name, range(len(ids)))[:, 0].double().numpy() for name in names})
            write_table(folder / "pool.parquet", frame)
    run.folder.record(index, "scores")
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
    run.folder.record(index, "selection")
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


def _selected(run: Run, settings: Settings, index: int, dtype: torch.dtype) -> TrainingSet:
    """Return the selected samples of this round (with `accumulate`, of all rounds so far) and the real images, if any, as one set."""
    rounds = range(1, index + 1) if settings.accumulate else [index]
    for k in rounds:
        run.folder.record(k, "weights")
        run.folder.record(k, "rollout")
    frames = {k: pd.read_parquet(run.folder.round(k) / "selected.parquet") for k in rounds}
    stores = {k: Store(run.folder.round(k) / "rollout") for k in rounds}
    entries = [(stores[k], int(row)) for k, frame in frames.items() for row in frame["row"]]
    ids = [i for frame in frames.values() for i in frame["id"]]
    prompts = [p for frame in frames.values() for p in frame["prompt"]]
    weights = [w for frame in frames.values() for w in frame["weight"]]
    data = run.data
    real = data.train_rows(settings.real_samples)
    ids += [f"real-{data.ids[i]}" for i in real]
    prompts += [data.captions[i] for i in real]
    weights += [1.0] * len(real)

    def make(rows: range) -> Rows:
        return {name: [store.take(name, [row])[0] for store, row in entries[rows.start : rows.stop]] for name in names}

    names = ["mean", "std"] + (["mean_flipped", "std_flipped"] if settings.flip else [])
    folder = run.folder.round(index)
    text, text_rows = text_store(run, folder / "text", prompts, dtype)
    digests = {f"rollout {k}": store.digest() for k, store in stores.items()}
    if real:
        latents_of_real = real_latents(run, settings)
        entries += [(latents_of_real, row) for row in range(len(real))]
        digests["real"] = latents_of_real.digest()
    latents = build_store(folder / "selected", len(ids), make, f"round {index}: training latents", dtype, digests, ids)
    return TrainingSet(tuple(ids), text_rows, text, latents, None, torch.tensor(weights, dtype=torch.float32), run.diffuser.family.call)
