"""Compute the opponent's errors on a step's examples: with its network during training, or once in advance and read from disk.

Everything random in a step is drawn from the seed, so the opponent's errors are fixed numbers, whatever the player's beta, learning rate
or number of steps. The runs of a sweep over these settings can share the errors, and need no opponent in memory while they train. The
folder that keeps the errors also keeps the opponent's images (`selfimprove.stages`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import PartialState
from jaxtyping import Float
from torch import Tensor

from selfimprove.batches import Batch, TrainingSet, batch_rows, make_batch
from selfimprove.config import Settings
from selfimprove.data.latents import SHARD, Store, build_store
from selfimprove.errors import SelfImproveError
from selfimprove.files import read_json, write_json
from selfimprove.models.execution import autocast
from selfimprove.run_folder import differences
from selfimprove.schedule import Schedule

# settings that decide the draws of a step, or what its errors are of
DRAWING = (
    *("shared", "flip", "caption_dropout", "error_in", "precision", "generated_noise"),
    *("time_density", "time_mean", "time_std", "time_shift"),
)


class CacheError(SelfImproveError):
    """The folder holds the images or errors of another opponent; the message says what differs."""


@runtime_checkable
class Opponent(Protocol):
    """Maps a batch of B examples, and their places in the round's order, to squared errors, (2B,): real side, then generated side."""

    def __call__(self, batch: Batch, places: Sequence[int]) -> Float[Tensor, " n"]: ...


@dataclass(frozen=True)
class LiveOpponent:
    """An opponent whose network computes the errors on demand, without a gradient graph."""

    network: Callable[..., Any]

    def __call__(self, batch: Batch, places: Sequence[int]) -> Float[Tensor, " n"]:
        with torch.inference_mode():
            errors = batch.errors(self.network)
        return errors.clone()  # autograd may use the clone, but not the inference tensor


@dataclass(frozen=True)
class PrecomputedOpponent:
    """Errors that `precompute` has written; row p holds the errors of the example at place p of the round's order."""

    store: Store

    def __call__(self, batch: Batch, places: Sequence[int]) -> Float[Tensor, " n"]:
        return self.store.take("errors", places).T.flatten().to(batch.alpha.device)


def precompute(
    folder: Path,
    network: Callable[..., Any],
    model_hash: str,
    data: TrainingSet,
    schedule: Schedule,
    settings: Settings,
    seed: int,
    round_index: int,
) -> PrecomputedOpponent:
    """Compute the opponent's errors of a whole round, in batches of `rollout_batch`, and keep them in `folder`.

    A killed run continues where it stopped, and a longer run only adds errors. The errors equal those of `LiveOpponent` up to rounding.
    Runs that share the folder may differ in beta, learning rate and number of steps, but must agree on opponent, data, seed and everything
    else that fixes the draws.

    Raises:
        CacheError: the folder holds errors of another opponent, or of other draws.
    """
    assert data.generated is not None
    per_step = settings.batch
    check_identity(
        folder / "opponent.json",
        {
            "opponent": model_hash,
            "data": replace(data, weights=None).fingerprint(),  # weights are applied to the errors afterwards
            "seed": seed,
            "round": round_index,
            "examples a step": per_step,
            "schedule": schedule.fingerprint(),
            **{name: getattr(settings, name) for name in DRAWING},
        },
    )

    def make(places: range) -> dict[str, Tensor]:
        errors: dict[int, Tensor] = {}
        for step in range(places.start // per_step, (places.stop - 1) // per_step + 1):  # the draws of a batch depend on its step
            first, stop = max(places.start, step * per_step), min(places.stop, (step + 1) * per_step)
            rows = batch_rows(data.ids, seed, round_index, first, stop - first)
            for part in data.alike(rows, range(len(rows)), settings.rollout_batch):
                batch = make_batch(data, [rows[i] for i in part], settings, schedule, seed, round_index, step)
                with autocast(schedule.device, settings.precision):
                    errors |= zip((first + i for i in part), live(batch, part).view(2, -1).T, strict=True)
        return {"errors": torch.stack([errors[place] for place in places])}

    live = LiveOpponent(network)
    wanted = settings.steps_for(data.images) * per_step
    whole_shards = math.ceil(wanted / SHARD) * SHARD  # so that a longer run only adds shards to the store
    return PrecomputedOpponent(build_store(folder, whole_shards, make, f"round {round_index}: the opponent's errors"))


def check_identity(path: Path, identity: dict[str, Any]) -> None:
    """Check that what lies beside the JSON file `path` was computed from `identity`; write `path` if it does not exist yet.

    Raises:
        CacheError: the files were computed from something else.
    """
    if path.exists():
        differing = differences(read_json(path), identity)
        if differing:
            raise CacheError(
                f"opponent_cache={str(path.parent)!r} was computed otherwise ({'; '.join(differing)}); give another folder, or none"
            )
    else:
        write_json(path, identity)
    PartialState().wait_for_everyone()
