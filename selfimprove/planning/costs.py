"""Count what a network costs without computing: FLOPs and the memory of a training step, on tensors that have shapes but no data."""

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from selfimprove.config import Precision, Settings
from selfimprove.data.latents import SHARD
from selfimprove.models.execution import AUTOCAST, CAST, rounded, vae_precision
from selfimprove.models.family import Family
from selfimprove.models.lora import Adapters
from selfimprove.models.network import Conditioning, denoise
from selfimprove.models.pipeline import Diffuser, images_at_once


class Flops(NamedTuple):
    """FLOPs per latent (denoiser) or image (VAE); a multiplication with its addition counts as 2.

    `forward`: one forward pass of the denoiser without an adapter, because networks that draw images have their adapters merged and the
    opponent's adapter is small. `step`: forward and backward pass of the player, with its adapter if there is one.
    """

    forward: float
    step: float
    decode: float
    encode: float


class Memory(NamedTuple):
    """Bytes that one process holds at the peak of a stage, part by part.

    `pipeline`: the VAE and, on a CPU, the text encoders. `average`: the moving average of weights. `activations`: what the network keeps
    for its backward pass, and everything else in a step. `scorers`: weights of the scorers that are in the device's memory.
    """

    pipeline: int
    player: int
    opponent: int
    gradients: int
    optimiser: int
    average: int
    activations: int
    scorers: int = 0

    @property
    def networks(self) -> int:
        """Return the bytes of the weights of the pipeline, the player and the opponent."""
        return self.pipeline + self.player + self.opponent

    @property
    def peak(self) -> int:
        """Return the largest number of bytes that are held at once, the sum of all parts."""
        return sum(self)


class ScorerMemory(NamedTuple):
    """Bytes of one scorer: its weights, and what it holds beside them per image; it takes at most `batch` images at once."""

    weights: int
    image: int
    batch: int

    def activations(self, count: int) -> int:
        """Return what the scorer holds beside its weights while it scores `count` images."""
        return self.image * min(self.batch, count)


class Held(TorchDispatchMode):
    """Count the bytes of all live storages (`now`), and their maximum so far (`peak`)."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, int] = {}

    def know(self, tensors: Iterable[Tensor]) -> None:
        """Leave out tensors that are there already; to be called before the count begins."""
        for tensor in tensors:
            self._alive[tensor.untyped_storage()._cdata] = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_iter(made):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return made

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata  # views share their storage
        if key not in self._alive:
            self._alive[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self._alive.pop(key)


def _like(network: Any, change: Callable[[Any], None] = lambda made: None) -> Any:
    """Return a network of the same configuration, after a change to it; its weights are fake inside FakeTensorMode."""
    with torch.device("meta"):
        made = type(network).from_config(network.config)
        change(made)
    for module in made.modules():
        for name, weight in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty(weight.shape), weight.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))  # such as positions in transformers
    return made


def _player(shapes: "Shapes", settings: Settings) -> Any:
    """Return the network that is trained, with its adapter if it has one."""
    rank, how = settings.lora_rank, (settings.lora_targets, settings.use_dora)
    player = _like(shapes.denoiser, lambda made: Adapters(made, shapes.family, rank, 1, *how).add_player(None, 0, 0) if rank else None)
    return player if settings.use_dora else rounded(player, settings.precision)


def _norms_as_on(device: str, network: nn.Module, precision: Precision) -> None:
    """Have norms compute in float32, as autocast has them on CUDA, and the simulated one does not."""
    for module in network.modules() if precision != "no" and device == "cuda" else ():
        if isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
            module.register_forward_pre_hook(lambda _, given: (given[0].float(), *given[1:]))


@dataclass(frozen=True)
class Shapes:
    """What costs depend on: denoiser and VAE, of which only the configurations are read, and what goes through them.

    `latent`: (C, H, W). `image`: (height, width) in pixels. `text`: the shapes of one prompt's conditioning, by name. `device`: its type,
    such as "cuda". `encoders`: bytes of the text encoders, which on a GPU are on the device for their turn only.
    """

    family: Family
    denoiser: nn.Module
    vae: AutoencoderKL
    latent: tuple[int, int, int]
    image: tuple[int, int]
    text: dict[str, tuple[int, ...]]
    device: str
    encoders: int

    @classmethod
    def of(cls, diffuser: Diffuser) -> "Shapes":
        """Return the shapes of a loaded pipeline."""
        text = {name: tuple(tensor.shape[1:]) for name, tensor in diffuser.embed_one("").tensors.items()}
        encoders, device = sum(_bytes(network) for network, _, _ in diffuser.texts), diffuser.device.type
        return cls(diffuser.family, diffuser.shape, diffuser.vae, diffuser.latent_shape, diffuser.image_size, text, device, encoders)

    @property
    def parameters(self) -> int:
        """Return the number of weights of the denoiser."""
        return sum(p.numel() for p in self.denoiser.parameters())

    def pipeline(self, precision: Precision) -> int:
        """Return the bytes that stay on the device through every stage of a run: the VAE and, on a CPU, the text encoders."""
        rounding = AUTOCAST.get(vae_precision(precision, self.vae.config))
        return _bytes(self.vae, rounding) + (self.encoders if self.device == "cpu" else 0)

    def call(self, network: Any, batch: int) -> Tensor:
        """Return a network's output for a batch of this size, of zeros."""
        given = Conditioning({name: torch.zeros(batch, *shape) for name, shape in self.text.items()}, self.family.call)
        return denoise(network, torch.zeros(batch, *self.latent), torch.zeros(batch, dtype=torch.long), given)


def _bytes(network: nn.Module, rounding: torch.dtype | None = None) -> int:
    """Return the bytes of a network's weights, once `execution.rounded` has rounded them."""
    weights = ((p, rounding and isinstance(layer, CAST)) for layer in network.modules() for p in layer.parameters(recurse=False))
    return sum(p.numel() * (rounding if rounding and small else p.dtype).itemsize for p, small in weights)


def count_flops(shapes: Shapes, settings: Settings) -> Flops:
    """Return the FLOPs per latent and image. With gradient checkpointing, a step counts the player's forward pass twice."""

    def counted(run: Callable[[], Any]) -> float:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # the counter does not see fused kernels
            run()
        return float(counter.get_total_flops())

    with FakeTensorMode():
        player, vae, latent = _player(shapes, replace(settings, precision="no")), _like(shapes.vae), torch.zeros(1, *shapes.latent)
        plain = _like(shapes.denoiser) if settings.lora_rank else player
        step = counted(lambda: shapes.call(player, 1).sum().backward())
        if settings.gradient_checkpointing:
            with torch.no_grad():
                step += counted(lambda: shapes.call(player, 1))
        with torch.no_grad():
            forward = counted(lambda: shapes.call(plain, 1))
            decode = counted(lambda: vae.decode(latent))
            encode = counted(lambda: vae.encode(torch.zeros(1, 3, *shapes.image)))
    return Flops(forward, step, decode, encode)


def training_memory(shapes: Shapes, settings: Settings, live_opponent: bool, processes: int = 1) -> Memory:
    """Return the memory of a training process, from a simulated step, with the base pipeline.

    `live_opponent`: whether the opponent is a second network in memory. `processes`: how many share the batch. Not
    counted: what the device's libraries take (some hundreds of MB on a GPU), and memory lost to fragmentation.
    """
    mixed = settings.precision != "no"
    held, sides = Held(), 2 if settings.objective == "spin" else 1
    with FakeTensorMode(), held:
        player = _player(shapes, settings).train()
        own = held.now
        second = rounded(_like(shapes.denoiser).eval().requires_grad_(False), settings.precision) if live_opponent else None
        held.peak = networks = held.now  # weights are rounded before they come to the device
        if settings.gradient_checkpointing:
            player.enable_gradient_checkpointing()
        trained = [p for p in player.parameters() if p.requires_grad]
        _norms_as_on(shapes.device, player, settings.precision)
        optimiser = torch.optim.AdamW(trained, foreach=False)  # fused on CUDA, which needs no temporary tensors either
        before = held.now
        average = [p.clone() for p in trained] if settings.ema else []
        averaged = held.now - before
        rows = sides * settings.per_forward(processes)
        for p in trained:
            p.grad = torch.zeros_like(p)
        optimiser.step()  # makes the moments, which are there from the second step on
        optimiser.zero_grad()
        for _ in range(min(settings.share(processes) // settings.per_forward(processes), 2)):  # the second micro-batch has gradients
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                if second is not None:
                    with torch.no_grad():
                        shapes.call(second, rows)
                loss = shapes.call(player, rows).float().square().mean()
            loss.backward()
        optimiser.step()
        moments = sum(t.untyped_storage().nbytes() for state in optimiser.state.values() for t in state.values())
        gradients = sum(p.numel() * p.element_size() for p in trained)
    del average
    activations = held.peak - (networks + averaged + moments + gradients)
    moments = moments // 4 if settings.optimiser == "adamw8bit" else moments  # and a 256th of scales, not counted
    return Memory(shapes.pipeline(settings.precision), own, networks - own, gradients, moments, averaged, activations)


def sampling_memory(shapes: Shapes, settings: Settings, guidance: float, count: int = SHARD) -> Memory:
    """Return the memory of a process that samples, decodes and encodes `count` images.

    The activations are the largest: of the network that samples in batches of `rollout_batch`, or of the VAE; or, beside the network, the
    text encoders in their turn.
    """
    guided = min(settings.rollout_batch, count, SHARD) * (1 + (guidance != 1))
    images = min(images_at_once(shapes.image), count, SHARD)
    drawing, decoding = Held(), Held()
    with FakeTensorMode(), torch.no_grad():
        with drawing, torch.autocast("cpu", torch.bfloat16, enabled=settings.precision != "no"):
            network = rounded(_like(shapes.denoiser).requires_grad_(False), settings.precision)
            _norms_as_on(shapes.device, network, settings.precision)
            weights = drawing.peak = drawing.now
            shapes.call(network, guided)
        in_vae = vae_precision(settings.precision, shapes.vae.config)
        with decoding, torch.autocast("cpu", torch.bfloat16, enabled=in_vae != "no"):
            vae = rounded(_like(shapes.vae).requires_grad_(False), in_vae)
            _norms_as_on(shapes.device, vae, in_vae)
            there = decoding.peak = decoding.now  # already counted in `pipeline`
            vae.decode(torch.zeros(images, *shapes.latent))
            vae.encode(torch.zeros(images, 3, *shapes.image))
    turn = 0 if shapes.device == "cpu" else shapes.encoders
    activations = max(drawing.peak - weights, decoding.peak - there, turn)
    return Memory(shapes.pipeline(settings.precision), weights, 0, 0, 0, 0, activations)


def evaluation_memory(shapes: Shapes, settings: Settings, scorers: Sequence[ScorerMemory], resident: int, count: int = SHARD) -> Memory:
    """Return the memory of a process that evaluates a player on `count` images: it samples, measures errors, decodes and scores.

    On a GPU each scorer is on the device for its turn only, while nothing is sampled. On a CPU all scorers, `resident` bytes, stay.
    Held-out errors never need more than sampling does, and are not counted apart.
    """
    drawing, together = sampling_memory(shapes, settings, settings.evaluation_guidance, count), min(settings.rollout_batch, count)
    if shapes.device == "cpu":
        return drawing._replace(scorers=resident, activations=max([drawing.activations, *(s.activations(together) for s in scorers)]))
    weights, activations = max(((s.weights, s.activations(together)) for s in scorers), key=sum, default=(0, 0))
    return drawing if weights + activations <= drawing.activations else drawing._replace(scorers=weights, activations=activations)
