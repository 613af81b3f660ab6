"""Notebook 14, last section: pair the opponent's images with the noise that drew them, and see where self-play then stops."""

from typing import Literal

import pandas as pd
import torch
from torch import Tensor

from selfimprove import draws
from selfimprove.models.network import Denoiser
from selfimprove.rollout import rollout
from selfimprove_lab.theory.fixed_points import products_and_error
from selfimprove_lab.theory.mixture import PointWorld
from selfimprove_lab.theory.paths import Trajectory, trajectory
from selfimprove_lab.theory.worlds import Batch, data_mixture, empty_text, ids, texts

# what the opponent's image is noised with: fresh noise, the noise that drew it, or, in place of noising, the opponent's own path
Pairing = Literal["fresh", "own", "path"]
PAIRINGS: dict[Pairing, str] = {"fresh": "fresh noise", "own": "own noise", "path": "own path, (C.5)"}


def paired_batch(
    pairing: Pairing, world: PointWorld, opponent: Denoiser, path: Trajectory, chosen: Tensor, real: Tensor, text: Tensor,
    generator: torch.Generator,
) -> Batch:  # fmt: skip
    """Return a batch whose generated side is rows `chosen` of the opponent's `path`, with the noise that `pairing` names."""
    if pairing == "path":
        index = torch.randint(len(path.steps), (len(text),), generator=generator)
        t = torch.tensor([s.t for s in path.steps])[index]
        eps = torch.randn(real.shape, dtype=torch.float64, generator=generator)
        own = path.states[index, chosen]
        with torch.no_grad():
            said = opponent(own, t, text).sample
        return Batch(t, text, world.schedule.add_noise(real, eps, t), world.schedule.target(real, eps, t), own, said)
    return Batch.make(world, real, path.clean[chosen], text, generator, path.states[0, chosen] if pairing == "own" else None)


def opponents_path(world: PointWorld, opponent: Denoiser, count: int, steps: int) -> Trajectory:
    """Return the opponent's paths, from its own noise to its images, without guidance."""
    return trajectory(world, opponent, texts(world, count), empty_text(world), ids(count), 0, "chords", 0, steps, 1.0)


@torch.no_grad()
def chords(path: Trajectory, opponent: Denoiser, text: Tensor) -> pd.Series:
    """Compare the opponent's paths on a flow with the chords from their noise to their images.

    `bend`: root mean square distance of the path from the chord. `left`: the largest entry of e' - x'_0 less the sum of the opponent's
    velocities times step lengths.
    """
    s = torch.tensor([*(step.variance**0.5 for step in path.steps), 0.0], dtype=torch.float64).view(-1, 1, 1, 1, 1)
    velocities = torch.stack([opponent(path.states[i], step.t, text).sample for i, step in enumerate(path.steps)])
    bend = path.states - (1 - s) * path.clean - s * path.states[0]
    left = path.states[0] - path.clean - ((s[:-1] - s[1:]) * velocities).sum(0)
    return pd.Series({"bend": float(bend.square().mean().sqrt()), "left": float(left.abs().max())})


def pushing_left(world: PointWorld, count: int, steps: int, parts: int = 16) -> pd.DataFrame:
    """Return the squared norm of the pushing term (5.1), with fresh and with own noise, at the model that is the data.

    Player and opponent are the exact denoiser of p_data, for which the matching term is 0 in the mean; its samples come from `steps` steps
    of UniPC, enough for the data's law. Norms are over the mixture's parameters, per unit of reweighting; for the estimate and its error
    see `fixed_points.gradient_left`.
    """
    data, text, names = data_mixture(world.schedule), texts(world, count), ids(count)
    gradients: dict[str, list[Tensor]] = {PAIRINGS["fresh"]: [], PAIRINGS["own"]: []}
    for part in range(parts):
        clean = rollout(world, data, text, empty_text(world), names, part, "left", 0, steps, 1.0, sampler="unipc")
        own = draws.normal(part, "left", (0,), names, world.latent_shape).to(clean)
        for rows, noise in zip(gradients.values(), (None, own), strict=True):
            batch = Batch.make(world, clean, clean, text, torch.Generator().manual_seed(part), noise)
            error = batch.errors(data)[1].mean() * world.dimensions
            rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(error, list(data.parameters()))]))
    found = {name: products_and_error(torch.stack(rows)) for name, rows in gradients.items()}
    return pd.DataFrame.from_dict(found, orient="index", columns=["squared norm", "error"])
