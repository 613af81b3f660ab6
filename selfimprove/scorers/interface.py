"""The interface of every scorer: images and prompts in, one float per image out."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from selfimprove.scorers.images import Images, ScorerError, black_images

Scorer = Callable[[Float[Tensor, "b 3 h w"], Sequence[str]], Float[Tensor, " b"]]  # a plain function is enough


class BlackImageWarning(UserWarning):
    """Wholly black images were scored. A safety checker makes such images, and their scores mean nothing."""


class BatchScorer(ABC):
    """A scorer that works in batches on a device, loads its weights at first use, and checks its inputs and outputs.

    `name` is the name of its table column. `version` says whose weights it uses, for table headers. Scores of different prompts are not
    comparable.
    """

    for_selection = True  # False: the scorer measures the truth, and must not choose training data

    def __init__(self, name: str, version: str, device: torch.device, batch_size: int) -> None:
        if batch_size < 1:
            raise ScorerError(f"{name}: batch_size={batch_size} must be at least 1")
        self.name, self.version, self.device, self.batch_size = name, f"{name}: {version}", device, batch_size

    def bring(self) -> None:
        """Move the networks that are loaded to the scorer's device, if they were moved away (`in_turn`)."""
        for network in networks([self]):
            network.to(self.device)

    @abstractmethod
    def score(self, images: Images, prompts: list[str]) -> Float[Tensor, " b"]:
        """Return the scores of one batch."""

    @torch.inference_mode()
    def __call__(self, images: Images, prompts: Sequence[str]) -> Float[Tensor, " b"]:
        """Return the scores on the CPU. Prompts may be empty. Text beyond the text encoder's limit is ignored.

        Warns (`BlackImageWarning`) of black images, with their number and rows.

        Raises:
            ScorerError: the numbers of images and prompts differ, an image cannot be read (see `eight_bit`), or a score is not finite.
        """
        if len(images) != len(prompts):
            raise ScorerError(f"{self.name}: {len(images)} images and {len(prompts)} prompts; give one prompt an image")
        black = black_images(images)
        if black:
            warnings.warn(
                f"{self.name}: {len(black)} of {len(images)} images are black (rows {black[:8]})", BlackImageWarning, stacklevel=3
            )
        self.bring()
        batches = [slice(start, start + self.batch_size) for start in range(0, len(prompts), self.batch_size)]
        scores = torch.cat([torch.empty(0), *(self.score(images[rows], list(prompts[rows])).float().cpu() for rows in batches)])
        bad = (~scores.isfinite()).nonzero()
        if len(bad):
            row = int(bad[0])
            raise ScorerError(f"{self.name} gave {float(scores[row])} for image {row} of {prompts[row]!r}; mend the scorer or the image")
        return scores


@contextmanager
def in_turn(scorer: Scorer) -> Iterator[Scorer]:
    """Let a scorer hold memory of a GPU inside only: its networks are moved to the CPU at the end, and a call brings them back.

    Plain functions and scorers on the CPU are left as they are.
    """
    try:
        yield scorer
    finally:
        if isinstance(scorer, BatchScorer) and scorer.device.type != "cpu":
            for network in networks([scorer]):
                network.to("cpu")
            if scorer.device.type == "cuda":
                torch.cuda.empty_cache()


def networks(scorers: Iterable[Scorer]) -> list[nn.Module]:
    """Return the networks that the scorers have loaded so far, each once."""
    held: list[object] = list(scorers)
    seen: set[int] = set()
    found: list[nn.Module] = []
    while held:
        part = held.pop()
        if id(part) in seen or isinstance(part, type):
            continue
        seen.add(id(part))
        if isinstance(part, nn.Module):
            found.append(part)
        else:
            held += getattr(part, "__dict__", {}).values()
    return found


def weights_of(scorers: Iterable[Scorer]) -> list[Tensor]:
    """Return the weights of the networks that the scorers have loaded so far, each once."""
    return list({id(w): w for network in networks(scorers) for w in (*network.parameters(), *network.buffers())}.values())


def resident_memory(scorers: Iterable[Scorer]) -> int:
    """Return the bytes of the networks that the scorers have loaded so far, on any device. A shared network counts once."""
    return sum(w.numel() * w.element_size() for w in weights_of(scorers))
