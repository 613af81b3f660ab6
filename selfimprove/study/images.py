"""Load the pictures of a study from folders: a round's, or any folder of images with a table of their prompts."""

import hashlib
import io
import json
from collections.abc import Iterable
from math import ceil
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from PIL import Image, UnidentifiedImageError

from selfimprove.draws import example_id
from selfimprove.study.store import StudyError

TABLES = (".parquet", ".csv", ".jsonl")


class Picture(NamedTuple):
    """An image file. `image` is its number among its prompt's images, from 0. `name` identifies it in a list of kept images."""

    prompt: str
    image: int
    path: Path
    name: str


def load_pictures(folder: str | Path) -> list[Picture]:
    """Return the pictures of a folder, in the order of its table.

    The folder is either a round of a run (`round_<k>/`, with the evaluation images kept as files and the prompts of `scores.parquet`), or
    images with one parquet, csv or jsonl table. The table has the columns `file_name` and `prompt` (or `text`), and optionally `image`, the
    image's number within its prompt. Without `image`, the images of a prompt are numbered in the order of the table.

    Raises:
        StudyError: there is no folder, not exactly one table, no image, or a column or a prompt is missing; a listed image is missing or
            cannot be read; or two images of a prompt have the same number.
    """
    folder = _folder(folder)
    scores = folder / "scores.parquet"
    frame = _evaluation(folder, scores) if scores.exists() and (folder / "images").is_dir() else _listed(folder)
    if "image" not in frame:
        frame["image"] = frame.groupby("prompt").cumcount()
    pictures = [Picture(p, int(i), path, path.stem) for p, i, path in zip(frame["prompt"], frame["image"], frame["path"], strict=True)]
    return _checked(folder, pictures)


def load_candidates(folder: str | Path) -> list[Picture]:
    """Return the candidates of a round that waits for selection by hand: `candidates/`, with the ids and prompts of `pool.parquet`.

    Raises:
        StudyError: the round is not waiting; also as in `load_pictures`.
    """
    folder = _folder(folder)
    if not (folder / "pool.parquet").exists() or not (folder / "candidates").is_dir():
        raise StudyError(f"{str(folder)!r} holds no candidates; play the round with strategy='manual' first, it stops to wait for you")
    pool = pd.read_parquet(folder / "pool.parquet", columns=["id", "prompt"])
    number = pool.groupby("prompt").cumcount()
    rows = zip(pool["id"], pool["prompt"], number, strict=True)
    return _checked(folder, [Picture(prompt, int(n), folder / "candidates" / f"{name}.png", name) for name, prompt, n in rows])


def _folder(folder: str | Path) -> Path:
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise StudyError(f"{str(path)!r} is no folder; give a round's folder, or one of images with a table of their prompts")
    return path


def _evaluation(folder: Path, scores: Path) -> pd.DataFrame:
    """Return the evaluation images that were kept: `images/000.png` belongs to the first row of the scores."""
    frame = pd.read_parquet(scores, columns=["prompt", "image"])
    frame["path"] = [folder / "images" / f"{row:03d}.png" for row in range(len(frame))]
    return frame[[path.exists() for path in frame["path"]]].reset_index(drop=True)


def _listed(folder: Path) -> pd.DataFrame:
    tables = sorted(p for p in folder.iterdir() if p.suffix in TABLES)
    if len(tables) != 1:
        found = ", ".join(p.name for p in tables) or "none"
        raise StudyError(f"{str(folder)!r} needs one table of prompts (parquet, csv or jsonl) and has {found}; write metadata.csv")
    table = tables[0]
    if table.suffix == ".parquet":
        frame = pd.read_parquet(table)
    elif table.suffix == ".csv":
        frame = pd.read_csv(table, dtype=str, keep_default_na=False)
    else:
        frame = pd.DataFrame([json.loads(line) for line in table.read_text().splitlines() if line.strip()])
    if "prompt" not in frame and "text" in frame:
        frame = frame.rename(columns={"text": "prompt"})
    missing = [c for c in ("file_name", "prompt") if c not in frame]
    if missing:
        raise StudyError(f"{str(table)!r} has no column {' and no column '.join(missing)}, only {list(frame)}; add it")
    bare = frame[[not (isinstance(p, str) and p.strip()) for p in frame["prompt"]]]
    if len(bare):
        raise StudyError(f"{str(table)!r} has no prompt for {bare['file_name'].iloc[0]} ({len(bare)} in all); add it")
    frame["path"] = [folder / str(name) for name in frame["file_name"]]
    return frame[["prompt", "path"] + (["image"] if "image" in frame else [])]


def _checked(folder: Path, pictures: list[Picture]) -> list[Picture]:
    if not pictures:
        raise StudyError(f"{str(folder)!r} has no images; put some there, or give another folder")
    seen: dict[tuple[str, int], Path] = {}
    for picture in pictures:
        key = picture.prompt, picture.image
        if key in seen:
            both = f"{seen[key].name}, {picture.path.name}"
            raise StudyError(f"{str(folder)!r} has image {picture.image} of {picture.prompt!r} twice ({both}); number them apart")
        seen[key] = picture.path
        try:
            with Image.open(picture.path) as image:
                image.verify()
        except FileNotFoundError as error:
            raise StudyError(f"{str(folder)!r} lists {picture.path.name}, which is not there; add it, or take it off the table") from error
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise StudyError(f"{str(picture.path)!r} cannot be read as an image ({error}); replace it") from error
    return pictures


def digest(pictures: Iterable[Picture]) -> str:
    """Return 16 hexadecimal digits that identify the prompts, image numbers and file contents, wherever the files lie."""
    total = hashlib.sha256()
    for picture in sorted(pictures):
        total.update(f"{example_id(picture.prompt, picture.image)} {hashlib.sha256(picture.path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()[:16]


def png(path: Path, size: int) -> bytes:
    """Return the image as a PNG for a square of `size` CSS pixels. The PNG has no metadata, which might name the model.

    Small images are enlarged by an integer factor without interpolation, so that no browser smooths them. Large images keep two pixels per
    CSS pixel.
    """
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    longest = max(image.size)
    if longest < size:
        factor = ceil(2 * size / longest)
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    else:
        image.thumbnail((2 * size, 2 * size), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    Image.frombytes("RGB", image.size, image.tobytes()).save(stream, "PNG")
    return stream.getvalue()
