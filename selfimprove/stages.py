"""Make what a round trains on: real latents, text, rollouts, weights by distance. Each is made once.

Self-play trains on all rollouts, each paired with its real image; what recursive self-improvement does beside is in `rsi_stages`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pyarrow import ArrowException
from torch import Tensor

from selfimprove.batches import TrainingSet, batch_rows
from selfimprove.config import Settings
from selfimprove.data.cache import Wanted, shared_store
from selfimprove.data.latents import Part, Rows, Store, build_store, link_store, made_in_groups
from selfimprove.draws import image_of
from selfimprove.files import write_json, write_table
from selfimprove.models.weights import model_hash
from selfimprove.opponent import check_identity
from selfimprove.processes import share
from selfimprove.recursion.weighting import weigh
from selfimprove.rollout import sample_batches
from selfimprove.run import Run
from selfimprove.run_folder import identity_hash

TENSORS = 1  # raise it when embeddings of the same texts come to be other tensors
PIXELS = 1  # raise it when `data` comes to give other pixels for the same files, so that no cache serves the former ones


def spin_training_set(run: Run, settings: Settings, opponent: Path, index: int) -> TrainingSet:
    """Return the run's real latents and text with this round's generated latents; stores that exist are read, others are made."""
    data = run.data
    captions, ids = [data.captions[i] for i in data.train], tuple(data.ids[i] for i in data.train)
    text, rows = text_store(run, run.folder.path / "text", captions, stored_as(settings))
    real = real_latents(run, settings)
    if settings.objective == "sft":
        return TrainingSet(ids, rows, text, real, None, call=run.diffuser.family.call)
    chosen = reached(run, settings, index)
    if chosen != list(range(len(ids))):
        ids, rows, captions = tuple(ids[i] for i in chosen), [rows[i] for i in chosen], [captions[i] for i in chosen]
        real = Part(real, chosen)
    generated = rollout_store(run, settings, opponent, index, captions, list(ids), [data.train[i] for i in chosen])
    weights = None if settings.pushing == 1 else torch.full((len(ids),), settings.pushing)
    if settings.weighting != "none":
        weights = settings.pushing * distance_weights(run, settings, index, list(ids), generated, range(len(ids)))
    return TrainingSet(ids, rows, text, real, generated, weights, run.diffuser.family.call)


def held_out_latents(run: Run) -> Tensor:
    """Return the latents of the real images that are kept out of training, encoded once, a few images at a time."""
    data, few = run.data, run.diffuser.vae_batch

    def make(rows: Sequence[int]) -> dict[str, Tensor]:
        parts = [data.images([data.validation[i] for i in rows[start : start + few]]) for start in range(0, len(rows), few)]
        return {"mean": torch.cat([run.diffuser.encode(images)[0] for images in parts])}

    store = shared_store(run.latent_cache, wanted_latents(run), make, "held-out latents")
    return store.take("mean", range(store.rows))


def real_latents(run: Run, settings: Settings) -> Store:
    """Return the latents of the real images, a row per example; an image with several captions is encoded and stored once."""
    data, wanted, rows = run.data, wanted_latents(run, settings), _trained_on(run, settings)
    first = {shown(run, row): row for row in reversed(rows)}
    sources = [first[key] for key in wanted.keys]

    def make(numbers: Sequence[int]) -> Rows:
        encode = lambda same: encoded(run, data.images([sources[i] for i in same]), settings.flip)  # noqa: E731
        return made_in_groups(numbers, lambda i: data.frames[sources[i]].size, encode)

    store = shared_store(run.latent_cache, wanted, make, "real latents")
    place = {key: number for number, key in enumerate(wanted.keys)}
    return store if len(place) == len(rows) else Part(store, [place[shown(run, row)] for row in rows])


def shown(run: Run, row: int) -> str:
    """Return by what a row's image is known among those of one default size: its identity and, if it has another size, that."""
    size = run.data.frames[row].size
    return image_of(run.data.ids[row]) + ("" if size == run.diffuser.image_size else " {}x{}".format(*size))


def _trained_on(run: Run, settings: Settings) -> list[int]:
    """Return the rows of the data whose real images rounds train on: in recursion `real_samples`, else all."""
    return run.data.train_rows(settings.real_samples) if settings.objective == "weighted" else run.data.train


def wanted_latents(run: Run, settings: Settings | None = None) -> Wanted:
    """Return which latents of real images a round trains on, or, without `settings`, which held-out ones evaluations compare with.

    They depend on no network that is trained, and on no seed that only chooses and orders; in the shapes world a seed draws the images.
    """
    data, size = run.data, list(run.diffuser.image_size)
    made_from = {"vae": model_hash(run.diffuser.folder, "vae"), "size": size, "pixels": PIXELS, **of_identity(run, "data")}
    made_from |= run.diffuser.vae_identity
    made_from |= {"flip": bool(settings and settings.flip), "seed": run.seed if data.name.startswith("shapes") else None}
    if settings:
        keys = list(dict.fromkeys(shown(run, row) for row in _trained_on(run, settings)))
        return Wanted(run.folder.path / "real", keys, made_from, stored_as(settings))
    return Wanted(run.folder.path / "held_out", [data.ids[row] for row in data.validation], made_from)


def reached(run: Run, settings: Settings, index: int) -> list[int]:
    """Return the rows of the examples for which the opponent draws an image (`Settings.drawn`): first those that have one, then ascending.

    Within the first epoch, these examples come in the same order as among all examples, so the batches are the same. Of an image with
    several captions, those count that an epoch of the round draws. A training of more steps keeps the images of a shorter one.
    """
    data = run.data
    ids, images = tuple(data.ids[i] for i in data.train), data.examples
    count = settings.drawn(images, bool(run.opponent_cache))
    if count == images and (images == len(ids) or run.opponent_cache or settings.weighting != "none"):
        chosen = list(range(len(ids)))
    else:
        positions = count if images == len(ids) else settings.steps_for(images) * settings.batch
        chosen = sorted({row for row, _ in batch_rows(ids, run.seed, index, 0, positions)})
    try:
        before = pd.read_parquet(run.folder.round(index) / "prompts.parquet")["id"].tolist()
    except (OSError, ValueError, LookupError, ArrowException):  # there is none, or it cannot be read: its shards are made again
        before = []
    places = {key: place for place, key in enumerate(before)}
    return sorted(chosen, key=lambda row: places.get(ids[row], len(before)))


def of_identity(run: Run, *names: str) -> dict[str, Any]:
    """Return the named entries of the run's identity: what its stores are made from."""
    return {name: run.folder.identity[name] for name in names}


def stored_as(settings: Settings) -> torch.dtype:
    return torch.float32 if settings.precision == "no" else torch.float16


def text_store(run: Run, folder: Path, captions: list[str], dtype: torch.dtype) -> tuple[Store, list[int]]:
    """Return the embeddings of all different captions, the empty caption first, and the row of each caption."""
    texts = ["", *sorted(set(captions))]
    parts = [part for e in run.diffuser.family.encoders for part in (e.part, e.tokenizer)]
    made_from = {"text": model_hash(run.diffuser.folder, *parts), "tensors": TENSORS}
    wanted = Wanted(folder, texts, made_from, dtype)
    store = shared_store(run.latent_cache, wanted, lambda rows: dict(run.diffuser.embed([texts[i] for i in rows]).tensors), "text")
    rows = {caption: row for row, caption in enumerate(texts)}
    return store, [rows[c] for c in captions]


def encoded(run: Run, images: Tensor, flip: bool) -> dict[str, Tensor]:
    mean, std = run.diffuser.encode(images)
    tensors = {"mean": mean, "std": std}
    if flip:
        tensors["mean_flipped"], tensors["std_flipped"] = run.diffuser.encode(images.flip(3))
    return tensors


def rollout_store(
    run: Run, settings: Settings, opponent: Path, index: int, captions: list[str], ids: list[str], partners: Sequence[int] = ()
) -> Store:
    """Return the images that `opponent` draws for a round's captions, x'_0 ~ p_{theta_k}(. | c), as latents.

    `partners`: rows in the data of the real images beside them, in whose sizes the opponent draws; without them, in the default size.
    """
    diffuser, data = run.diffuser, run.data
    drawn = settings.drawn_in(index)

    def make_alike(rows: list[int]) -> Rows:
        if settings.generated_source != "rollout":
            fetch = data.fetch_loser if settings.generated_source == "loser" else data.fetch_fresh
            assert fetch is not None
            images = torch.stack([fetch(partners[i]) for i in rows])
            if settings.generated_source == "real-reencoded":
                images = diffuser.decode(diffuser.encode(images)[0])
            return encoded(run, images, settings.flip)
        latents = sample_batches(
            diffuser.sized(sizes[rows[0]]), denoiser, [captions[i] for i in rows], [ids[i] for i in rows], settings.rollout_batch,
            "sampling", settings.precision, seed=run.seed, stream="rollout", round_index=drawn, steps=settings.rollout_steps,
            guidance=settings.guidance, eta=settings.eta, sampler=settings.sampler, negative=settings.negative_prompt,
            interval=settings.guidance_interval,
        )  # fmt: skip
        if settings.generated_latents == "raw":
            raw = {"mean": latents, "std": torch.zeros_like(latents)}
            return raw | ({"mean_flipped": latents.flip(3), "std_flipped": raw["std"]} if settings.flip else {})
        parts = [encoded(run, diffuser.decode(z), settings.flip) for z in latents.split(settings.rollout_batch)]
        return {name: torch.cat([p[name] for p in parts]) for name in parts[0]} | {"sampled": latents}

    def make(rows: range) -> Rows:
        return made_in_groups(rows, sizes.__getitem__, make_alike)

    sizes = [data.frames[row].size for row in partners] or [diffuser.image_size] * len(ids)
    folder, weights = run.folder.round(index), model_hash(opponent)
    recorded = run.folder.manifest(index)["stages"].get("rollout")
    if recorded and (recorded["images"] >= len(ids) or run.folder.is_done(index, "training")):
        run.folder.check_same(index, "rollout", opponent=weights, images=len(ids))
        return Store(folder / "rollout")
    drawn_from = _drawn_from(run, settings, weights, drawn)
    examples = identity_hash({"ids": ids, "captions": captions})
    files = ("prompts.parquet", "rollout/store.json")
    with run.folder.stage(index, "rollout", files, opponent=weights, images=len(ids), examples=examples):
        if cache := run.cache_of(index, weights):
            check_identity(cache / "rollout.json", drawn_from | {"examples": examples})
        denoiser = run.drawing(opponent, settings)
        write_table(folder / "prompts.parquet", pd.DataFrame({"id": ids, "prompt": captions}))
        into = cache / "rollout" if cache else folder / "rollout"
        keys = [f"{name} {caption}" for name, caption in zip(ids, captions, strict=True)]
        store = build_store(into, len(captions), make, f"round {index}: rollout", stored_as(settings), drawn_from, keys)
        return link_store(into, folder / "rollout") if cache and not share() else store


def _drawn_from(run: Run, settings: Settings, opponent: str, round_index: int) -> dict[str, Any]:
    """Return everything that all images of a rollout depend on."""
    names = ("generated_source", "rollout_steps", "guidance", "eta", "sampler", "generated_latents", "flip", "precision")
    given = {"opponent": opponent, "seed": run.seed, "round": round_index, **of_identity(run, "model", "data")}
    # at their defaults they are unnamed in older stores
    named = ("resolution", "aspect_ratio_buckets", "negative_prompt", "guidance_interval")
    later = {name: value for name in named if (value := getattr(settings, name))} | run.diffuser.vae_identity
    return given | {name: getattr(settings, name) for name in names} | later


def sampled_images(run: Run, store: Store, rows: range) -> Tensor:
    """Return the images of some rollouts, (B, 3, H, W) in [0, 1], decoded from the sampled latents."""
    return run.diffuser.decode(store.take("sampled" if store.has("sampled") else "mean", rows))


def _references(run: Run) -> tuple[Tensor, list[str]]:
    """Return D_0, the base model's samples of round 1, which never change, and their ids."""
    first = run.folder.round(1)
    run.folder.record(1, "rollout")  # checks its files
    store = Store(first / "rollout")
    return store.take("mean", range(store.rows)), pd.read_parquet(first / "prompts.parquet")["id"].tolist()


def distance_weights(run: Run, settings: Settings, index: int, ids: list[str], generated: Store, rows: list[int] | range) -> Tensor:
    run.folder.record(index, "rollout")
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
