"""Write a model card (README.md, as the hub reads it) beside a round's player: base, licence, data, settings, and scores with intervals."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import PartialState
from huggingface_hub import ModelCardData
from huggingface_hub.repocard import metadata_load
from yaml import YAMLError

from selfimprove import __version__
from selfimprove.config import Settings
from selfimprove.evaluation.tables import interval
from selfimprove.files import read_json, replacing
from selfimprove.models.weights import read_config
from selfimprove.run import Run

CARD = "README.md"
USES = {  # folder of a round -> how its files are loaded
    "pipeline": 'DiffusionPipeline.from_pretrained("this folder or repository"{absent})',
    "lora": 'pipe = DiffusionPipeline.from_pretrained("the base model"{absent})\npipe.load_lora_weights("this folder or repository")',
}


def write_card(run: Run, index: int) -> None:
    """Write the cards of the player of round `index`: into `pipeline/` and, of a round that trained an adapter, into `lora/`."""
    folder = run.folder.round(index)
    for name in USES:
        if (folder / name).is_dir() and PartialState().is_main_process:
            with replacing(folder / name / CARD) as unfinished:
                unfinished.write_text(card(run, index, name), encoding="utf-8")


def card(run: Run, index: int, name: str = "pipeline") -> str:
    """Return the card of a round's folder of that name. The card holds no path of this machine, only names."""
    about, settings, data = read_json(run.folder.path / "run.json"), run.preset.for_round(index), run.data
    base, known = _metadata(run.diffuser.folder), about.get("model_name", run.diffuser.folder.name)
    licence = {key: base[key] for key in ("license", "license_name", "license_link") if key in base}
    hub = known if "/" in known else base.get("base_model")
    system = {"spin": "self-play (SPIN-Diffusion)", "sft": "fine-tuning", "weighted": "recursive self-improvement (RSIDiff)"}
    head = ModelCardData(library_name="diffusers", pipeline_tag="text-to-image", base_model=hub, tags=["selfimprove"], **licence).to_yaml()
    if "license" in base:
        allowed = f"The licence is the base model's, as its card says: {base.get('license_name', base['license'])}."
    else:
        allowed = "No card of the base model states a licence here: ask its makers what is allowed before you share this model."
    counts = f"{len(data.train)} images with captions trained on, {len(data.validation)} kept out of training, {len(data.skipped)} skipped"
    if run.collection:
        counts += f"; prompts ({Path(about['prompts_name']).name}): {len(run.collection.prompts)} collected"
        counts += f", {len(run.collection.held_out)} kept out"
    rounds = [read_json(run.folder.round(k) / "metrics.json") for k in range(index + 1)]
    plain, absent = (
        asdict(Settings()),
        "".join(f", {part}=None" for part in run.diffuser.family.absent(read_config(run.diffuser.folder / "model_index.json"))),
    )
    changed = ", ".join(f"{key}={_shown(value)}" for key, value in asdict(settings).items() if value != plain[key])
    return "\n".join([
        "---", head, "---", "", f"# Round {index} of {system[settings.objective]}, from {known}", "", allowed, "",
        f"Data ({about['data_name']}): {counts}. Preset {about['preset']}, seed {run.seed}, selfimprove {__version__}.", "",
        "```python", USES[name].format(absent=absent), "```", "", "## Scores", "",
        f"Means over {rounds[-1]['n_prompts']} prompts, with 95 % intervals over prompts; every round has the same prompts and noise.",
        "Differences are paired. Scorers are models, and models are fooled.", "", *_scores(rounds), "",
        "## Settings of the last round", "", f"Those that differ from `selfimprove/config.py`: `{changed}`", "",
    ])  # fmt: skip


def _metadata(folder: Path) -> dict[str, Any]:
    """Return what the front matter of a folder's card says, {} if there is none that can be read."""
    try:
        return dict(metadata_load(folder / CARD) or {})
    except (OSError, ValueError, YAMLError):
        return {}


def _shown(value: Any) -> str:
    """Return a setting's value; of a path its name alone."""
    return repr(Path(value).name if isinstance(value, str) and Path(value).expanduser().is_absolute() else value)


def _scores(rounds: list[Mapping[str, Any]]) -> list[str]:
    """Return the lines of a table: a row per score, a column per round, and the last round's difference from the one before."""
    titles = ["score", "base", *(f"round {k}" for k in range(1, len(rounds))), "last round less the one before"]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for name, last in rounds[-1]["scores"].items():
        cells = [f"{found['mean']:.4f} {interval(found['ci95'], 4)}" if (found := r["scores"].get(name)) else "" for r in rounds]
        change = f"{last['delta_prev']:+.4f} {interval(last['delta_prev_ci95'], 4, '+')}" if "delta_prev" in last else ""
        lines.append(f"| {' | '.join([name, *cells, change])} |")
    return lines
