"""Set up a run: load and check model, data, prompts, scorers and run folder before anything expensive."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from selfimprove.config import Settings
from selfimprove.data.buckets import bucket_sizes
from selfimprove.data.folders import check_there
from selfimprove.data.images import STREAMS, ImageText, load_data, no_images, shapes_prompts, shortened
from selfimprove.data.prompt_files import PromptError, load_prompts
from selfimprove.errors import DataError
from selfimprove.files import read_json, write_json
from selfimprove.models.execution import check_compile, compiled
from selfimprove.models.lora import check_rank
from selfimprove.models.optimiser import check_optimiser
from selfimprove.models.pipeline import Diffuser, load_diffuser
from selfimprove.models.resolution import at_resolution, check_sizes, least_step
from selfimprove.models.resolve import resolve_model
from selfimprove.models.weights import ModelError, model_hash
from selfimprove.opponent import CacheError, check_identity
from selfimprove.presets import PRESETS, Preset, choose_preset, get_preset
from selfimprove.processes import check_tracker, choose_device
from selfimprove.recursion.prompts import Collection, collect, fingerprint, templates
from selfimprove.recursion.selection import SelectionError, check_selecting
from selfimprove.run_folder import RunError, RunFolder, identity_hash, open_run
from selfimprove.scorers import PUBLISHED_SCORERS, Scorer, load_scorers
from selfimprove.shapes.captions import collected_prompts, concepts
from selfimprove.shapes.render import IMAGE_SIZE
from selfimprove.train import CHECKPOINT, learning_rate, other_rates


@dataclass(frozen=True)
class Run:
    """A run that is set up and checked. `diffuser` is the loaded base pipeline; `collection` holds the prompts of recursion, else None."""

    preset: Preset
    diffuser: Diffuser
    data: ImageText
    scorers: Mapping[str, Scorer]
    seed: int
    folder: RunFolder
    collection: Collection | None = None
    opponent_cache: Path | None = None
    latent_cache: Path | None = None

    def cache_of(self, index: int, opponent: str) -> Path | None:
        """Return the cache folder of round `index` and of the opponent with this hash, or None; a sweep may have several opponents."""
        return self.opponent_cache / f"round_{index}-{opponent[:12]}" if self.opponent_cache else None

    def drawing(self, player: Path, settings: Settings) -> Any:
        """Load the denoiser of a player, ready to draw inside `autocast`: frozen, rounded, channels last and, if asked for, compiled."""
        network = self.diffuser.load_frozen(player, settings.precision).to(memory_format=torch.channels_last)
        return compiled(network) if settings.compile else network

    @cached_property
    def truncated(self) -> list[str]:
        """Return the captions and prompts that the tokenizer cuts at its limit."""
        prompts = self.collection.prompts if self.collection else []
        return self.diffuser.truncated([*self.data.captions, *prompts, self.preset.settings.negative_prompt])

    def account(self) -> list[str]:
        """Return in lines what of the data is used and what is not, and why. `data.json` in the run folder has the whole lists."""
        cut = [f"captions longer than the tokenizer's limit, truncated: {len(self.truncated)}", *shortened(self.truncated)]
        return [*self.data.account(), *cut]


def set_up(
    preset: Preset | str = "",
    name: str = "",
    model: str = "",
    data: str = "",
    run: str | Path = "",
    seed: int = 0,
    device: str = "",
    prompts: str = "",
    scorers: Mapping[str, Scorer] | None = None,
    opponent_cache: str | Path = "",
    latent_cache: str | Path = "",
) -> Run:
    """Load and check model, data and prompts, without expensive work; write only run.json and data.json (and cache.json in a
    new cache).

    `preset`: a preset or its name; if empty, the one for what is given (`presets.choose_preset`). `name`: the first part of the default
    run folder's name; if empty, the preset's name, or "run".
    `model`, `data`, `prompts`: if empty, the preset's. `run`: the run folder; if empty, `runs/<name>-<hash of the identity>`. `device`: if
    empty, a GPU if there is one. `scorers`: further scorers by name; each replaces a scorer of the same name. `opponent_cache`: a folder
    in which the opponent's images and errors are computed once, for this run and all runs that differ only in beta, lr or steps; if
    empty, there is no cache. `latent_cache`: a folder in which the latents of real images and the embeddings of texts are kept for all
    runs with the same VAE, text encoder and data; if empty, `runs/latents` for default run folders, else none.

    Raises:
        ValueError: an input cannot be used; the message says what is wrong and what to do. `ModelError`, `DataError`, `PromptError`,
            `SelectionError`, `CacheError` and `RunError` are such errors.
    """
    if isinstance(preset, str):
        recursive = bool(prompts) or (preset in PRESETS and get_preset(preset).settings.objective == "weighted")
        preset = choose_preset(preset, model, prompts if recursive else data, recursive)
        name, preset = name or preset, get_preset(preset)
    name = name or "run"
    chosen = choose_device(device)
    for each in preset.all_rounds():
        each.share(PartialState().num_processes)  # raises if the processes cannot share the batch
    settings, data, prompts = preset.settings, data or preset.data, prompts or preset.prompts
    collection = _collect(prompts, settings, seed) if settings.objective == "weighted" else None
    if not data and not collection:
        raise DataError(
            "data='' names nothing; give 'shapes', a folder of images with metadata.jsonl, or pairs of Pick-a-Pic (shards or id)"
        )
    check_there(data)  # before a model is downloaded for it
    folder = resolve_model(model or preset.model)
    diffuser = at_resolution(load_diffuser(folder, chosen), settings.resolution).in_precision(settings.precision)
    if data:
        counts = (settings.samples, settings.validation, settings.evaluation_prompts)
        columns = (settings.image_column, settings.caption_column)
        buckets = bucket_sizes(diffuser.image_size, least_step(diffuser)) if settings.aspect_ratio_buckets else []
        images = load_data(data, *counts, diffuser.image_size, seed, settings.evaluation_part, *columns, buckets)
        check_sizes(diffuser, sorted({images.frames[row].size for row in images.train} - {diffuser.image_size}))
    else:
        images = no_images()
    images = _judged_on(images, collection, prompts, settings)
    available = _scorers(preset, images, chosen, dict(scorers or {}))
    for each in preset.all_rounds():
        _check(each, diffuser, images, available)
    identity = {**preset.identity(), "model": model_hash(folder), "data": images.fingerprint, "seed": seed}
    identity["examples"] = fingerprint([f"{images.ids[i]} {images.captions[i]}" for i in images.train])[:16]  # which part is trained on
    asked = str(model or preset.model)  # of a folder its name: the card of a player names no path
    about = {"preset": name, "data_name": images.name, "model_name": Path(asked).name if Path(asked).expanduser().exists() else asked}
    if collection:
        identity["prompts"] = fingerprint([*collection.prompts, *collection.held_out])
        about["prompts_name"] = prompts
    cache = Path(opponent_cache) if opponent_cache else None
    latents = Path(latent_cache) if latent_cache else None if run else Path("runs") / "latents"
    for argument, given in (("opponent_cache", cache), ("latent_cache", latents)):
        if given and given.exists() and not given.is_dir():
            raise CacheError(f"{argument}={str(given)!r} is a file; give a folder")
    if cache:  # a cache belongs to one model, data set and seed; inside, each round and opponent has a folder
        check_identity(cache / "cache.json", {name: identity[name] for name in ("model", "data", "seed")})
    path = Path(run) if run else Path("runs") / f"{name}-{identity_hash(identity)}"
    opened = open_run(path, identity, about)
    _lengthen(opened, preset)
    made = Run(preset, diffuser, images, available, seed, opened, collection, cache, latents)
    lists = {"name": images.name, "notes": images.notes, "skipped": images.skipped, "truncated": made.truncated}
    write_json(path / "data.json", lists)
    return made


def _lengthen(folder: RunFolder, preset: Preset) -> None:
    """Find the finished rounds that are asked to train for more steps (`RunFolder.longer`), and write the new lengths to run.json.

    Raises:
        RunError: a round has had more steps than are asked for, a later round began from its player, or its steps had other learning rates.
    """
    about, index = read_json(folder.path / "run.json"), 1
    while (path := folder.round(index)).exists():
        recorded, settings = folder.manifest(index)["stages"].get("training", {}), preset.for_round(index)
        had = recorded.get("steps", 0)
        steps = settings.steps_for(recorded["examples"]) if had else 0
        asked = f"{path} has been trained for {had} steps, and {steps} are asked for"
        if recorded and not had and about["identity"] != folder.identity:
            raise RunError(f"{path} was trained by an earlier version, which did not note its steps; give another run folder for others")
        if steps < had:
            raise RunError(f"{asked}; ask for at least {had}, or give another run folder")
        if steps > had:
            if folder.round(index + 1).exists():
                raise RunError(
                    f"{asked}; but {folder.round(index + 1).name} began from its player: ask for as many steps as before (another round "
                    f"alone is given more by 'round N steps'), delete the folders of later rounds, or give another run folder"
                )
            state = path / "training" / CHECKPOINT
            if state.exists() and any(learning_rate(settings, i, had) != learning_rate(settings, i, steps) for i in range(had)):
                raise other_rates(state, had, steps)
            folder.longer[index] = had
        index += 1
    if about["identity"] != folder.identity:
        write_json(folder.path / "run.json", about | {"identity": folder.identity})


def _collect(prompts: str, settings: Settings, seed: int) -> Collection:
    if not prompts:
        raise PromptError("prompts='' names nothing; give 'shapes', a txt, csv, tsv, json, jsonl or parquet file, or a datasets id")
    if prompts == "shapes":  # the evaluation prompts are the shapes world's own, the same for all systems
        source = concepts() if settings.prompt_source == "template" else collected_prompts(settings.collected, seed)
    else:
        source = load_prompts(prompts)
    if settings.prompt_source == "template":
        source = templates(source)
    return collect(source, 0 if prompts == "shapes" else settings.evaluation_prompts, seed)


def _judged_on(images: ImageText, collection: Collection | None, prompts: str, settings: Settings) -> ImageText:
    """Return the images with their evaluation prompts: those held out of a file of prompts, else the data's own or the shapes world's."""
    if collection and prompts != "shapes":
        if not collection.held_out:
            raise PromptError(f"prompts={prompts!r} leaves none to judge by; give at least two different prompts")
        return images.judged_on(collection.held_out, None, settings.evaluation_images)
    if not images.evaluation:
        scenes = shapes_prompts(settings.evaluation_prompts, stream=STREAMS[settings.evaluation_part])
        return images.judged_on([c.text for c in scenes], scenes, settings.evaluation_images)
    return images.judged_on([p for p, _ in images.evaluation], images.scenes, settings.evaluation_images)


def _scorers(preset: Preset, images: ImageText, device: torch.device, given: dict[str, Scorer]) -> dict[str, Scorer]:
    """Return the embedded scorers if they know the images, else the published scorers that the preset names; and the scorers given."""
    selecting = list(dict.fromkeys(name for settings in preset.all_rounds() for name, _ in settings.metrics))
    specs = {spec.partition("=")[0]: spec for spec in preset.scorers}
    known = [*(images.scorers or PUBLISHED_SCORERS), *given]
    if missing := [name for name in selecting if name not in known]:
        raise SelectionError(
            f"metrics={missing} have no scorer for these images; known are {known}, or give your own: set_up(..., scorers=...)"
        )
    if images.scorers:
        return load_scorers(images.scorers, device) | given
    wanted = [specs.get(name, name) for name in dict.fromkeys([*selecting, *specs]) if name not in given]
    return load_scorers(wanted, device, family="published") | given


def _check(settings: Settings, diffuser: Diffuser, images: ImageText, scorers: Mapping[str, Scorer]) -> None:
    check_tracker(settings.tracker)
    check_optimiser(settings, diffuser.device)
    if settings.compile:
        check_compile(diffuser.device)
    if settings.validate_every and not images.validation:
        raise DataError(f"validate_every={settings.validate_every} needs images that are kept out of training; ask for some: validation")
    if settings.lora_rank:
        check_rank(diffuser.shape, settings.lora_targets.split() or diffuser.family.adapted, settings.lora_rank)
    for name in ("guidance", "evaluation_guidance"):
        if diffuser.shape.config.get(diffuser.family.guidance_input) and getattr(settings, name) != 1:
            raise ModelError(
                f"{name}={getattr(settings, name)!r}: model={str(diffuser.folder)!r} was distilled to take guidance as an input, and would "
                f"be guided twice; give {name}=1"
            )
    predicts = diffuser.schedule.prediction_type
    if settings.prediction_type not in ("any", predicts):
        raise ModelError(
            f"prediction_type={settings.prediction_type!r}, but model={str(diffuser.folder)!r} predicts {predicts!r}, and would be trained "
            "towards the wrong target; leave prediction_type at 'any', or mend scheduler/scheduler_config.json if that is wrong"
        )
    noisiest, _ = diffuser.schedule.powers(diffuser.schedule.time(torch.ones(1)))
    if settings.objective == "weighted" and settings.time_weight != "snr" and not bool(noisiest):
        raise ModelError(f"time_weight={settings.time_weight!r} is infinite where alpha_T is 0, as in this model; choose 'snr'")
    for name in ("rollout_steps", "evaluation_steps"):
        if getattr(settings, name) > len(diffuser.schedule):
            raise ModelError(f"{name}={getattr(settings, name)} is more than the {len(diffuser.schedule)} steps of the model's schedule")
    check_selecting(settings.metrics, scorers)
    source = settings.generated_source
    if source == "loser" and images.fetch_loser is None:
        raise DataError("generated_source='loser' needs labelled pairs: Pick-a-Pic (shards, or a dataset's id owner/name) or data='shapes'")
    if source in ("real", "real-reencoded") and images.fetch_fresh is None:
        raise DataError(f"generated_source={source!r} needs fresh real images, which only data='shapes' can give")
    if settings.real_samples > images.examples:
        raise DataError(
            f"real_samples={settings.real_samples} is more than the {images.examples} real images; give more in data, or ask for fewer"
        )
    if images.scenes and diffuser.image_size != (IMAGE_SIZE, IMAGE_SIZE):
        raise ModelError(
            f"model={str(diffuser.folder)!r} draws images of {diffuser.image_size} pixels, and the shapes world, which it would be "
            f"trained or judged on, is of {(IMAGE_SIZE, IMAGE_SIZE)}; give data or prompts of your own, or model='shapes'"
        )
