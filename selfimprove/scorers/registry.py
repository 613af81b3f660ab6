"""Scorers by name, in three families: the same short name may mean an embedded or a published one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from selfimprove.scorers.embedded import ORACLE_SCORERS, SHAPES_SCORERS, OracleScorer, load_embedded
from selfimprove.scorers.images import ScorerError
from selfimprove.scorers.interface import Scorer
from selfimprove.scorers.published import PUBLISHED_SCORERS, load_published
from selfimprove.shapes import ASSETS


class Family(NamedTuple):
    """A family of scorers: its names, and what loads some of them by name onto a device from the folder of the embedded assets."""

    names: tuple[str, ...]
    load: Callable[[Sequence[str], torch.device, Path], dict[str, Scorer]]


FAMILIES = {
    "shapes": Family(SHAPES_SCORERS, lambda names, device, assets: load_embedded(names, device, assets / "scorers")),
    "published": Family(tuple(PUBLISHED_SCORERS), lambda names, device, _: load_published(names, device)),
    "oracle": Family(ORACLE_SCORERS, lambda names, device, _: {name: OracleScorer(name, device) for name in names}),
}


def load_scorers(names: Sequence[str], device: torch.device, assets: Path = ASSETS, family: str = "shapes") -> dict[str, Scorer]:
    """Return scorers by name; each reads its weights at first use.

    `family`: a key of `FAMILIES`. "shapes": the embedded learned scorers, from `assets`/scorers. "published": see `load_published`; a
    name may be followed by "=path". "oracle": the truth about the embedded world, which must not select anything.

    Raises:
        ScorerError: the family or a name is not known, or a file of a published scorer cannot be had.
    """
    if family not in FAMILIES:
        raise ScorerError(f"family={family!r} is not known; choose from {list(FAMILIES)}")
    unknown = [name for name in names if name.partition("=")[0] not in FAMILIES[family].names]
    if unknown:
        raise ScorerError(
            f"scorers={unknown} are not known; choose from {list(FAMILIES[family].names)}, or another family than {family!r}"
            + (", each alone or with '=path/to/checkpoint'" if family == "published" else "")
        )
    return FAMILIES[family].load(names, device, assets)
