"""Make batches: choose the examples of an optimiser step and draw everything random about them, without state."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from selfimprove import draws
from selfimprove.config import Settings
from selfimprove.data.latents import Store, in_groups
from selfimprove.losses import squared_error
from selfimprove.models.execution import to_device
from selfimprove.models.network import Call, Conditioning, call_with_text, denoise
from selfimprove.schedule import Schedule, density


@dataclass(frozen=True)
class TrainingSet:
    """What a round trains on: example i is row i of `real` and of `generated`, and row `text_rows[i]` of `text`.

    Row 0 of `text` is the empty caption. `generated` is None for objectives without an opponent. `weights`, one per example, scale the
    generated side if there is one, otherwise the whole example; None means that every weight is 1.
    """

    ids: tuple[str, ...]
    text_rows: list[int]
    text: Store
    real: Store
    generated: Store | None
    weights: Float[Tensor, " examples"] | None = None
    call: Call = call_with_text  # how the network takes its conditioning

    def conditioning(self, rows: list[int]) -> Conditioning:
        """Return rows of `text`."""
        return Conditioning({name: self.text.take(name, rows) for name in self.text.names}, self.call)

    @property
    def images(self) -> int:
        """Return the number of different images: an epoch trains on each once, with one of its captions."""
        return draws.count_images(self.ids)

    def alike(self, rows: Sequence[tuple[int, int]], places: Sequence[int], size: int) -> list[list[int]]:
        """Return the places in `rows`, (example, epoch) each, in parts of at most `size` examples whose latents are of one shape."""
        groups = in_groups(places, lambda place: self.real.shape(rows[place][0]))
        return [group[start : start + size] for group in groups for start in range(0, len(group), size)]

    def fingerprint(self) -> str:
        """Return 12 hexadecimal digits of a hash of ids, text, latents and weights."""
        stores = [store.digest() for store in (self.text, self.real, self.generated) if store]
        weights = None if self.weights is None else self.weights.tolist()
        return hashlib.sha256(json.dumps([self.ids, self.text_rows, stores, weights]).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Batch:
    """One micro-batch of B examples of one shape; with generated images all fields but `weight` have 2B rows, the real side first.

    `target`: what the network should predict. `scale`: the factor that turns its squared error into one in `error_in`.
    `alpha`, `variance`: a_t^2 and b_t^2 of each time. `weight`: one factor per example.
    """

    noisy: Float[Tensor, "n c h w"]
    target: Float[Tensor, "n c h w"]
    t: Shaped[Tensor, " n"]
    conditioning: Conditioning
    alpha: Float[Tensor, " n"]
    variance: Float[Tensor, " n"]
    scale: Float[Tensor, " n"]
    weight: Float[Tensor, " b"]

    def errors(self, network: Callable[..., Any]) -> Float[Tensor, " n"]:
        """Return the network's squared error on each row, the mean over C*H*W, in what `error_in` asks for."""
        return self.scale * squared_error(denoise(network, self.noisy, self.t, self.conditioning), self.target)


@lru_cache(maxsize=2)
def _epoch_order(ids: tuple[str, ...], seed: int, round_index: int, epoch: int) -> list[int]:
    """Return the examples of an epoch in order: of each image one, whose caption is drawn among the image's captions."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(ids):
        rows.setdefault(draws.image_of(name), []).append(row)
    order = sorted(rows, key=lambda image: draws.key_hash(seed, "order", round_index, epoch, image))
    # the least hash draws the same caption among all of an image as among those that the round reaches
    caption = lambda i: draws.key_hash(seed, "caption", round_index, epoch, ids[i])  # noqa: E731
    return [rows[image][0] if len(rows[image]) == 1 else min(rows[image], key=caption) for image in order]


def batch_rows(ids: tuple[str, ...], seed: int, round_index: int, first: int, count: int) -> list[tuple[int, int]]:
    """Return (example, epoch) at positions first..first+count-1 of the round; every epoch has its own permutation of the images."""
    rows, images = [], draws.count_images(ids)
    for epoch in range(first // images, (first + count - 1) // images + 1):
        order = _epoch_order(ids, seed, round_index, epoch)
        start = epoch * images
        rows += [(order[p - start], epoch) for p in range(max(first, start), min(first + count, start + images))]
    return rows


def make_batch(
    data: TrainingSet, rows: list[tuple[int, int]], settings: Settings, schedule: Schedule, seed: int, round_index: int, step: int
) -> Batch:
    """Return noisy latents, targets, time steps and text of the examples in `rows`, of one shape; every draw is stateless."""
    device = schedule.device
    indices = [row for row, _ in rows]
    keys = [f"{data.ids[row]}/{epoch}" for row, epoch in rows]
    when = (round_index, step)
    flipped = draws.uniform(seed, "flip", when, keys) < 0.5 if settings.flip else torch.zeros(len(keys), dtype=torch.bool)

    def clean(store: Store, side: str) -> Tensor:
        mean, std = store.take("mean", indices), store.take("std", indices)
        if bool(flipped.any()):
            chosen = flipped.view(-1, 1, 1, 1)
            mean = torch.where(chosen, store.take("mean_flipped", indices), mean)
            std = torch.where(chosen, store.take("std_flipped", indices), std)
        return mean + std * draws.normal(seed, f"posterior/{side}", when, keys, mean.shape[1:])

    sides = [("real", data.real)] + ([("generated", data.generated)] if data.generated else [])
    latents, noises, times = [], [], []
    own = settings.generated_noise == "own" and data.generated is not None

    def noise_of(side: str, shape: torch.Size) -> Tensor:
        if own and (side == "generated" or settings.shared == "t+noise"):
            drawn = draws.normal(seed, "rollout", (settings.drawn_in(round_index),), [data.ids[i] for i in indices], shape)
            return torch.where(flipped.view(-1, 1, 1, 1), drawn.flip(3), drawn)
        return draws.normal(seed, f"noise/{'real' if settings.shared == 't+noise' else side}", when, keys, shape)

    for side, store in sides:
        latent = clean(store, side)
        t_of = "real" if settings.shared != "nothing" else side
        latents.append(latent)
        noises.append(noise_of(side, latent.shape[1:]))
        times.append(schedule.time(density(draws.uniform(seed, f"timestep/{t_of}", when, keys), settings)))
    dropped = draws.uniform(seed, "dropout", when, keys) < settings.caption_dropout
    text_rows = [0 if drop else data.text_rows[i] for i, drop in zip(indices, dropped.tolist(), strict=True)]
    given = data.conditioning(text_rows).repeat(len(sides))
    noise, t = to_device(torch.cat(noises), device), to_device(torch.cat(times), device)
    weight = torch.ones(len(rows)) if data.weights is None else data.weights[indices].float()
    image = to_device(torch.cat(latents), device)
    alpha, variance = schedule.powers(t)
    scale = schedule.error_scale(t, settings.error_in)
    noisy, target = schedule.add_noise(image, noise, t), schedule.target(image, noise, t)
    return Batch(noisy, target, t, given.to(device), alpha, variance, scale, to_device(weight, device))
