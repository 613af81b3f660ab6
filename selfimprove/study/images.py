"""Load the pictures of a study from folders: a round's, or any folder of images with a table of their prompts."""

import hashlib
import io
from collections.abc import Iterable
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from PIL import Image

from selfimprove.data.folders import Files, table_rows
from selfimprove.data.items import Item, looks, stamp_of
from selfimprove.data.opening import ImageError, open_image
from selfimprove.data.tables import NAMES, read_table
from selfimprove.draws import example_id
from selfimprove.errors import DataError
from selfimprove.study.store import StudyError

TABLES = (".parquet", ".csv", ".tsv", ".jsonl")


class Picture(NamedTuple):
    """An image file. `image` is its number among its prompt's images, from 0. `name` identifies it in a list of kept images."""

    prompt: str
    image: int
    path: Path
    name: str


def load_pictures(folder: str | Path) -> list[Picture]:
    """Return the pictures of a folder, in the order of its table.

    The folder is either a round of a run (`round_<k>/`, with the evaluation images kept as files and the prompts of `scores.parquet`), or
    images with one parquet, csv or jsonl table (see `data.tables`). The table has the columns `file_name` and `prompt`, or others of usual
    names, and optionally, beside `file_name`, `image`: the image's number within its prompt. Without numbers, the images of a prompt are
    numbered in the order of the table.

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
    tables = [folder / name for name in NAMES if (folder / name).is_file()][:1]
    tables = tables or sorted(p for p in folder.iterdir() if p.suffix in TABLES and not p.name.startswith("."))
    if len(tables) != 1:
        found = ", ".join(p.name for p in tables) or "none"
        raise StudyError(f"{str(folder)!r} needs one table of prompts (parquet, csv or jsonl) and has {found}; write metadata.csv")
    try:
        table = read_table(tables[0])
        numbered = "file_name" in table.columns and "image" in table.columns
        files, rows = Files(folder), []
        for where, name, prompts in table_rows(table, "", ""):
            if len(prompts) > 1:
                raise StudyError(f"{where} has several prompts; give one, from which the image was made")
            rows.append({"prompt": prompts[0], "path": files.find(name, where) or folder / name})
        frame = pd.DataFrame(rows)
        if numbered:
            frame["image"] = [_number(row.fields.get("image"), row.where) for row in table.rows]
    except DataError as error:
        raise StudyError(f"{str(folder)!r}: {error}") from error
    return frame


def _number(value: Any, where: str) -> int:
    text = str(value).strip().removesuffix(".0")
    if not text.isdecimal():
        raise StudyError(f"{where} has image={value!r:.50}, which is no number; number the images of a prompt from 0, or leave image out")
    return int(text)


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
        if not picture.path.is_file():
            raise StudyError(f"{str(folder)!r} lists {picture.path.name}, which is not there; add it, or take it off the table")
    items = [Item(str(p.path), (p.prompt,), p.path.read_bytes, stamp_of(p.path)) for p in pictures]
    for item, shown in zip(items, looks(str(folder), items), strict=True):
        if shown.problem:
            raise StudyError(f"{item.name!r} cannot be read as an image ({shown.problem}); replace it")
    return pictures


def digest(pictures: Iterable[Picture]) -> str:
    """Return 16 hexadecimal digits that identify the prompts, image numbers and file contents, wherever the files lie."""
    total = hashlib.sha256()
    for picture in sorted(pictures):
        total.update(f"{example_id(picture.prompt, picture.image)} {hashlib.sha256(picture.path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()[:16]


def png(path: Path, size: int) -> bytes:
    """Return the image as a PNG for a square of `size` CSS pixels. The PNG has no metadata, which might name the model.

    The image is opened as training opens it (see `data.opening`). Small images are enlarged by an integer factor without interpolation, so
    that no browser smooths them. Large images keep two pixels per CSS pixel.

    Raises:
        StudyError: the image cannot be read.
    """
    try:
        image = open_image(path.read_bytes())
    except (ImageError, OSError) as error:
        raise StudyError(f"{str(path)!r} cannot be read as an image ({error}); replace it") from error
    longest = max(image.size)
    if longest < size:
        factor = ceil(2 * size / longest)
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    else:
        image.thumbnail((2 * size, 2 * size), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    Image.frombytes("RGB", image.size, image.tobytes()).save(stream, "PNG")
    return stream.getvalue()
