"""Load scorers by name, in three families. The same short name may mean an embedded or a published scorer."""

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
    """A family of scorers: its names, and a function that loads some of them onto a device, given the folder of the embedded assets."""

    names: tuple[str, ...]
    load: Callable[[Sequence[str], torch.device, Path], dict[str, Scorer]]


SCORER_FAMILIES = {
    "shapes": Family(SHAPES_SCORERS, lambda names, device, assets: load_embedded(names, device, assets / "scorers")),
    "published": Family(tuple(PUBLISHED_SCORERS), lambda names, device, _: load_published(names, device)),
    "oracle": Family(ORACLE_SCORERS, lambda names, *_: {name: OracleScorer(name) for name in names}),
}


def load_scorers(names: Sequence[str], device: torch.device, assets: Path = ASSETS, family: str = "shapes") -> dict[str, Scorer]:
    """Return scorers by name; each loads its weights at first use.

    `family` is a key of `SCORER_FAMILIES`. "shapes" are the embedded learned scorers, from `assets`/scorers. "published" are the scorers of
    `load_published`; a name may be followed by "=path". "oracle" is the truth about the embedded world, which must not select anything.

    Raises:
        ScorerError: the family or a name is unknown, or a file of a published scorer cannot be found or downloaded.
    """
    if family not in SCORER_FAMILIES:
        raise ScorerError(f"family={family!r} is not known; choose from {list(SCORER_FAMILIES)}")
    unknown = [name for name in names if name.partition("=")[0] not in SCORER_FAMILIES[family].names]
    if unknown:
        raise ScorerError(
            f"scorers={unknown} are not known; choose from {list(SCORER_FAMILIES[family].names)}, or another family than {family!r}"
            + (", each alone or with '=path/to/checkpoint'" if family == "published" else "")
        )
    return SCORER_FAMILIES[family].load(names, device, assets)
