"""Take a round's player out of its run folder: in half precision, or to a repository of the Hugging Face hub."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import DiffusionPipeline
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from selfimprove.errors import ArgumentError
from selfimprove.files import replacing
from selfimprove.models.checks import family_of
from selfimprove.models.weights import ModelError, model_hash
from selfimprove.publishing.card import CARD
from selfimprove.publishing.prune import finished, open_finished
from selfimprove.run_folder import RunError


def player(run: str | Path, index: int = 0, name: str = "pipeline") -> Path:
    """Return the folder of a finished round's player, or of its adapters (`name` "lora"), after a check; `index` 0: the last round's.

    Raises:
        RunError: no such round is finished, it trained no adapter, or its player is not what was trained.
    """
    folder = open_finished(run)
    done = finished(folder)
    if not done or (index and index not in done):
        raise RunError(f"run={str(run)!r}: round {index or 1} is not finished; finished are {done or 'none'}: play it first")
    path = folder.round(index or done[-1])
    folder.check_same(index or done[-1], "training", player=model_hash(path / "pipeline"))
    if not (path / name).is_dir():
        raise RunError(f"{path} has no {name}/: its round trained all weights; take the pipeline")
    return path / name


def export(source: Path, into: str | Path) -> Path:
    """Write a pipeline folder in half precision (float16) to `into`, a new folder, and return it; its card goes along.

    Raises:
        ArgumentError: there is something at `into` already.
        ModelError: a weight is too large for half precision, which ends at 65,504.
    """
    into = Path(into).expanduser()
    if into.exists():
        raise ArgumentError(f"into={str(into)!r} exists already; give a new folder")
    family, index = family_of(source)
    pipeline = DiffusionPipeline.from_pretrained(source, dtype=torch.float16, local_files_only=True, **family.absent(index))
    for part, network in pipeline.components.items():
        for name, weight in network.named_parameters() if isinstance(network, torch.nn.Module) else ():
            if not bool(torch.isfinite(weight).all()):
                raise ModelError(f"{part}: the weight {name!r} is too large for half precision; export it in full")
    with replacing(into) as unfinished:
        pipeline.save_pretrained(unfinished, safe_serialization=True)
        if (source / CARD).exists():
            shutil.copyfile(source / CARD, unfinished / CARD)
    return into


def push(source: Path, repository: str, private: bool = True, half: bool = False) -> str:
    """Upload a player's folder, with `half` in half precision, to a repository owner/name of the hub; return its address.

    The repository is made if there is none. Who may write is the hub client's business: `hf auth login`, or HF_TOKEN.

    Raises:
        ArgumentError: the name cannot be a repository's.
        ModelError: the hub did not take it.
    """
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ArgumentError(f"to={repository!r} cannot name a repository; give owner/name") from error
    with TemporaryDirectory() as folder:
        source = export(source, Path(folder) / "player") if half else source
        try:
            api = HfApi()
            address = str(api.create_repo(repository, private=private, exist_ok=True))
            api.upload_folder(folder_path=source, repo_id=repository, commit_message="A player of selfimprove")
        except Exception as error:  # the hub client raises many unrelated types
            raise ModelError(
                f"to={repository!r}: the hub did not take it ({type(error).__name__}: {error}); log in with `hf auth login`, check the "
                "name and the connection"
            ) from error
    return address
