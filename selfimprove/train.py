"""Train with one loop on accelerate for every objective, on cached latents and text embeddings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import is_tensorboard_available
from diffusers import UNet2DConditionModel
from diffusers.training_utils import EMAModel
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from selfimprove import losses
from selfimprove.batches import Batch, TrainingSet, batch_rows, make_batch
from selfimprove.config import Settings
from selfimprove.opponent import Opponent
from selfimprove.run_folder import RunError
from selfimprove.schedule import Schedule


def learning_rate(settings: Settings, step: int, steps: int) -> float:
    """Return the rate at `step`: linear warm-up from the start of the round, then (if `decay`) linear decay to zero after `steps` steps."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    if not settings.decay:
        return settings.lr
    return settings.lr * (steps - step) / (steps - settings.warmup)


def objective(
    batch: Batch, player: Callable[..., Any], reference: Float[Tensor, " n"] | None, settings: Settings
) -> losses.SpinTerms | losses.WeightedTerms | losses.DenoisingTerms:
    """Return the loss terms of one forward pass of the player on [real; generated]; `reference`: the opponent's errors, or None."""
    errors = batch.errors(player)
    if settings.objective == "weighted":
        return losses.weighted_denoising(errors, batch.weight, batch.alpha, settings.time_weight)
    if reference is None:
        return losses.denoising(errors)
    real, generated = errors.chunk(2)
    opponent_real, opponent_generated = reference.chunk(2)
    generated, opponent_generated = batch.weight * generated, batch.weight * opponent_generated  # all 1 in the paper
    dimensions = batch.target[0].numel()
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
    opponent: Opponent | None,
    data: TrainingSet,
    schedule: Schedule,
    settings: Settings,
    seed: int,
    round_index: int,
    folder: Path,
) -> pd.DataFrame:
    """Train, in place, the player's parameters that require a gradient, and return the log with one row per optimiser step.

    Columns: the mean of each loss term over the batch (see `losses`), `gradient_norm` before clipping, and `lr`. A checkpoint in
    `folder` lets a killed run continue with the same result. With `ema`, the player ends with the averaged weights.

    Raises:
        FloatingPointError: the loss is not finite; names step, t and example.
        RunError: the checkpoint was written with another number of examples per step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    AcceleratorState._reset_state()  # otherwise a second run in this process could not use another precision
    on_cpu = schedule.alphas_cumprod.device.type == "cpu"
    accelerator = Accelerator(
        gradient_accumulation_steps=settings.accumulation,
        mixed_precision=settings.precision,
        cpu=on_cpu,
        log_with="tensorboard" if is_tensorboard_available() else None,  # part of the extra `notebooks`
        project_dir=folder,
    )
    accelerator.init_trackers("tensorboard")
    player.train()
    if settings.gradient_checkpointing:
        player.enable_gradient_checkpointing()
    trained = [p for p in player.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, settings.lr, weight_decay=settings.weight_decay)
    average = EMAModel(player.parameters(), decay=settings.ema) if settings.ema else None
    per_step = settings.batch_size * settings.accumulation * accelerator.num_processes
    checkpoint, first, log = folder / "training.pt", 0, []
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location="cpu")
        if state["examples"] != per_step:
            raise RunError(
                f"{checkpoint} was written at {state['examples']} examples a step, this is {per_step} on {accelerator.num_processes} "
                "processes; go on with as many processes as before, or change accumulation so that the product is the same"
            )
        player.load_state_dict(state["player"])
        optimiser.load_state_dict(state["optimiser"])
        first, log = state["step"], state["log"]
        if average:
            average.load_state_dict(state["average"])
            average.to(trained[0].device)  # unlike the others it stays where the file was read
        if accelerator.scaler:
            accelerator.scaler.load_state_dict(state["scaler"])
        del state  # this frees as much memory as the player and its moments take
    # everything is already on the schedule's device, which may differ from the one that accelerate would choose
    model, prepared = accelerator.prepare(player, optimiser, device_placement=[False, False])
    steps = settings.steps_for(len(data.ids), accelerator.num_processes)

    progress = tqdm(
        range(first, steps), desc=f"round {round_index}: training", initial=first, total=steps,
        disable=not accelerator.is_main_process, leave=False,
    )  # fmt: skip
    for step in progress:
        for group in prepared.param_groups:
            group["lr"] = learning_rate(settings, step, steps)
        rows = batch_rows(data.ids, seed, round_index, step * per_step, per_step)
        own = range(per_step)[accelerator.process_index :: accelerator.num_processes]
        terms_of_step, norm = [], torch.zeros(())
        for start in range(0, len(own), settings.batch_size):
            places = own[start : start + settings.batch_size]
            micro = [rows[i] for i in places]
            batch = make_batch(data, micro, settings, schedule, seed, round_index, step)
            with accelerator.accumulate(model):
                with accelerator.autocast():
                    # before the player: both may share one network, and the player's activations may be recomputed with the adapter on
                    reference = opponent(batch, [step * per_step + i for i in places]) if opponent else None
                    terms = objective(batch, model, reference, settings)
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
            state |= {"examples": per_step, "average": average.state_dict() if average else None}
            state["scaler"] = accelerator.scaler.state_dict() if accelerator.scaler else None
            torch.save(state, checkpoint.with_suffix(".unfinished"))
            checkpoint.with_suffix(".unfinished").rename(checkpoint)
    for tracker in accelerator.trackers:  # not end_training, which would disconnect the processes for good
        tracker.finish()
    if average:
        average.copy_to(player.parameters())
    player.requires_grad_(False).eval()
    accelerator.free_memory()
    return pd.DataFrame(log).rename_axis("step").reset_index()
