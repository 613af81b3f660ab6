"""Train every embedded model by one loop: seeded per step, resumable, in bfloat16 autocast."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm.auto import tqdm

from selfimprove.draws import generator
from selfimprove.shapes.captions import SCENES
from selfimprove.shapes.render import Drawing, drawing


@dataclass(frozen=True)
class Workshop:
    """Where the pretraining writes (`folder`), on which device it runs, and its seed."""

    folder: Path
    device: torch.device
    seed: int
    scale: float = 1.0  # share of every stage's steps; below 1 only to check that the code runs

    def steps(self, full: int) -> int:
        return max(2, round(full * self.scale))


@dataclass(frozen=True)
class Hold:
    """Hold the rate: it warms up, stays, and falls to zero along a cosine. The weights are averaged all the while.

    The averaged weights are usable at every checkpoint, where the number of steps is not known beforehand.
    """

    warm_up: int = 150  # steps
    decay: float = 0.3  # share of the steps
    average: float = 0.999  # decay of the average of the weights, less at the beginning

    def factor(self, step: int, steps: int) -> float:
        """Return the factor of the rate at a step, in [0, 1]."""
        left = (steps - step) / max(1.0, self.decay * steps)
        fall = 1.0 if left >= 1 else 0.5 * (1 - math.cos(math.pi * left))
        return min(1.0, (step + 1) / self.warm_up) * fall


def fit(
    workshop: Workshop,
    name: str,
    module: nn.Module,
    loss: Callable[[torch.Generator], Tensor],
    steps: int,
    lr: float,
    save_every: int = 500,
    hold: Hold | None = None,
) -> nn.Module:
    """Minimise `loss(generator)` over the parameters of `module` that require gradients, and leave the module in eval mode.

    The rate makes one cycle, or follows `hold`, which also leaves the averaged weights in the module. The generator of each step is
    a function of (seed, name, step), so a run killed after a checkpoint continues from it with the same result.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr, betas=(0.9, 0.99), weight_decay=0.01)
    schedule: torch.optim.lr_scheduler.LRScheduler
    if hold:
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, partial(hold.factor, steps=steps))
    else:
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps, pct_start=0.08)
    averaged = copy.deepcopy(module).eval() if hold else module
    checkpoint, start = workshop.folder / "checkpoints" / f"{name}.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=workshop.device)
        module.load_state_dict(state["module"])
        averaged.load_state_dict(state["averaged"] if hold else state["module"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        start = state["step"]
    module.train()
    average = float("nan")
    bar = tqdm(range(start, steps), desc=name, initial=start, total=steps, mininterval=10)
    for step in bar:
        with torch.autocast(workshop.device.type, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):  # on CPUs the fused one is slower
            value = loss(generator(workshop.seed, f"pretrain/{name}", step))
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if hold:
            share = 1 - min(hold.average, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(list(averaged.parameters()), list(module.parameters()), share)
        if step % 20 == 0:
            current = float(value.detach())
            if current != current:
                raise FloatingPointError(f"{name}: the loss is not a number at step {step}")
            average = current if average != average else 0.9 * average + 0.1 * current
            bar.set_postfix(loss=f"{average:.4f}", refresh=False)
        if (step + 1) % save_every == 0 or step + 1 == steps:
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            state = {"module": module.state_dict(), "optimiser": optimiser.state_dict(), "schedule": schedule.state_dict()}
            state |= {"step": step + 1} | ({"averaged": averaged.state_dict()} if hold else {})
            torch.save(state, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").rename(checkpoint)
    if hold:
        module.load_state_dict(averaged.state_dict())
    return module.eval()


def random_drawing(batch: int, draws: torch.Generator, low: float = 0.0, high: float = 1.0, scenes: Tensor = SCENES) -> Drawing:
    """Return `batch` drawings of scenes chosen uniformly, with quality uniform in [low, high]."""
    attributes = scenes[torch.randint(len(scenes), (batch,), generator=draws)]
    quality = low + (high - low) * torch.rand(batch, generator=draws)
    return drawing(attributes, quality, torch.rand(batch, 8, generator=draws))


def collage(images: Tensor, masks: Tensor, draws: torch.Generator) -> Tensor:
    """Return images (B, 3, S, S) that are no scenes: two shapes in one picture, channels shuffled, some inverted."""
    batch, _, size, _ = images.shape
    shift = torch.randint(-size // 4, size // 4, (2,), generator=draws).tolist()
    other, cover = (x.flip(0).roll(shift, (2, 3)) for x in (images, masks))
    mixed = images * (1 - cover) + other * cover
    mixed = mixed[:, torch.randperm(3, generator=draws)]
    inverted = torch.rand(batch, 1, 1, 1, generator=draws) < 0.3
    return torch.where(inverted, 1 - mixed, mixed)
