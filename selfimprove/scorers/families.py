"""Scorers by name, in three families: the same short name may mean an embedded or a published one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from selfimprove.scorers.embedded import SHAPES_SCORERS, load_embedded
from selfimprove.scorers.images import ScorerError
from selfimprove.scorers.interface import Scorer
from selfimprove.scorers.published import load_published
from selfimprove.scorers.truth import TRUTHS, OracleScorer
from selfimprove.shapes import ASSETS

Family = Literal["shapes", "published", "oracle"]


def load_scorers(names: Sequence[str], device: torch.device, assets: Path = ASSETS, family: Family = "shapes") -> dict[str, Scorer]:
    """Scorers by name; weights are read at first use.

    `shapes`: the embedded ones, from `assets`/scorers. `published`: see `load_published`, which also takes `name=path`.
    `oracle`: the truth about the embedded world, which must not select anything.

    Raises:
        ScorerError: family or name not known; a published scorer's files cannot be had.
    """
    if family == "published":
        return load_published(names, device)
    known = {"shapes": SHAPES_SCORERS, "oracle": TRUTHS}
    if family not in known:
        raise ScorerError(f"family={family!r} is not known; choose from {[*known, 'published']}")
    unknown = [name for name in names if name not in known[family]]
    if unknown:
        raise ScorerError(f"scorers={unknown} are not known; choose from {list(known[family])}, or another family than {family!r}")
    if family == "shapes":
        return load_embedded(names, device, assets / "scorers")
    return {name: OracleScorer(name, device) for name in names}
