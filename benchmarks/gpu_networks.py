"""What `benchmarks.gpu` times: Stable Diffusion 1.5's networks with random weights (or a toy's), their settings, and a clock of steps."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from selfimprove.config import Settings
from selfimprove.models import sd
from selfimprove.models.paths import DiffusionSchedule
from selfimprove.models.pipeline import Diffuser
from selfimprove.planning.costs import Shapes
from selfimprove.presets import PRESETS
from selfimprove.shapes import PIPELINE
from selfimprove_lab.results.true_sizes import true_size

SCHEDULE: dict[str, Any] = {  # of Stable Diffusion 1.5's folder
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "set_alpha_to_one": False, "steps_offset": 1,
}  # fmt: skip


WARM_UP = 2  # steps that are not timed


class Case(NamedTuple):
    """One thing that is timed. `name`: what both forms compute; `form`: "ours", or one that begins with "naive"; `changes`: of settings."""

    name: str
    form: str
    changes: dict[str, Any]
    kind: str = "training"


ADAPTER = {"lora_rank": 16, "lora_alpha": 16}
SMALL_CARD = ADAPTER | {"batch": 16, "micro_batch": 4, "gradient_checkpointing": True}  # as in the preset sd15-spin-lora
CASES = (  # in order of worth: whatever the time allows is measured from the top
    Case("all weights", "ours", {}),
    Case("all weights", "naive", {}),
    Case("rollouts", "ours", {}, "sampling"),
    Case("rollouts", "naive", {}, "sampling"),
    Case("adapter", "ours", ADAPTER),
    Case("adapter", "naive", ADAPTER),
    Case("all weights", "ours, opponent kept", {}),
    Case("rollouts", "naive, float32", {}, "sampling"),
    Case("adapter, checkpointed", "ours", SMALL_CARD),
    Case("adapter, checkpointed", "naive", SMALL_CARD),
)


@dataclass(frozen=True)
class Size:
    """How large everything is. `repeats`: timed steps, or timed batches of rollouts; `toy`: a network that a CPU runs in no time."""

    toy: bool

    @property
    def repeats(self) -> int:
        """Timed repetitions per case."""
        return 2 if self.toy else 6

    def settings(self, case: Case) -> Settings:
        """Return the preset's, with steps of four micro-batches, as many as are timed, and no checkpoint among them."""
        steps = {"steps": WARM_UP + self.repeats + 1, "batch": 32, "checkpoint_every": 10**9, "lora_rank": None}
        toy = {"batch": 4, "micro_batch": 2, "rollout_batch": 4, "rollout_steps": 3} if self.toy else {}
        return replace(PRESETS["sd15-spin"].for_round(1), **(steps | case.changes | toy))

    def shapes(self) -> Shapes:
        """Configurations of denoiser and VAE, without weights."""
        if not self.toy:
            return true_size("sd15")
        with FakeTensorMode():
            unet = UNet2DConditionModel(
                sample_size=8, block_out_channels=(32, 32), layers_per_block=1, norm_num_groups=8, attention_head_dim=4,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                cross_attention_dim=32,
            )  # fmt: skip
            vae = AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, block_out_channels=(8, 16),
                norm_num_groups=4, sample_size=16,
            )  # fmt: skip
        encoder = 4 * sum(p.numel() for p in _text_encoder(32, torch.device("meta")).parameters())
        return Shapes(sd.FAMILY, unet, vae, (4, 8, 8), (16, 16), {"text": (77, 32)}, "cuda", encoder)

    @property
    def cases(self) -> tuple[Case, ...]:
        """What is timed; a toy leaves out what goes no new way through the code."""
        return CASES[:7] if self.toy else CASES

    @property
    def counted(self) -> tuple[Case, ...]:
        """The cases of our own form, whose FLOPs and bytes are counted; of a toy the first two."""
        return tuple(case for case in self.cases if case.form.startswith("ours"))[: 2 if self.toy else None]

    def networks(self, device: torch.device, seed: int, naive: bool = False) -> Diffuser:
        """Return a pipeline of these shapes on the device, its weights drawn at random, frozen and in float32.

        `naive`: as diffusers loads it; else with the VAE's memory laid out as `models.pipeline` does it.
        """
        shapes = self.shapes()
        torch.manual_seed(seed)
        with torch.device(device):
            unet, vae = (type(network).from_config(network.config) for network in (shapes.denoiser, shapes.vae))
        text = _text_encoder(shapes.text["text"][1], device)
        for network in (unet, vae, text):
            network.float().to(device).eval().requires_grad_(False)
        if not naive:
            vae.to(memory_format=torch.channels_last)
        tokenizer = CLIPTokenizer.from_pretrained(PIPELINE / "tokenizer", model_max_length=shapes.text["text"][0])
        scheduler = DDIMScheduler(**SCHEDULE, clip_sample=False)
        pipeline = StableDiffusionPipeline(
            vae, text, tokenizer, unet, scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
        made = Diffuser(Path("random weights"), sd.FAMILY, unet, vae, pipeline, DiffusionSchedule(scheduler, device), device)
        vars(made)["denoiser"] = unet  # what would be loaded from the folder at first use
        return made


def _text_encoder(width: int, device: torch.device) -> CLIPTextModel:
    """CLIP ViT-L/14's text encoder at width 768, else a tiny one; both read the embedded world's tokens."""
    large = width == 768
    config = CLIPTextConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=12 if large else 1, num_attention_heads=12 if large else 2,
        bos_token_id=49406, eos_token_id=49407,
    )  # fmt: skip
    with torch.device(device):
        return CLIPTextModel(config)


def prompts(count: int) -> list[str]:
    """So many different prompts."""
    return [f"a red star above a blue circle, number {i}" for i in range(count)]


@dataclass
class Clock:
    """Notes the moments at which steps begin, in seconds, each time after the device has finished all it was given."""

    device: torch.device
    at: list[float] = field(default_factory=list)

    def tick(self) -> None:
        """Wait for the device, then note the time."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.at.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        """Durations between ticks, without those of the warm-up."""
        return [after - before for before, after in zip(self.at[WARM_UP:], self.at[WARM_UP + 1 :], strict=False)]

    def timed(self, call: Callable[[], Any]) -> float:
        """Seconds that a call takes, until the device has finished."""
        self.tick()
        call()
        self.tick()
        return self.at[-1] - self.at[-2]

    def opponent(self, inner: Callable[..., Tensor], per_step: int) -> Callable[..., Tensor]:
        """Return the same opponent, which ticks at the first micro-batch of each step of `per_step` examples."""

        def ticking(batch: Any, places: Sequence[int]) -> Tensor:
            if places[0] % per_step == 0:
                self.tick()
            return inner(batch, places)

        return ticking


@contextmanager
def rows_counted(network: nn.Module) -> Iterator[list[int]]:
    """Yield a list to which every forward pass of the network adds its number of latents."""
    rows: list[int] = []
    handle = network.register_forward_hook(lambda module, given, made: rows.append(len(made[0])))
    try:
        yield rows
    finally:
        handle.remove()
