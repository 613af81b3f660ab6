"""Record in a score file how its scores were made, and refuse to compare scores that were made in different ways.

Published tables of this field differ silently in guidance, steps, images per prompt and scorer versions. Here every file of per-image
scores records all of these. Tables of several models are made only from files whose protocols agree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

import pandas as pd
import pyarrow as pa

from selfimprove.errors import SelfImproveError
from selfimprove.files import write_table

KEYS = ("id", "prompt", "image")  # columns of a score table that are not scores
OF_THE_MODEL = ("model", "model_hash")  # fields that may differ between compared models
UNKNOWN = "not recorded"  # by versions before 0.2
_ATTRIBUTE = "protocol"  # pandas writes a frame's attributes into the parquet file


class ProtocolError(SelfImproveError):
    """Scores were made in ways that cannot be compared. The message names the fields that differ."""


def disagreements(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return, in words, the entries of `ours` that differ in `theirs`, with both values; long ones are cut."""
    return [
        f"{name.replace('_', ' ')}: {shorten(str(value), 60)} and {shorten(str(theirs[name]), 60)}"
        for name, value in ours.items()
        if value != theirs[name]
    ]


@dataclass(frozen=True)
class SamplingProtocol:
    """How one model was sampled and scored."""

    model: str  # name for readers
    model_hash: str  # hash of the weights and configurations
    prompts: str  # name of the prompt set
    prompts_hash: str
    n_prompts: int
    images: int  # per prompt
    noise_seed: int  # seed, prompt and image index determine the initial noise, so all models share it
    sampler: str
    steps: int
    guidance: float
    precision: str
    timesteps: str = UNKNOWN  # of the sampler, in its order
    final_alpha: float | str = UNKNOWN  # cumulative alpha of the state that the last step leads to
    image_size: str = UNKNOWN  # height x width of the images in pixels; images of another size start from other noise
    tf32: str = UNKNOWN  # see processes.tf32
    safety_checker: str = "none"  # a checker that blacks out images would change scores
    scorers: Mapping[str, str] = field(default_factory=dict)  # column -> version: published id and file
    black: int = 0  # images whose every pixel is black
    negative_prompt: str = ""

    def differences(self, other: "SamplingProtocol", allowed: Sequence[str] = ()) -> list[str]:
        """Return every field that differs, with both values.

        Left out are the model's own fields, `black`, the `allowed` fields, and the scorers, which `versions` compares.
        """
        names = [f.name for f in fields(self) if f.name not in (*OF_THE_MODEL, "scorers", "black", *allowed)]
        return disagreements(*({name: getattr(one, name) for name in names} for one in (self, other)))

    def versions(self, other: "SamplingProtocol") -> list[str]:
        """Return the shared columns whose scorer versions differ, with both versions."""
        shared = [name for name in self.scorers if name in other.scorers]
        return [f"{n}: {self.scorers[n]} and {other.scorers[n]}" for n in shared if self.scorers[n] != other.scorers[n]]

    def header(self) -> str:
        """Return one line to print above a table."""
        black = f"; {self.black} images black" if self.black else ""
        return (
            f"{self.n_prompts} prompts ({self.prompts}), {self.images} image{'s' * (self.images > 1)} each, {self.sampler} in {self.steps} "
            f"steps at guidance {self.guidance:g}, {self.precision}, the same initial noise for every model{black}"
        )


@dataclass(frozen=True)
class Scored:
    """Per-image scores of one model, and their protocol. Columns: `id` (not in exports), `prompt`, `image`, and one per scorer."""

    table: pd.DataFrame
    protocol: SamplingProtocol

    @property
    def scorers(self) -> list[str]:
        """Return the names of the score columns."""
        return [c for c in self.table if c not in KEYS]

    def named(self, model: str) -> "Scored":
        """Return the same scores under another model name for readers."""
        return Scored(self.table, replace(self.protocol, model=model))


def write_scores(path: Path, scored: Scored) -> None:
    """Write one parquet file with the protocol inside, under a temporary name that is then renamed."""
    table = scored.table.copy()
    table.attrs[_ATTRIBUTE] = asdict(scored.protocol)
    write_table(path, table)


def read_scores(path: Path) -> Scored:
    """Read a file that `write_scores` wrote.

    Raises:
        ProtocolError: the file is damaged, or does not say how its scores were made.
    """
    try:
        table = pd.read_parquet(path)
    except (pa.ArrowException, OSError) as error:
        raise ProtocolError(f"{path} is cut off or unreadable ({error}); delete it to have the images scored again") from error
    if _ATTRIBUTE not in table.attrs:
        raise ProtocolError(f"{path} does not say how its scores were made; write it with protocol.write_scores")
    said: dict[str, Any] = table.attrs.pop(_ATTRIBUTE)
    return Scored(table, SamplingProtocol(**said))


def check_comparable(models: Sequence[Scored], force: bool = False, allowed: Sequence[str] = ()) -> list[str]:
    """Raise if a model's protocol differs from the first model's, unless `force` is set. Fields in `allowed` are not compared.

    Returns:
        The differences that `force` let pass, to be printed with the table.

    Raises:
        ProtocolError: protocols differ, or one column holds scores of two versions of a scorer, which `force` does not let pass.
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
