"""Compare pipelines on the same prompts: sample from the same noise, score every image, keep the scores and how they were made.

Each model and guidance has its own folder, `<run>/<model>/guidance_<g>/`, which is finished on its own. More models, guidances or
scorers can be added later, and a killed run continues where it stopped.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from selfimprove.config import Precision, Settings
from selfimprove.data.images import no_images
from selfimprove.data.prompt_sets import JudgedPrompts, judged_prompts
from selfimprove.errors import ArgumentError
from selfimprove.evaluation.aggregate import comparison
from selfimprove.evaluation.evaluate import drawn_by, evaluate, evaluation_latents
from selfimprove.evaluation.protocol import Scored, disagreements, read_scores
from selfimprove.models.execution import laid_out, rounded
from selfimprove.models.pipeline import Diffuser, load_diffuser
from selfimprove.models.resolve import resolve_model
from selfimprove.models.weights import model_hash
from selfimprove.planning.timing import measure
from selfimprove.planning.work import Work
from selfimprove.processes import choose_device
from selfimprove.run_folder import identity_hash, open_run
from selfimprove.scorers import SHAPES_SCORERS, Scorer, load_scorers

GUIDANCE_SEPARATOR = " at guidance "


def file_name(model: str) -> str:
    """Return the name of a model's files: the model's name in lower case, with dashes between words."""
    return "-".join(re.findall(r"[\w.]+", model.lower()))


def without_guidance(model: str) -> str:
    """Return the model's own name, without the guidance that a sweep appends."""
    return model.split(GUIDANCE_SEPARATOR)[0]


@dataclass(frozen=True)
class Sampling:
    """Settings with which every model is sampled.

    Raises:
        ValueError: a number is below 1, or no guidance is given.
    """

    images: int = 5  # per prompt, as in SPIN-Diffusion
    steps: int = 50
    guidances: tuple[float, ...] = (7.5,)
    batch: int = 16
    precision: Precision = "no"  # of the networks that draw and of the VAE; scorers compute in their own

    def __post_init__(self) -> None:
        for name in ("images", "steps", "batch"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name}={getattr(self, name)!r} must be at least 1")
        if not self.guidances or min(self.guidances) < 1:
            raise ArgumentError(f"guidances={self.guidances} must hold at least one number, and none below 1 (1 is no guidance)")

    def settings(self, guidance: float) -> Settings:
        """Return the settings that `evaluate` takes, at one guidance."""
        return replace(
            Settings(), evaluation_images=self.images, evaluation_steps=self.steps, evaluation_guidance=guidance, rollout_batch=self.batch,
            precision=self.precision,
        )  # fmt: skip

    def load(self, folder: Path, device: torch.device) -> Diffuser:
        """Return a pipeline as it draws, or raise what `load_diffuser` raises."""
        return load_diffuser(folder, device).in_precision(self.precision)


def read_guidances(text: str) -> tuple[float, ...]:
    """Return the numbers in a text such as "1.5, 3, 6".

    Raises:
        ValueError: the text does not consist of numbers separated by commas.
    """
    try:
        return tuple(float(part) for part in str(text).split(",") if part.strip())
    except ValueError as error:
        raise ArgumentError(f"guidance={text!r} is not understood; give a number, or several with commas: '3' or '1.5,3,6'") from error


@dataclass(frozen=True)
class Comparison:
    """Checked model folders by the names that tables show, with prompts, scorers and sampling. Read `cost` before `play`."""

    models: Mapping[str, Path]
    prompts: JudgedPrompts
    scorers: Mapping[str, Scorer]
    sampling: Sampling
    run: Path
    device: torch.device
    drawn: Mapping[str, Any]  # what draws the images of every model alike (see `evaluate.drawn_by`)

    def folder(self, name: str, guidance: float) -> Path:
        """Return the folder of one model's scores and latents at one guidance."""
        return self.run / file_name(name) / f"guidance_{guidance:g}"

    def cost(self) -> str:
        """Return a sentence that says what is still to do and about how long that takes on this device."""
        todo = [(n, g) for n in self.models for g in self.sampling.guidances if not self._finished(n, g)]
        count = len(self.prompts.prompts) * self.sampling.images
        if not todo:
            return f"{len(self.models)} models on {count} images each: all finished already in {self.run}"
        diffuser = self.sampling.load(self.models[todo[0][0]], self.device)
        passes = sum(count * self.sampling.steps * (1 + (g != 1)) for _, g in todo)
        each, _ = measure(diffuser, self.scorers, precision=self.sampling.precision)
        seconds = each.of(Work(forwards=passes, decoded=len(todo) * count, judged=len(todo) * count))
        disk = len(todo) * count * 4 * torch.Size(diffuser.latent_shape).numel() / 1e9
        return (
            f"{len(todo)} evaluations of {count} images ({len(self.prompts.prompts)} prompts, {self.sampling.images} each): about "
            f"{seconds / 60:.1f} min on {self.device}, {disk:.2f} GB of latents in {self.run}"
        )

    def play(self) -> Iterator[Scored]:
        """Yield the scores of every model at every guidance; sample and score what is missing. Guidance varies fastest."""
        for name, folder in self.models.items():
            diffuser: Diffuser | None = None
            for guidance in self.sampling.guidances:
                label = f"{name}{GUIDANCE_SEPARATOR}{guidance:g}" if len(self.sampling.guidances) > 1 else name
                if not self._finished(name, guidance):
                    diffuser = diffuser or self.sampling.load(folder, self.device)
                    self._evaluate(diffuser, name, guidance)
                yield read_scores(self.folder(name, guidance) / "scores.parquet").named(label)

    def _finished(self, name: str, guidance: float) -> bool:
        path = self.folder(name, guidance) / "scores.parquet"
        if not path.exists():
            return False
        self._open(name, guidance)  # raises for a folder of another comparison
        found = read_scores(path).protocol.scorers
        return all(found.get(n) == getattr(s, "version", n) for n, s in self.scorers.items())

    def _open(self, name: str, guidance: float) -> None:
        identity = {
            "model": model_hash(self.models[name]), "prompts": self.prompts.hash, "images": self.sampling.images,
            "steps": self.sampling.steps, "guidance": guidance, **self.drawn,
        }  # fmt: skip
        open_run(self.folder(name, guidance), identity, {"prompts_name": self.prompts.name})

    def _evaluate(self, diffuser: Diffuser, name: str, guidance: float) -> None:
        self._open(name, guidance)
        data = replace(no_images(), name=self.prompts.name).judged_on(self.prompts.prompts, self.prompts.scenes, self.sampling.images)
        settings, folder = self.sampling.settings(guidance), self.folder(name, guidance)
        denoiser = laid_out(rounded(diffuser.denoiser, settings.precision), self.device, settings.precision)
        evaluate(diffuser, denoiser, data, self.scorers, None, settings, folder, name, model_hash(self.models[name]))

    def pictures(self, scored: Sequence[Scored], rows: Sequence[int]) -> Float[np.ndarray, "models rows h w 3"]:
        """Return the images, in [0, 1], of some rows of the tables; a row has the same prompt and noise in every evaluation."""
        found = []
        for one in scored:
            name, guidance = without_guidance(one.protocol.model), one.protocol.guidance
            latents = evaluation_latents(self.folder(name, guidance))[list(rows)]
            found.append(self.sampling.load(self.models[name], self.device).decode(latents).permute(0, 2, 3, 1).numpy())
        return np.stack(found)

    def features(self, scored: Scored, scorer: str) -> Float[np.ndarray, "n d"]:
        """Return a scorer's image features of every image of one evaluation, in the order of the evaluation's table.

        Raises:
            ValueError: the scorer has no image features.
        """
        extract = getattr(self.scorers.get(scorer), "features", None)
        if extract is None:
            raise ArgumentError(f"scorer={scorer!r} has no image features; use one of the CLIP family")
        name, guidance = without_guidance(scored.protocol.model), scored.protocol.guidance
        diffuser = self.sampling.load(self.models[name], self.device)
        latents = evaluation_latents(self.folder(name, guidance))
        return torch.cat([extract(diffuser.decode(x)) for x in latents.split(self.sampling.batch)]).numpy()


def set_up_comparison(
    models: Mapping[str, str],
    prompts: JudgedPrompts,
    scorers: Mapping[str, Scorer],
    sampling: Sampling,
    run: str | Path = "",
    device: str = "",
) -> Comparison:
    """Check models and names before anything is sampled.

    All models must be drawn alike, so that the table compares networks alone: the same time steps and final alpha, by the schedulers of
    their folders, and images of the same size, which start from the same noise.

    `models` maps the name that tables show to a pipeline folder, a hub id or "shapes". `run` is the folder of scores and latents; if
    empty, `runs/compare-<hash of what is compared>`.

    Raises:
        ModelError: a model cannot be used.
        ArgumentError: there is no model, two models have the same weights or would be drawn in different ways, two names would share their
            files or give no file name, or the device cannot be used.
    """
    if not models:
        raise ArgumentError("models is empty; give at least one, such as {'base': 'shapes'}")
    files: dict[str, str] = {}
    for name in models:
        file = file_name(name)
        if not file.strip("."):
            raise ArgumentError(f"models: the name {name!r} cannot be a file's; give letters or digits")
        if file in files:
            raise ArgumentError(
                f"models: {files[file]!r} and {name!r} would share the files {file!r}; give names that differ in letters or digits"
            )
        files[file] = name
    folders = {name: resolve_model(model) for name, model in models.items()}
    chosen = choose_device(device)
    hashes, drawn = dict[str, str](), dict[str, Any]()
    for name, folder in folders.items():
        diffuser = sampling.load(folder, chosen)
        here = {**drawn_by(diffuser, sampling.settings(1.0)), "latent_shape": diffuser.latent_shape}
        if differing := disagreements(drawn or here, here):
            raise ArgumentError(
                f"models {next(iter(folders))!r} and {name!r} would be drawn in different ways ({'; '.join(differing)}), and "
                "a table would compare these; give models of one image size, with the same timestep_spacing, steps_offset and "
                "set_alpha_to_one in scheduler/scheduler_config.json"
            )
        drawn = here
        weights = model_hash(folder)
        if weights in hashes:
            raise ArgumentError(f"models {hashes[weights]!r} and {name!r} have the same weights; give two different pipelines")
        hashes[weights] = name
    asked = {**models, "prompts": prompts.hash, "images": sampling.images, "steps": sampling.steps}
    asked |= {} if sampling.precision == "no" else {"precision": sampling.precision}  # folders of float32 keep their names
    return Comparison(folders, prompts, scorers, sampling, Path(run or f"runs/compare-{identity_hash(asked)}"), chosen, drawn)


def compare(
    models: Mapping[str, str],
    prompts: str = "shapes-held-in",
    count: int = 64,
    scorers: str = "shapes",
    sampling: Sampling | None = None,
    run: str | Path = "",
    device: str = "",
) -> pd.DataFrame:
    """Sample every model on the same prompts from the same noise, and return the tidy table of `aggregate.comparison`.

    `models` maps a name to a pipeline folder, a hub id or "shapes"; the first model is the baseline. For `prompts` and `count` see
    `judged_prompts`, for `scorers` see `read_scorers`. Images that `run` already holds are not sampled again.

    Raises:
        ValueError: see `set_up_comparison`, `judged_prompts` and `read_scorers`.
    """
    judges = read_scorers(scorers, choose_device(device))
    set_up = set_up_comparison(models, judged_prompts(prompts, count), judges, sampling or Sampling(), run, device)
    return comparison(list(set_up.play()), list(judges), allowed=("guidance",))


def newest_player(runs: Path = Path("runs")) -> Path:
    """Return the pipeline folder that was written last under a folder of runs.

    Raises:
        ValueError: no round is finished there.
    """
    found = sorted(runs.glob("*/round_*/pipeline"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise ArgumentError(f"no finished round under {str(runs)!r}; give a pipeline folder, or play a round first: make round")
    return found[-1]


def read_scorers(text: str, device: torch.device) -> dict[str, Scorer]:
    """Return the embedded scorers if `text` is "shapes", else published scorers separated by commas, each a name or name=path.

    Raises:
        ScorerError: a name is not known, or the scorer's files cannot be loaded.
    """
    names = [part.strip() for part in text.split(",") if part.strip()]
    if names == ["shapes"]:
        return load_scorers(SHAPES_SCORERS, device)
    return load_scorers(names, device, family="published")


def at_one_guidance(scored: Sequence[Scored], scorer: str) -> list[Scored]:
    """Return each model at the guidance with its best mean score over images: the fair comparison after a sweep of guidance."""
    best: dict[str, Scored] = {}
    for one in scored:
        name = without_guidance(one.protocol.model)
        if name not in best or one.table[scorer].mean() > best[name].table[scorer].mean():
            best[name] = one
    return list(best.values())


def sweep_table(scored: Sequence[Scored], scorers: Sequence[str]) -> pd.DataFrame:
    """Return the mean of every score per model and guidance."""
    rows = []
    for one in scored:
        name = without_guidance(one.protocol.model)
        rows.append({"model": name, "guidance": one.protocol.guidance, **one.table[list(scorers)].mean().to_dict()})
    return pd.DataFrame(rows).set_index(["model", "guidance"])
