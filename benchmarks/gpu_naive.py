"""The naive forms that `benchmarks.gpu` sets beside the package's own: Diffusion-DPO's step as its scripts take it, and a pipeline's call.

Both are written from a reading of what they imitate, without its data loading: images are decoded and prompts tokenised before the clock
starts, which is in the naive forms' favour.
"""

import copy
from collections.abc import Sequence

import torch
from diffusers import DDPMScheduler, PNDMScheduler, StableDiffusionPipeline
from peft import LoraConfig
from torch import Tensor
from torch.nn.functional import logsigmoid

from benchmarks.gpu_networks import SCHEDULE, Clock, prompts
from selfimprove.config import Settings
from selfimprove.models import sd
from selfimprove.models.execution import AUTOCAST, autocast
from selfimprove.models.pipeline import Diffuser
from selfimprove.train import learning_rate


class DiffusionDPO:
    """Its training step: VAE, text encoder and the reference's forward pass in the loop; what is frozen is held in the run's precision.

    With an adapter the reference is the same network with the adapter off, and the network's own weights are in that precision too.
    """

    def __init__(self, networks: Diffuser, settings: Settings) -> None:
        self.settings, self.device, self.dtype = settings, networks.device, AUTOCAST.get(settings.precision, torch.float32)
        self.vae, self.text_encoder = networks.vae.to(self.dtype), networks.pipeline.text_encoder.to(self.dtype)
        self.player = networks.denoiser
        self.reference = self.player
        if settings.lora_rank:
            self.player.to(self.dtype).add_adapter(
                LoraConfig(
                    r=settings.lora_rank,
                    lora_alpha=settings.lora_rank,
                    init_lora_weights="gaussian",
                    target_modules=list(sd.FAMILY.adapted),
                )
            )
        else:
            self.reference = copy.deepcopy(self.player).to(self.dtype)
            self.player.requires_grad_(True)
        if settings.gradient_checkpointing:
            self.player.enable_gradient_checkpointing()
        self.player.train()
        self.trained = [p for p in self.player.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(self.trained, settings.lr, weight_decay=settings.weight_decay)
        self.schedule = DDPMScheduler(**{k: v for k, v in SCHEDULE.items() if k.startswith("beta")})
        height, width = networks.image_size
        pairs = settings.per_forward()
        self.pixels = 2 * torch.rand(pairs, 6, height, width) - 1  # a pair's images, one after the other in channels
        self.tokens = networks.pipeline.tokenizer(prompts(pairs), padding="max_length", truncation=True, return_tensors="pt").input_ids

    def losses(self) -> Tensor:
        """Return the loss and the three numbers that the scripts log at every micro-batch."""
        pixels = torch.cat(self.pixels.to(self.device).chunk(2, dim=1)).to(self.dtype)
        with torch.no_grad():
            latents = self.vae.encode(pixels).latent_dist.sample() * self.vae.config.scaling_factor
            text = self.text_encoder(self.tokens.to(self.device))[0].repeat(2, 1, 1)
        noise = torch.randn_like(latents).chunk(2)[0].repeat(2, 1, 1, 1)
        t = torch.randint(0, self.schedule.config.num_train_timesteps, (len(latents) // 2,), device=self.device).repeat(2)
        noisy = self.schedule.add_noise(latents, noise, t)

        def errors(network: torch.nn.Module) -> tuple[Tensor, Tensor]:
            winner, loser = (network(noisy, t, text).sample.float() - noise.float()).square().mean((1, 2, 3)).chunk(2)
            return winner - loser, 0.5 * (winner + loser).mean()

        with autocast(self.device, self.settings.precision):
            difference, error = errors(self.player)
            if self.settings.lora_rank:
                self.player.disable_adapters()
            with torch.no_grad():
                reference, reference_error = errors(self.reference)
            if self.settings.lora_rank:
                self.player.enable_adapters()
        inside = -0.5 * self.settings.beta * (difference - reference)
        return torch.stack([-logsigmoid(inside).mean(), error, reference_error, (inside > 0).float().mean()])

    def train(self, clock: Clock) -> None:
        """Take all steps, with a tick where each begins."""
        for step in range(self.settings.steps):
            clock.tick()
            for group in self.optimiser.param_groups:
                group["lr"] = learning_rate(self.settings, step, self.settings.steps)
            parts = self.settings.batch // self.settings.per_forward()
            for _ in range(parts):
                losses = self.losses()
                losses.tolist()  # logged at every micro-batch
                (losses[0] / parts).backward()
            torch.nn.utils.clip_grad_norm_(self.trained, self.settings.clip)
            self.optimiser.step()
            self.optimiser.zero_grad()


def pipeline(networks: Diffuser, dtype: torch.dtype) -> StableDiffusionPipeline:
    """Return diffusers' pipeline with the scheduler of Stable Diffusion 1.5's folder, without a safety checker, in one precision."""
    made = StableDiffusionPipeline(
        networks.vae, networks.pipeline.text_encoder, networks.pipeline.tokenizer, networks.denoiser,
        PNDMScheduler(**SCHEDULE, skip_prk_steps=True),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return made.to(dtype)


def draw(made: StableDiffusionPipeline, texts: Sequence[str], steps: int) -> None:
    """Call the pipeline once for all prompts, everything but the number of steps at its default: images, not latents."""
    made(list(texts), num_inference_steps=steps)
