"""One training loop on accelerate for every objective, on cached latents and text embeddings."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import UNet2DConditionModel
from diffusers.training_utils import EMAModel
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from selfimprove import draws, losses
from selfimprove.config import Settings
from selfimprove.latents import Store
from selfimprove.schedule import Schedule


@dataclass(frozen=True)
class TrainingSet:
    """What a round trains on: example i is row i of `real` and of `generated`, and row `text_rows[i]` of `text`.

    `text` row 0 is the empty caption. `generated` is None for objectives that need no opponent. `weights`, one an example, are for
    the generated side where there is one, else for the whole example; None: all 1.
    """

    ids: tuple[str, ...]
    text_rows: list[int]
    text: Store
    real: Store
    generated: Store | None
    weights: Float[Tensor, " examples"] | None = None


@dataclass(frozen=True)
class Batch:
    """One micro-batch of B examples; with generated images, the real side comes first and everything is doubled (2B).

    `alpha`: the cumulative a_t of each time step.
    """

    noisy: Float[Tensor, "n c h w"]
    noise: Float[Tensor, "n c h w"]
    t: Int[Tensor, " n"]
    text: Float[Tensor, "n l d"]
    alpha: Float[Tensor, " n"]
    weight: Float[Tensor, " b"]


def learning_rate(settings: Settings, step: int, steps: int) -> float:
    """Linear warm-up from the round's start, then (if `decay`) linear decay to zero at the round's end, after `steps`."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    if not settings.decay:
        return settings.lr
    return settings.lr * (steps - step) / (steps - settings.warmup)


@lru_cache(maxsize=2)
def _epoch_order(ids: tuple[str, ...], seed: int, round_index: int, epoch: int) -> list[int]:
    return sorted(range(len(ids)), key=lambda i: draws.key_hash(seed, "order", round_index, epoch, ids[i]))


def batch_rows(ids: tuple[str, ...], seed: int, round_index: int, first: int, count: int) -> list[tuple[int, int]]:
    """(example, epoch) at positions first..first+count-1 of the round: every epoch is a permutation of its own."""
    rows = []
    for epoch in range(first // len(ids), (first + count - 1) // len(ids) + 1):
        order = _epoch_order(ids, seed, round_index, epoch)
        start = epoch * len(ids)
        rows += [(order[p - start], epoch) for p in range(max(first, start), min(first + count, start + len(ids)))]
    return rows


def make_batch(
    data: TrainingSet, rows: list[tuple[int, int]], settings: Settings, schedule: Schedule, seed: int, round_index: int, step: int
) -> Batch:
    """Noisy latents, their noise and time steps, and text of some examples; every draw is stateless."""
    device = schedule.alphas_cumprod.device
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
    for side, store in sides:
        latent = clean(store, side)
        noise_of = "real" if settings.shared == "t+noise" else side
        t_of = "real" if settings.shared != "nothing" else side
        latents.append(latent)
        noises.append(draws.normal(seed, f"noise/{noise_of}", when, keys, latent.shape[1:]))
        times.append(draws.integers(seed, f"timestep/{t_of}", when, keys, len(schedule)))
    dropped = draws.uniform(seed, "dropout", when, keys) < settings.caption_dropout
    text_rows = [0 if drop else data.text_rows[i] for i, drop in zip(indices, dropped.tolist(), strict=True)]
    text = data.text.take("embedding", text_rows).repeat(len(sides), 1, 1)
    noise, t = torch.cat(noises).to(device), torch.cat(times).to(device)
    weight = torch.ones(len(rows)) if data.weights is None else data.weights[indices].float()
    noisy = schedule.add_noise(torch.cat(latents).to(device), noise, t)
    return Batch(noisy, noise, t, text.to(device), schedule.alphas_cumprod[t], weight.to(device))


def objective(
    batch: Batch, player: Callable[..., Any], opponent: Callable[..., Any] | None, settings: Settings
) -> losses.SpinTerms | losses.WeightedTerms | losses.DenoisingTerms:
    """One forward of the opponent under inference mode, one of the player on [real; generated], and the loss terms.

    The opponent goes first: it may be the player's own network with the adapter off, and the player's activations may be recomputed.
    """
    reference = None
    if opponent is not None:
        with torch.inference_mode():
            reference = losses.squared_error(opponent(batch.noisy, batch.t, batch.text).sample, batch.noise)
    errors = losses.squared_error(player(batch.noisy, batch.t, batch.text).sample, batch.noise)
    if settings.objective == "weighted":
        return losses.weighted_denoising(errors, batch.weight, batch.alpha, settings.time_weight)
    if reference is None:
        return losses.denoising(errors)
    real, generated = errors.chunk(2)
    opponent_real, opponent_generated = reference.clone().chunk(2)
    generated, opponent_generated = batch.weight * generated, batch.weight * opponent_generated  # all 1 in the paper
    dimensions = batch.noise[0].numel()
    return losses.spin(
        real, generated, opponent_real, opponent_generated, settings.beta, settings.beta_convention, dimensions, settings.link
    )


def _stop_if_not_finite(loss: Tensor, batch: Batch, step: int, keys: list[str]) -> None:
    finite = torch.isfinite(loss)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        raise FloatingPointError(
            f"the loss is not finite at step {step}, t={int(batch.t[row])}, example {keys[row]}; "
            "lower lr or beta, or check that example; a run started again continues from the last checkpoint"
        )


def train(
    player: UNet2DConditionModel,
    opponent: Callable[..., Any] | None,
    data: TrainingSet,
    schedule: Schedule,
    settings: Settings,
    seed: int,
    round_index: int,
    folder: Path,
) -> pd.DataFrame:
    """Train what of the player requires a gradient, in place, and return the log, one row a step.

    Columns: the loss terms' means over the batch (see `losses`), `gradient_norm` before clipping, and `lr`. A checkpoint in
    `folder` lets a killed run go on with the same result. With `ema` the averaged weights are left in the player.

    Raises:
        FloatingPointError: the loss is not finite; names step, t and example.
    """
    folder.mkdir(parents=True, exist_ok=True)
    AcceleratorState._reset_state()  # else a second run in this process could not have another precision
    on_cpu = schedule.alphas_cumprod.device.type == "cpu"
    accelerator = Accelerator(
        gradient_accumulation_steps=settings.accumulation,
        mixed_precision=settings.precision,
        cpu=on_cpu,
        log_with="tensorboard",
        project_dir=folder,
    )
    accelerator.init_trackers("tensorboard")
    player.train()
    if settings.gradient_checkpointing:
        player.enable_gradient_checkpointing()
    trained = [p for p in player.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, settings.lr, weight_decay=settings.weight_decay)
    average = EMAModel(player.parameters(), decay=settings.ema) if settings.ema else None
    checkpoint, first, log = folder / "training.pt", 0, []
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=accelerator.device)
        player.load_state_dict(state["player"])
        optimiser.load_state_dict(state["optimiser"])
        first, log = state["step"], state["log"]
        if average:
            average.load_state_dict(state["average"])
    model, prepared = accelerator.prepare(player, optimiser)
    per_step = settings.batch_size * settings.accumulation * accelerator.num_processes
    steps = settings.steps_for(len(data.ids), accelerator.num_processes)

    progress = tqdm(
        range(first, steps), desc=f"round {round_index}: training", initial=first, total=steps,
        disable=not accelerator.is_main_process, leave=False,
    )  # fmt: skip
    for step in progress:
        for group in prepared.param_groups:
            group["lr"] = learning_rate(settings, step, steps)
        rows = batch_rows(data.ids, seed, round_index, step * per_step, per_step)
        rows = rows[accelerator.process_index :: accelerator.num_processes]
        terms_of_step, norm = [], torch.zeros(())
        for start in range(0, len(rows), settings.batch_size):
            micro = rows[start : start + settings.batch_size]
            batch = make_batch(data, micro, settings, schedule, seed, round_index, step)
            with accelerator.accumulate(model):
                with accelerator.autocast():
                    terms = objective(batch, model, opponent, settings)
                _stop_if_not_finite(terms.loss, batch, step, [data.ids[r] for r, _ in micro])
                accelerator.backward(terms.loss.mean())
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(trained, settings.clip)
                prepared.step()
                prepared.zero_grad()
            terms_of_step.append(torch.stack([v.detach().float().mean() for v in terms]))
        if average:
            average.step(player.parameters())
        means = accelerator.reduce(torch.stack(terms_of_step).mean(0), "mean").tolist()
        row = dict(zip(terms._fields, means, strict=True)) | {"gradient_norm": float(norm), "lr": learning_rate(settings, step, steps)}
        log.append(row)
        accelerator.log(row, step=step)
        progress.set_postfix(loss=f"{row['loss']:.4f}", refresh=False)
        if (step + 1) % settings.checkpoint_every == 0 and accelerator.is_main_process:
            state = {"player": player.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1, "log": log}
            torch.save(state | ({"average": average.state_dict()} if average else {}), checkpoint.with_suffix(".unfinished"))
            checkpoint.with_suffix(".unfinished").rename(checkpoint)
    accelerator.end_training()
    if average:
        average.copy_to(player.parameters())
    player.requires_grad_(False).eval()
    accelerator.free_memory()
    return pd.DataFrame(log).rename_axis("step").reset_index()
