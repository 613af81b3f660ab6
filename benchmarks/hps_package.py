"""Score with HPSv2 through its authors' package: slow, and only where the extra `hps` and torchvision are installed.

The package reads its checkpoint again for every prompt. It scores one image at a time, in mixed precision on a GPU.
"""

import warnings
from collections import defaultdict
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from selfimprove.scorers.images import Images, ScorerError, eight_bit
from selfimprove.scorers.interface import BatchScorer

VERSIONS = {"hpsv2": "v2.0", "hpsv2.1": "v2.1"}


def _package() -> Any:
    try:
        with warnings.catch_warnings():  # the package silences every UserWarning from its import on
            return import_module("hpsv2.img_score")
    except (ImportError, FileNotFoundError) as error:
        raise ScorerError(
            f"the package hpsv2 cannot be used ({error}): it needs `pip install --no-deps hpsv2==1.2.0` (its pins clash with others), "
            "torchvision for your torch, and bpe_simple_vocab_16e6.txt.gz, which its wheel lacks, copied from open_clip_torch "
            "into hpsv2/src/open_clip; or use 'hpsv2' and 'hpsv2.1', which need none of it"
        ) from error


class HpsPackageScorer(BatchScorer):
    """The scorer `hpsv2` or `hpsv2.1`, computed by the package; `checkpoint` is a local file, or None for the one the package downloads.

    The package chooses the device itself. It also needs the LAION weights of ViT-H-14, which it downloads.

    Raises:
        ScorerError: the package cannot be imported; the message says what is missing.
    """

    def __init__(self, name: str, checkpoint: Path | None = None) -> None:
        super().__init__(name, f"package hpsv2, {VERSIONS[name]}", torch.device("cpu"), batch_size=128)
        self.checkpoint, self.package = checkpoint, _package()

    def score(self, images: Images, prompts: list[str]) -> Float[Tensor, " b"]:
        rows = defaultdict(list)
        for row, prompt in enumerate(prompts):
            rows[prompt].append(row)
        scores, pictures = torch.empty(len(prompts)), eight_bit(images)
        for prompt, where in rows.items():
            checkpoint = str(self.checkpoint) if self.checkpoint else None
            given = self.package.score([pictures[row] for row in where], prompt, cp=checkpoint, hps_version=VERSIONS[self.name])
            scores[where] = torch.tensor([float(score) for score in given])
        return scores
