"""What a table of scores was made with, kept in the file itself, and the refusal to compare what cannot be compared.

Published tables of this field differ silently in guidance, steps, images a prompt, version of a scorer. Here every file of per-image
scores says all of that, and tables of models are made from files whose protocols agree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from selfimprove.run_folder import write_table

KEYS = ("id", "prompt", "image")  # what is no score in a table of scores
OF_THE_MODEL = ("model", "model_hash")  # may differ between models that are compared
_ATTRIBUTE = "protocol"  # pandas writes a frame's attributes into the parquet file


class ProtocolError(ValueError):
    """Scores were made in ways that cannot be compared; names the fields that differ."""


@dataclass(frozen=True)
class Protocol:
    """How one model was sampled and scored."""

    model: str  # what a reader should call it
    model_hash: str  # of its weights and configurations
    prompts: str  # name of the prompt set
    prompts_hash: str
    n_prompts: int
    images: int  # of each prompt
    noise_seed: int  # initial noise is a function of it, the prompt and the image's index: the same for all models
    sampler: str
    steps: int
    guidance: float
    precision: str
    safety_checker: str = "none"  # one that blacks images out would change scores
    scorers: Mapping[str, str] = field(default_factory=dict)  # column -> version: published id and file
    black: int = 0  # images whose every pixel is black

    def differences(self, other: "Protocol", allowed: Sequence[str] = ()) -> list[str]:
        """Every field that differs, with both values, apart from the model's and those `allowed`; a scorer that only one has is none."""
        said = []
        for name in (f.name for f in fields(self) if f.name not in (*OF_THE_MODEL, "scorers", "black", *allowed)):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                said.append(f"{name.replace('_', ' ')}: {ours} and {theirs}")
        return said

    def versions(self, other: "Protocol") -> list[str]:
        """Columns of both whose scorer is not the same in both."""
        shared = [name for name in self.scorers if name in other.scorers]
        return [f"{n}: {self.scorers[n]} and {other.scorers[n]}" for n in shared if self.scorers[n] != other.scorers[n]]

    def header(self) -> str:
        """One line to print over a table."""
        black = f"; {self.black} images black" if self.black else ""
        return (
            f"{self.n_prompts} prompts ({self.prompts}), {self.images} image{'s' * (self.images > 1)} each, {self.sampler} in {self.steps} "
            f"steps at guidance {self.guidance:g}, {self.precision}, the same initial noise for every model{black}"
        )


@dataclass(frozen=True)
class Scored:
    """Per-image scores of one model: columns `id` (not in exports), `prompt`, `image` and one a scorer; and what they were made with."""

    table: pd.DataFrame
    protocol: Protocol

    @property
    def scorers(self) -> list[str]:
        """The columns that are scores."""
        return [c for c in self.table if c not in KEYS]

    def named(self, model: str) -> "Scored":
        """The same under another name for readers."""
        return Scored(self.table, replace(self.protocol, model=model))


def write_scores(path: Path, scored: Scored) -> None:
    """One parquet file with the protocol inside, written beside and renamed."""
    table = scored.table.copy()
    table.attrs[_ATTRIBUTE] = asdict(scored.protocol)
    write_table(path, table)


def read_scores(path: Path) -> Scored:
    """What `write_scores` wrote.

    Raises:
        ProtocolError: the file does not say how it was made.
    """
    table = pd.read_parquet(path)
    if _ATTRIBUTE not in table.attrs:
        raise ProtocolError(f"{path} does not say how its scores were made; write it with protocol.write_scores")
    said: dict[str, Any] = table.attrs.pop(_ATTRIBUTE)
    return Scored(table, Protocol(**said))


def check_comparable(models: Sequence[Scored], force: bool = False, allowed: Sequence[str] = ()) -> list[str]:
    """What differs between the first model's protocol and the others', which only `force` lets pass; `allowed` fields are not looked at.

    Returns:
        The differences that were forced, to be printed with the table.

    Raises:
        ProtocolError: protocols differ, or (never to be forced) one column holds scores of two versions of a scorer.
    """
    first, said = models[0].protocol, []
    for other in (m.protocol for m in models[1:]):
        if mixed := first.versions(other):
            raise ProtocolError(
                f"{first.model!r} and {other.model!r} have scores of different versions in one column ({'; '.join(mixed)}); "
                "give each version a column of its own, such as hpsv2 and hpsv2.1"
            )
        said += [f"{first.model!r} against {other.model!r}: {d}" for d in first.differences(other, allowed)]
    if said and not force:
        raise ProtocolError(f"these scores were made in different ways ({'; '.join(said)}); score again alike, or pass force=True")
    return said
