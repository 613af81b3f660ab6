"""Train with one loop on accelerate for every objective, on cached latents and text embeddings."""

import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import pandas as pd
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin, gather_object, is_tensorboard_available
from diffusers.training_utils import EMAModel
from jaxtyping import Float
from torch import Tensor, distributed, nn
from tqdm.auto import tqdm

from selfimprove import losses
from selfimprove.batches import Batch, TrainingSet, batch_rows, make_batch
from selfimprove.config import Settings
from selfimprove.evaluation.watch import Watch
from selfimprove.files import replacing
from selfimprove.models.execution import UNREAD, Unread, read
from selfimprove.models.optimiser import make_optimiser
from selfimprove.opponent import Opponent
from selfimprove.processes import together
from selfimprove.run_folder import RunError
from selfimprove.schedule import Schedule

CHECKPOINT, DAMAGED = "training.pt", "training.damaged.pt"


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
    if settings.objective == "weighted" or reference is None:
        weighted = settings.objective == "weighted"
        terms = (
            losses.weighted_denoising(errors, batch.weight, batch.alpha, settings.time_weight, batch.variance)
            if weighted
            else losses.denoising(errors)
        )
        if not settings.min_snr:
            return terms
        return terms._replace(loss=losses.min_snr_weight(batch.alpha, settings.min_snr, settings.error_in) * terms.loss)
    real, generated = errors.chunk(2)
    opponent_real, opponent_generated = reference.chunk(2)
    generated, opponent_generated = batch.weight * generated, batch.weight * opponent_generated  # all 1 in the paper
    dimensions = batch.target[0].numel()
    return losses.spin(
        real, generated, opponent_real, opponent_generated, settings.beta, settings.beta_convention, dimensions, settings.link
    )


@torch.no_grad()
def step_away(player: nn.Module, start: nn.Module, factor: float) -> None:
    """Replace the player's trained weights by start - factor * (trained - start).

    Neon (Alemohammad et al. 2025) extrapolates away from what training on one's own samples does: w = factor.
    """
    before = dict(start.named_parameters())
    for name, weight in player.named_parameters():
        weight.copy_(before[name] - factor * (weight - before[name]))


@contextmanager
def _advice(size: int) -> Iterator[None]:
    """Say what to change if the device runs out of memory inside the block."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        error.add_note(f"go on with a smaller micro_batch than {size}, or with gradient_checkpointing=True; results do not change")
        raise


def _add_up(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradients by their sums over all processes.

    This is done in place and once per step, after all micro-batches, so that nothing waits for a process that fails within a step.
    """
    waiting = [distributed.all_reduce(p.grad, async_op=True) for p in parameters if p.grad is not None]
    for sum_ in waiting:
        sum_.wait()


@contextmanager
def averaged(average: EMAModel | None, trained: Mapping[str, Tensor]) -> Iterator[None]:
    """Put the averaged weights, if there are any, in the place of the trained ones inside the block: they are the player."""
    if average:
        average.store(trained.values())
        average.copy_to(trained.values())
    yield
    if average:
        average.restore(trained.values())


def save_checkpoint(
    path: Path, step: int, batch: int, log: list[Any], trained: Mapping[str, Tensor], parts: Mapping[str, Any], made_from: str = ""
) -> None:
    """Write what a killed run needs to go on after `step` steps: the trained weights, the state of each of `parts`, and the log."""
    state = {"step": step, "examples": batch, "made_from": made_from, "log": log}
    state["player"] = {name: weight.detach() for name, weight in trained.items()}
    with replacing(path) as unfinished:
        torch.save(state | {name: part.state_dict() for name, part in parts.items()}, unfinished)


def load_checkpoint(
    path: Path, batch: int, trained: Mapping[str, Tensor], parts: Mapping[str, Any], made_from: str = "", rates: Sequence[float] = ()
) -> tuple[int, list[Any]]:
    """Load a checkpoint into `trained` and `parts`, and return (steps done, log): (0, []) if there is none.

    `rates`: the learning rate of each step of the training that is to go on; if empty, the checkpoint's are not compared.

    A checkpoint that is cut off or damaged is renamed to training.damaged.pt, with a warning; training then begins again.

    Raises:
        RunError: the checkpoint was written with another number of examples per step, by a training that was made from something else,
            or by one of more steps or of other learning rates.
    """
    try:
        with ZipFile(path) as archive:  # torch writes checksums, and does not compare them
            if damaged := archive.testzip():
                raise BadZipFile(f"the checksum of {damaged} differs")
        state = torch.load(path, weights_only=True, map_location="cpu")
        weights = {name: state["player"][name] for name in trained}
        there = {"step", "log", "examples", "made_from", *parts} <= state.keys()
        if not there or any(weights[name].shape != weight.shape for name, weight in trained.items()):
            raise ValueError("it holds another network's weights")
    except FileNotFoundError:
        return 0, []
    except (RuntimeError, ValueError, LookupError, EOFError, BadZipFile, pickle.UnpicklingError) as error:
        aside = path.with_name(DAMAGED)
        if PartialState().is_main_process:
            path.replace(aside)
        warnings.warn(f"{path} cannot be used ({error}); it is now {aside.name}, and the round's training begins again", stacklevel=2)
        return 0, []
    if state["examples"] != batch:
        raise RunError(
            f"{path} was written with batch={state['examples']}, and batch={batch} is asked for; give the same batch as before, or delete "
            "the file to train the round again"
        )
    if state["made_from"] != made_from:
        raise RunError(f"{path} was written by another training (of another run or round); delete the file to train the round again")
    if rates and [row["lr"] for row in state["log"]] != list(rates[: state["step"]]):
        raise other_rates(path, state["step"], len(rates))
    with torch.no_grad():
        for name, weight in trained.items():
            weight.copy_(weights[name])
    for name, part in parts.items():
        part.load_state_dict(state[name])
        if isinstance(part, EMAModel):  # it takes the tensors as they are
            part.to(next(iter(trained.values())).device)
    return state["step"], state["log"]


def other_rates(path: Path, done: int, steps: int) -> RunError:
    """Return the error of a checkpoint after `done` steps that is none of a training of `steps` steps."""
    return RunError(
        f"{path} holds {done} steps, which are not the first ones of a training of {steps} (more, or at learning rates that decay towards "
        "another end); ask for as many steps as before, or delete the file to have the round trained again from its start"
    )


def train(
    player: Any,
    opponent: Opponent | None,
    data: TrainingSet,
    schedule: Schedule,
    settings: Settings,
    seed: int,
    round_index: int,
    folder: Path,
    made_from: str = "",
    watch: Watch | None = None,
) -> pd.DataFrame:
    """Train, in place, the player's parameters that require a gradient, and return the log with one row per optimiser step.

    Columns: the mean of each loss term over the batch (see `losses`), `gradient_norm` before clipping, and `lr`. A checkpoint in
    `folder` lets a killed run continue with the same result, on any number of processes that divides the batch. With `ema`, the player
    ends with the averaged weights. `made_from`: a name of everything that the result depends on, by which a checkpoint is known again.
    `watch`: looks at the player between steps; its figures are further columns, empty where there are none.

    Raises:
        FloatingPointError: the loss is not finite; names step, t and example.
        RunError: the checkpoint was written with another number of examples per step, or by another training.
        ArgumentError: the number of processes does not divide the batch.
        ProcessError: another process failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    default = "tensorboard" if is_tensorboard_available() else None  # part of the extra `notebooks`
    tracker = None if settings.tracker == "none" else settings.tracker or default
    AcceleratorState._reset_state()  # otherwise a second run in this process could not use another precision
    accelerator = Accelerator(
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # the loop weights micro-batches itself, whatever is launched
        mixed_precision=settings.precision,
        cpu=schedule.device.type == "cpu",
        log_with=tracker,
        project_dir=folder,
    )
    processes, steps = accelerator.num_processes, settings.steps_for(data.images)
    size = settings.per_forward(processes)  # raises if the processes cannot share the batch
    shown = {name: value for name, value in asdict(settings).items() if isinstance(value, (int, float, str))}
    accelerator.init_trackers("tensorboard" if tracker == "tensorboard" else "selfimprove", {} if tracker == "tensorboard" else shown)
    player.train()
    if settings.gradient_checkpointing:
        player.enable_gradient_checkpointing()
    trained = {name: p for name, p in player.named_parameters() if p.requires_grad}
    optimiser = make_optimiser(trained.values(), settings, schedule.device)
    average = EMAModel(trained.values(), decay=settings.ema) if settings.ema else None
    parts = {"optimiser": optimiser, "average": average, "scaler": accelerator.scaler}
    parts = {name: part for name, part in parts.items() if part is not None}
    with together():
        rates = [learning_rate(settings, step, steps) for step in range(steps)]
        first, log = load_checkpoint(folder / CHECKPOINT, settings.batch, trained, parts, made_from, rates)
    if len(set(gather_object([first]))) > 1:
        raise RunError(f"{folder / CHECKPOINT} is not the same for all processes; give a run folder on a file system that they share")
    # Everything is already on the schedule's device, which may differ from the one that accelerate would choose. Gradients are summed here,
    # not by a wrapper of the model, so the model needs only its precision.
    model = accelerator.prepare_model(player, device_placement=False, evaluation_mode=True)
    prepared = accelerator.prepare_optimizer(optimiser, device_placement=False)

    progress = tqdm(
        range(first, steps), desc=f"round {round_index}: training", initial=first, total=steps,
        disable=not accelerator.is_main_process, leave=False,
    )  # fmt: skip
    waiting: list[Unread] = []
    for step in progress:
        for group in prepared.param_groups:
            group["lr"] = rates[step]
        rows = batch_rows(data.ids, seed, round_index, step * settings.batch, settings.batch)
        own = range(settings.batch)[accelerator.process_index :: processes]
        means, losses_of_step, times, keys = torch.zeros(()), [], [], []
        with together(), _advice(size):
            for places in data.alike(rows, own, size):
                micro = [rows[i] for i in places]
                batch = make_batch(data, micro, settings, schedule, seed, round_index, step)
                with accelerator.autocast():
                    # before the player: both may share one network, and the player's activations may be recomputed with the adapter on
                    reference = opponent(batch, [step * settings.batch + i for i in places]) if opponent else None
                    terms = objective(batch, model, reference, settings)
                weight = len(micro) / settings.batch  # sums over micro-batches and processes are means over the batch
                accelerator.backward(weight * terms.loss.mean())
                means = means + weight * torch.stack([v.detach().float().mean() for v in terms])
                losses_of_step.append(terms.loss.detach())
                times.append(batch.t[: len(micro)])
                keys += [data.ids[row] for row, _ in micro]
        if processes > 1:
            _add_up(trained.values())
        norm = accelerator.clip_grad_norm_(list(trained.values()), settings.clip)
        prepared.step()
        prepared.zero_grad()
        if average:
            average.step(trained.values())
        loss = torch.cat(losses_of_step)
        figures = [*accelerator.reduce(means, "sum"), norm, torch.isfinite(loss).all()]
        waiting.append(Unread(step, torch.stack([f.float() for f in figures]), loss, torch.cat(times), keys))
        looked = watch is not None and watch.due(step + 1)
        kept = (step + 1) % settings.checkpoint_every == 0 or step + 1 == steps  # from the last one, the round may be trained on
        if looked or kept or len(waiting) >= UNREAD.get(schedule.device.type, 1):
            with together():
                read_back = [(*each, rates[one.step]) for one, each in zip(waiting, read(waiting), strict=True)]
            table = [dict(zip((*terms._fields, "gradient_norm", "lr"), each, strict=True)) for each in read_back]
            if watch and looked:
                with averaged(average, trained):
                    table[-1] |= watch(player, step + 1)
            for one, row in zip(waiting, table, strict=True):
                accelerator.log(row, step=one.step)
            log += table
            progress.set_postfix(loss=f"{log[-1]['loss']:.4f}", refresh=False)
            waiting = []
        if kept:
            with together():
                if accelerator.is_main_process:
                    save_checkpoint(folder / CHECKPOINT, step + 1, settings.batch, log, trained, parts, made_from)
    for tracker in accelerator.trackers:  # not end_training, which would disconnect the processes for good
        tracker.finish()
    if average:
        average.copy_to(trained.values())
    player.requires_grad_(False).eval()
    accelerator.free_memory()
    return pd.DataFrame(log).rename_axis("step").reset_index()
