"""Train low-rank adapters: two of them, the player's and the opponent's, on one frozen base.

The player of a round begins as the adapter that its start has written, and the opponent is the adapter of the opponent's round; in round 1
both are the base itself. So memory holds no second network, nothing is merged between rounds, and the adapter that a round writes is the
whole difference to the base. `lora/` holds it, as the pipeline's `load_lora_weights` reads it. Beside it lies a complete pipeline, like any
other, whose denoiser has the adapter merged.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn

from selfimprove.draws import generator
from selfimprove.models.family import Family
from selfimprove.models.weights import ModelError

FILE = "pytorch_lora_weights.safetensors"
PLAYER, OPPONENT = "player", "opponent"


def adapted_layers(network: nn.Module, endings: Sequence[str]) -> dict[str, nn.Linear]:
    """Return the layers that get an adapter, by name: those whose names end so."""
    return {n: m for n, m in network.named_modules() if isinstance(m, nn.Linear) and n.endswith(tuple(endings))}


def adapter_size(network: nn.Module, endings: Sequence[str], rank: int) -> int:
    """Return the number of weights of an adapter of that rank."""
    return sum(rank * (layer.in_features + layer.out_features) for layer in adapted_layers(network, endings).values())


def check_rank(network: nn.Module, endings: Sequence[str], rank: int) -> None:
    """Raise if adapters do not fit a network.

    Raises:
        ModelError: no layer has such a name, or the rank is larger than the smallest side of one, which is that layer's full rank.
    """
    layers = adapted_layers(network, endings)
    unknown = [ending for ending in endings if not any(name.endswith(ending) for name in layers)]
    if unknown:
        known = sorted({name.rpartition(".")[2] for name, layer in network.named_modules() if isinstance(layer, nn.Linear)})
        raise ModelError(f"lora_targets: no linear layer's name ends with {unknown[0]!r}; they end with {', '.join(known)}")
    name, smallest = min(((n, min(m.in_features, m.out_features)) for n, m in layers.items()), key=lambda pair: pair[1])
    if rank > smallest:
        raise ModelError(f"lora_rank={rank} is more than the full rank {smallest} of {name}; give a smaller one, or None for all weights")


class Adapters:
    """The two adapters of a round, and how they are made: alike, scaled by alpha / rank, on the layers whose names end with `targets`."""

    def __init__(self, network: Any, family: Family, rank: int, alpha: int, targets: str = "", use_dora: bool = False) -> None:
        self.network, self.family, self.scale = network, family, alpha / rank
        self.config = LoraConfig(
            r=rank, lora_alpha=alpha, target_modules=list(targets.split() or family.adapted), lora_dropout=0.0, use_dora=use_dora
        )

    def add_player(self, start: Path | None, seed: int, round_index: int) -> None:
        """Add the player's adapter, the only part that is trained: that in the folder `start`, or a new one, whose output is zero.

        Raises:
            ModelError: the adapter in `start` is of another rank or on other layers.
        """
        self.network.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator(seed, "lora", round_index).initial_seed())
            self._add(PLAYER, start)

    def opponent(self, folder: Path | None) -> "WithAdapter":
        """Return the opponent: the adapter in a folder in place of the player's, or none of both."""
        if folder is None:
            return WithAdapter(self.network, None)
        with torch.random.fork_rng(devices=[]):
            self._add(OPPONENT, folder)
        self.network.set_adapter(PLAYER)  # adding one has switched the player's off, and frozen it
        return WithAdapter(self.network, OPPONENT)

    def _add(self, name: str, folder: Path | None) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # two adapters are meant
            self.network.add_adapter(self.config, adapter_name=name)
        if folder is None:
            return
        stored = load_file(folder / FILE)
        weights = {key.removeprefix(f"{self.family.part}."): value / self._factor(key) for key, value in stored.items()}
        own = get_peft_model_state_dict(self.network, adapter_name=name)
        if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in weights.items()}:
            raise ModelError(
                f"the adapter of an earlier round, {str(folder)!r}, is of another rank or on other layers than lora_rank={self.config.r} "
                "and lora_targets say, and a round goes on from it; leave the settings of adapters as they were, or start another run"
            )
        set_peft_model_state_dict(self.network, weights, adapter_name=name)

    def _factor(self, key: str) -> float:
        return self.scale if ".lora_B" in key else 1.0

    def merge(self, folder: Path, exact: nn.Module | None = None) -> None:
        """Write the player's adapter to `folder`, and merge it into the weights; into those of `exact`, if the network's were rounded.

        The factor alpha / rank is folded into B, so that readers need no alpha.
        """
        layers: dict[str, Tensor] = get_peft_model_state_dict(self.network, adapter_name=PLAYER)
        own = {key: value.detach().cpu().contiguous() * self._factor(key) for key, value in layers.items()}
        save = getattr(diffusers, self.family.pipeline).save_lora_weights
        save(folder, **{f"{self.family.part}_lora_layers": own}, safe_serialization=True)
        if OPPONENT in self.network.peft_config:
            self.network.delete_adapters(OPPONENT)
        whole = dict(exact.named_parameters()) if exact else {}
        for name, weight in self.network.named_parameters():
            if (own_name := name.replace(".base_layer.", ".")) in whole:
                weight.data = whole[own_name].data.to(weight.device)
        self.network.fuse_lora(adapter_names=[PLAYER])
        self.network.unload_lora()


class WithAdapter:
    """A network with the opponent's adapter, or none, in place of the player's, for forward passes without a gradient.

    Call the opponent before the player in each step. Each call leaves the player's adapter on: a backward pass sees the adapter that is on
    at its time, which with another one has gradients of zero, and with recomputed activations fails.
    """

    def __init__(self, network: Any, adapter: str | None) -> None:
        self.network, self.adapter = network, adapter

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        with self._on():
            return self.network(*inputs, **named)

    @contextmanager
    def _on(self) -> Iterator[None]:
        if self.adapter is None:
            self.network.disable_adapters()
        else:
            self.network.set_adapter(self.adapter)
        try:
            yield
        finally:
            if self.adapter is None:
                self.network.enable_adapters()
            self.network.set_adapter(PLAYER)
