"""Captioned images as people have them: what is read, what is refused by row, what is skipped and counted, and what is kept out."""

import dataclasses
import io
import json
import os
import shutil
import struct
import tarfile
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageCms, ImageOps
from test_pairs import row as pair
from test_rounds import PRESET

from selfimprove.batches import batch_rows
from selfimprove.data import items
from selfimprove.data.images import ImageText, load_data
from selfimprove.data.opening import Look, look, open_image
from selfimprove.data.splits import NEAR, same_images
from selfimprove.draws import image_of
from selfimprove.errors import DataError
from selfimprove.planning.plan import plan
from selfimprove.rounds import play
from selfimprove.run import set_up
from selfimprove.study.images import load_pictures, png
from selfimprove.study.store import StudyError

COUNT, SIZE = 20, (16, 16)


def picture(i: int, size: tuple[int, int] = (24, 20)) -> Image.Image:
    """A picture of its own for every number."""
    coarse = np.random.default_rng(i).integers(0, 255, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(i: int, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    picture(i).save(stream, kind, **options)
    return stream.getvalue()


def caption(i: int) -> str:
    return f"picture {i}, of red; and blue"


ROWS = [{"file_name": f"{i:03d}.png", "text": caption(i)} for i in range(COUNT)]


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def pictures(folder: Path, below: str = "") -> Path:
    return write(folder, {f"{below}{i:03d}.png": encoded(i) for i in range(COUNT)})


def jsonl(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def csv(rows: list[dict], separator: str = ",") -> str:
    return pd.DataFrame(rows).to_csv(index=False, sep=separator)


def load(data: Path, samples: int = 100, **options: str) -> ImageText:
    return load_data(str(data), samples, 4, 8, SIZE, 0, **options)


def renamed(first: str, second: str) -> list[dict]:
    return [{first: row["file_name"], second: row["text"]} for row in ROWS]


def structures() -> pa.Table:
    rows = [{"picture": {"bytes": encoded(i), "path": None}, "caption": caption(i)} for i in range(COUNT)]
    return pa.Table.from_pylist(rows)


def shard_with(folder: Path, column: object) -> Path:
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"image": column, "text": [caption(i) for i in range(COUNT)]}), folder / "a.parquet")
    return folder


def shard_of(folder: Path, name: str) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(structures(), folder / name, row_group_size=7)
    return folder


def archive(folder: Path, members: Callable[[int], dict[str, bytes]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for i in range(COUNT):
            for name, content in members(i).items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return folder


def beside(folder: Path, ending: str, below: str = "") -> Path:
    return write(pictures(folder, below), {f"{below}{i:03d}{ending}": caption(i) + "\n" for i in range(COUNT)})


def linked(folder: Path) -> Path:
    write(folder, {"metadata.jsonl": jsonl(ROWS)})
    for path in pictures(folder.parent / "elsewhere").iterdir():
        (folder / path.name).symlink_to(path)
    return folder


def absolute(folder: Path) -> Path:
    return write(pictures(folder), {"metadata.jsonl": jsonl([r | {"file_name": str(folder / r["file_name"])} for r in ROWS])})


def saved_to_disk(folder: Path, *parts: str) -> Path:
    """As `datasets` writes it; the rows of a part that is not train, and what was computed from the rows, are none of ours."""
    made = datasets.Dataset.from_list([{"picture": {"bytes": encoded(i), "path": None}, "caption": caption(i)} for i in range(COUNT)])
    made = made.cast_column("picture", datasets.Image())
    if parts:
        datasets.DatasetDict({part: made if part == "train" else made.select([0, 1]) for part in parts}).save_to_disk(folder)
    else:
        made.save_to_disk(folder, num_shards=3)
        shutil.copy(folder / "data-00000-of-00003.arrow", folder / "cache-0123.arrow")
    return folder


FORMS: dict[str, Callable[[Path], Path]] = {
    "jsonl": lambda f: write(pictures(f), {"metadata.jsonl": jsonl(ROWS)}),
    "csv": lambda f: write(pictures(f), {"metadata.csv": csv(ROWS)}),
    "csv, semicolons": lambda f: write(pictures(f), {"metadata.csv": csv(ROWS, ";")}),
    "csv, Excel's separator line": lambda f: write(pictures(f), {"metadata.csv": "sep=;\r\n" + csv(ROWS, ";")}),
    "csv, lines of an old Mac": lambda f: write(pictures(f), {"metadata.csv": csv(ROWS).replace("\n", "\r")}),
    "csv, blank lines and empty columns": lambda f: write(
        pictures(f), {"metadata.csv": "\r\n\r\n".join(line + ",," for line in csv(ROWS).splitlines())}
    ),
    "capital endings": lambda f: write(
        f, {f"{i}.PNG": encoded(i) for i in range(COUNT)} | {f"{i}.TXT": caption(i).encode("utf-16") for i in range(COUNT)}
    ),
    "tsv": lambda f: write(pictures(f), {"metadata.tsv": csv(ROWS, "\t")}),
    "csv, mark": lambda f: write(pictures(f), {"metadata.csv": b"\xef\xbb\xbf" + csv(ROWS).encode()}),
    "csv, UTF-16": lambda f: write(pictures(f), {"metadata.csv": csv(ROWS).encode("utf-16")}),
    "csv, UTF-16 without a mark": lambda f: write(pictures(f), {"metadata.csv": csv(ROWS).encode("utf-16-le")}),
    "jsonl, mark": lambda f: write(pictures(f), {"metadata.jsonl": b"\xef\xbb\xbf" + jsonl(ROWS).encode()}),
    "jsonl, UTF-16": lambda f: write(pictures(f), {"metadata.jsonl": jsonl(ROWS).encode("utf-16")}),
    "parquet": lambda f: write(pictures(f), {"metadata.parquet": pd.DataFrame(ROWS).to_parquet()}),
    "image and caption": lambda f: write(pictures(f), {"metadata.csv": csv(renamed("image", "caption"))}),
    "file_name and prompt": lambda f: write(pictures(f), {"metadata.jsonl": jsonl(renamed("file_name", "prompt"))}),
    "table beside a stray parquet": lambda f: write(
        pictures(f), {"metadata.jsonl": jsonl(ROWS), "scores.parquet": pd.DataFrame({"clip": [1.0]}).to_parquet()}
    ),
    "the table itself": lambda f: write(pictures(f), {"captions.csv": csv(ROWS)}) / "captions.csv",
    "txt beside": lambda f: beside(f, ".txt"),
    "caption beside, in a folder": lambda f: beside(f, ".caption", "10_cats/"),
    "train folder, table": lambda f: write(pictures(f, "train/"), {"train/metadata.jsonl": jsonl(ROWS), "test/metadata.jsonl": "{}"}),
    "train folder, txt": lambda f: beside(f, ".txt", "train/"),
    "data/train folder": lambda f: write(
        pictures(f, "data/train/"), {"data/train/metadata.jsonl": jsonl(ROWS), "data/test/metadata.jsonl": "{}"}
    ),
    "tables in folders": lambda f: write(pictures(f, "a/b/"), {"a/b/metadata.csv": csv(ROWS)}),
    "datasets' shards": lambda f: shard_of(f, "data/train-00000-of-00001.parquet"),
    "datasets' shards and a test part": lambda f: write(
        shard_of(f, "data/train-00000-of-00001.parquet"), {"data/test-00000-of-00001.parquet": b"not read"}
    ),
    "a shard": lambda f: shard_of(f, "some.parquet") / "some.parquet",
    "saved to disk": saved_to_disk,
    "saved to disk, in parts": lambda f: saved_to_disk(f, "test", "train"),
    "a part that was saved to disk": lambda f: saved_to_disk(f, "test", "train") / "train",
    "an arrow file": lambda f: saved_to_disk(f, "train") / "train" / "data-00000-of-00001.arrow",
    "shard of structures without path": lambda f: shard_with(f, [{"bytes": encoded(i)} for i in range(COUNT)]),
    "shard of a dictionary": lambda f: shard_with(f, pa.array([encoded(i) for i in range(COUNT)]).dictionary_encode()),
    "shard of views": lambda f: shard_with(f, pa.array([encoded(i) for i in range(COUNT)], pa.binary_view())),
    "tar, txt": lambda f: archive(f, lambda i: {f"{i:05d}.png": encoded(i), f"{i:05d}.txt": caption(i).encode()}),
    "tar, json": lambda f: archive(
        f, lambda i: {f"a/{i:05d}.json": json.dumps({"key": "0", "caption": caption(i)}).encode(), f"a/{i:05d}.png": encoded(i)}
    ),
    "the tar itself": lambda f: archive(f, lambda i: {f"{i}.png": encoded(i), f"{i}.txt": caption(i).encode()}) / "00000.tar",
    "Windows' separators": lambda f: write(
        pictures(f, "sub/"), {"metadata.jsonl": jsonl([r | {"file_name": "sub\\" + r["file_name"]} for r in ROWS])}
    ),
    "links that lead out": linked,
    "absolute paths": absolute,
}


@pytest.mark.parametrize("form", FORMS)
def test_what_people_have_is_read(tmp_path: Path, form: str) -> None:
    data = load(FORMS[form](tmp_path / "mine"))
    assert sorted(data.captions) == sorted(caption(i) for i in range(COUNT)), form
    for row in data.train:
        i = int(data.captions[row].split()[1].rstrip(","))
        expected = np.asarray(open_image(encoded(i), SIZE)) / 255
        assert np.allclose(data.fetch(row).permute(1, 2, 0).numpy(), expected, atol=1e-6)
    assert data.images(data.train).shape == (len(data.train), 3, *SIZE)
    assert len(data.train) + len(data.validation) + 1 == COUNT
    assert not data.skipped


def test_either_unicode_form_of_a_name_is_found(tmp_path: Path) -> None:
    folder = pictures(tmp_path)
    (folder / "000.png").rename(folder / unicodedata.normalize("NFD", "café.png"))
    rows = [ROWS[0] | {"file_name": unicodedata.normalize("NFC", "café.png")}, *ROWS[1:]]
    assert not load(write(folder, {"metadata.jsonl": jsonl(rows)})).skipped


def changed(place: int, **fields: object) -> str:
    return jsonl([*ROWS[:place], ROWS[place] | fields, *ROWS[place + 1 :]])


LINES = csv(ROWS).splitlines()


def csv_with(place: int, line: str) -> str:
    return "\n".join([*LINES[: place + 1], line, *LINES[place + 2 :]]) + "\n"


# ruff: noqa: E501
REFUSED = {
    "comma": ("metadata.csv", csv_with(2, "002.png,a cat 2, on a mat"), r"row 3 \(line 4\) has 3 fields, and the header 2 .*double quotes"),
    "missing field": ("metadata.csv", csv_with(2, "002.png"), r"row 3 \(line 4\) has 1 fields, and the header 2"),
    "quote closed by the next": ("metadata.csv", csv_with(3, '003.png,"5 inch nails'), r"row 4 \(line 5\): ',' expected after"),
    "quote closed by a later one": ("metadata.csv", "file_name;text\n000.png;a\n001.png;\"5 inch\n002.png;b\n003.png;12\"\n",
                                    r"row 2 \(line 3\) takes in the row of '002.png'"),
    "quote never closed, no other": ("metadata.csv", 'file_name,text\n000.png,a\n001.png,"5 inch\n002.png,b\n',
                                     r"row 2 \(line 3\): a double quote is opened and never closed"),
    "shifted column": ("metadata.csv", csv_with(1, '"picture 1, of red","001.png"'), "row 2 .* names 'picture 1, of red', which is not in"),
    "a number from a shifted column": ("metadata.csv", csv_with(1, "001.png,512"), r"row 2 .*001.png\) has a number, '512', in place of a"),
    "no header": ("metadata.csv", "\n".join(LINES[1:]), "has no header: its first line names the file '000.png'"),
    "cp1252": ("metadata.csv", csv_with(0, "000.png,caf\xe9").encode("cp1252"), r"metadata.csv is not in UTF-8 \(line 2: .*save it as UTF-8"),
    "huge": ("metadata.csv", csv_with(4, "004.png," + "a" * 140_000), r"row 5 \(line 6\): field larger than field limit"),
    "huge, jsonl": ("metadata.jsonl", changed(4, text="a" * 140_000), "row 5 .* has a caption of 140000 letters"),
    "a list as text": ("metadata.csv", csv_with(1, "001.png,\"['a cat', 'a kitten']\""), "row 2 .* has a list written as text"),
    "number": ("metadata.jsonl", changed(3, text=7), r"row 4 \(003.png\) has a number, '7', in place of a caption"),
    "object": ("metadata.jsonl", changed(3, text={"en": "a"}), "row 4 .* has an object"),
    "null": ("metadata.jsonl", changed(3, text=None), r"row 4 .* has no caption \(None\)"),
    "NaN": ("metadata.jsonl", changed(3, text=float("nan")), r"row 4 .* has no caption \(nan\)"),
    "half a character": ("metadata.jsonl", '{"file_name": "000.png", "text": "a \\ud83d"}\n', "row 1 .* has half of a character"),
    "empty list": ("metadata.jsonl", changed(3, text=[]), "row 4 .* has an empty list of captions"),
    "list with a number": ("metadata.jsonl", changed(3, text=["a", 1]), "row 4 .* has a number"),
    "no object": ("metadata.jsonl", jsonl(ROWS[:2]) + "[1]\n", "row 3 is a list, not an object"),
    "key twice": ("metadata.jsonl", '{"file_name": "000.png", "text": "a", "text": "b"}\n', "row 1 .*a key stands twice"),
    "no file name": ("metadata.jsonl", changed(3, file_name=None), "row 4 has no file name in 'file_name'"),
    "other columns": ("metadata.csv", csv(renamed("file_name", "said")), r"no column text, caption, prompt .*\['said'\].*set caption_column="),
    "no image column": ("metadata.csv", csv(renamed("id", "text")), r"no column file_name, image, .*\['id', 'text'\].*set image_column="),
    "two captions": ("metadata.jsonl", jsonl([r | {"prompt": "x"} for r in ROWS]), r"several columns that may be meant \(text, prompt\)"),
    "columns of one name": ("metadata.csv", "file_name,text,text\n000.png,a,b\n", "has two columns 'text'"),
    "out of the folder": ("metadata.jsonl", changed(3, file_name="../other/0.png"), "row 4 names '../other/0.png', which lies outside"),
    "absolute and elsewhere": ("metadata.jsonl", changed(3, file_name="/tmp/0.png"), "row 4 names '/tmp/0.png', which lies outside"),
    "pointer": ("metadata.jsonl", "version https://git-lfs.github.com/spec/v1\n", "a pointer of git-lfs, not the file itself: run git lfs pull"),
    "parquet cut off": ("metadata.parquet", pd.DataFrame(ROWS).to_parquet()[:-20], "metadata.parquet is cut off or no parquet file"),
    "parquet empty": ("metadata.parquet", b"", "metadata.parquet is an empty file"),
    "a shard cut off": ("data/train-0.parquet", b"PAR1nothing", "train-0.parquet is cut off or no parquet file"),
    "a table of another name": ("METADATA.XLSX", b"PK", "has no metadata.jsonl or metadata.csv; it has METADATA.XLSX; write one row"),
    "images as text in a shard": ("a.parquet", pd.DataFrame({"image": ["aGVsbG8="], "text": ["a"]}).to_parquet(),
                                  "it has a.parquet; .* parquet shards with encoded images and captions"),
    "a packed archive": ("shards/a.tar.gz", b"", "it has shards/a.tar.gz; unpack that, or write one row an image"),
    "archive cut off": ("a.tar", b"no archive" * 100, "a.tar is cut off or no tar archive"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_rightly_is_refused_by_row(tmp_path: Path, case: str) -> None:
    name, content, message = REFUSED[case]
    with pytest.raises(DataError, match=message):
        load(write(pictures(tmp_path / "mine"), {name: content}))


def test_a_data_set_that_was_saved_to_disk_is_read_or_refused(tmp_path: Path) -> None:
    """Of its parts only train is read; pairs are read from it as from shards."""
    folder = saved_to_disk(tmp_path / "mine", "validation", "train")
    assert "only the part train is read, not validation" in load(folder).notes
    whole = (folder / "train" / "data-00000-of-00001.arrow").read_bytes()
    (folder / "train" / "data-00000-of-00001.arrow").write_bytes(whole[:-200])
    with pytest.raises(DataError, match="data-00000-of-00001.arrow is cut off or no arrow file"):
        load(folder)
    (folder / "train" / "state.json").write_text("{")
    with pytest.raises(DataError, match="mine is damaged, or has no part called train .Expecting property name.*save it again"):
        load(folder)
    with pytest.raises(
        DataError, match="parts is damaged, or has no part called train .*parts/train/state.json.*give the folder of a part"
    ):
        load(saved_to_disk(tmp_path / "parts", "first", "second"))
    datasets.Dataset.from_list([pair(i, i + 100, 1.0, caption=caption(i)) for i in range(COUNT)]).save_to_disk(tmp_path / "pairs")
    pairs = load(tmp_path / "pairs")
    assert pairs.fetch_loser is not None
    assert len(pairs.captions) == COUNT


@pytest.mark.parametrize("name", ["photos.zip", "00000.tar.gz", "train.tgz", "captions.csv.gz", "00000.tar.zst"])
def test_what_is_packed_is_to_be_unpacked(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "mine", {name: b"packed"})
    for given in (folder, folder / name):
        with pytest.raises(DataError, match="unpack"):
            load(given)
    archive(folder, lambda i: {f"{i}.png": encoded(i), f"{i}.txt": caption(i).encode()})
    assert load(folder).skipped == [f"{name}: packed; unpack it to have it read"]


def test_columns_can_be_named(tmp_path: Path) -> None:
    folder = write(pictures(tmp_path), {"metadata.csv": csv([{"id": r["file_name"], "said": r["text"], "text": "x"} for r in ROWS])})
    assert sorted(load(folder, image_column="id", caption_column="said").captions) == sorted(caption(i) for i in range(COUNT))
    with pytest.raises(DataError, match=r"no column 'nothing'; its columns are \['said', 'text'\]"):
        load(folder, image_column="id", caption_column="nothing")


def floats() -> bytes:
    stream = io.BytesIO()
    Image.new("F", (20, 20), 0.5).save(stream, "TIFF")
    return stream.getvalue()


def long_text() -> bytes:
    """A PNG that viewers open, with a text of 70 MB."""
    content = b"zTXt" + b"text\0\0" + zlib.compress(b"a" * 70_000_000)
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    return encoded(3)[:33] + chunk + encoded(3)[33:]


def huge_png() -> bytes:
    stream = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(stream, "PNG")
    return stream.getvalue()


BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "an empty file"),
    "text": (b"no image", "no image of a known format"),
    "cut off": (encoded(3)[:200], "truncated"),
    "JPEG cut off": (encoded(3, "JPEG")[:-90], "truncated"),
    "HTML": (b"<!DOCTYPE html><html></html>", "an HTML page"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run git lfs pull"),
    "HEIC": (b"\0\0\0\x18ftypheic" + b"\0" * 50, "a HEIC image"),
    "SVG": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
    "bomb": (huge_png(), "too many pixels"),
    "floats": (floats(), "has no known range"),
    "long text": (long_text(), "MAX_TEXT_CHUNK"),
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("form", ["jsonl", "txt beside", "tar, txt", "datasets' shards"])
def test_a_broken_image_is_skipped_with_its_reason(tmp_path: Path, form: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content, reason = BROKEN[what]
    whole = encoded
    monkeypatch.setitem(globals(), "encoded", lambda i, *a, **o: content if i == 3 else whole(i, *a, **o))
    data = load(FORMS[form](tmp_path / "mine"))
    assert len(data.captions) == COUNT - 1
    assert len(data.skipped) == 1
    assert reason in data.skipped[0]
    name = "row 4" if "shards" in form else "00003.png" if "tar" in form else "003.png"
    assert data.skipped[0].partition(": ")[0].endswith(name)


def test_every_row_and_every_file_is_used_or_accounted_for(tiny: Path, tmp_path: Path) -> None:
    """The same list stands in the notebook and on the command line (`Run.account`), and, whole, in the run folder."""
    folder = pictures(tmp_path / "mine")
    write(
        folder,
        {"metadata.jsonl": jsonl([*ROWS[:10], ROWS[0], {"file_name": "GONE.png", "text": "a"}, {"file_name": "001.PNG", "text": "b"}])},
    )
    write(folder, {"002.png": b"", "002.txt": "a", "notes.md": "a", "metadata.csv": "file_name,text\n", ".hidden.png": b"a"})
    made = set_up(PRESET, "test", str(tiny), str(folder), tmp_path / "run", 0, "cpu")
    data = made.data
    assert len(data.captions) == 9
    assert [text for text in data.skipped if "not named" in text] == [
        f"{i:03d}.png: in the folder, but not named in metadata.jsonl" for i in range(10, 20)
    ]
    assert "GONE.png: named in metadata.jsonl row 12, but not in the folder" in data.skipped
    assert "001.PNG: named in metadata.jsonl row 13, but not in the folder, which has '001.png'" in data.skipped
    assert "002.png: an empty file" in data.skipped
    assert len(data.skipped) == 13
    assert "rows that repeat an earlier one: 1 (metadata.jsonl row 11)" in data.notes
    assert "files that are no images and are not read: 3 (002.txt, metadata.csv, notes.md)" in data.notes
    numbers = [int(word) for word in data.notes[0].replace(":", "").replace(",", "").split() if word.isdecimal()]
    assert numbers[0] == sum(numbers[2:]) == 9
    lines = made.account()
    assert "images or rows skipped: 13" in lines
    assert "  and 8 more, in data.json of the run folder" in lines
    assert lines[-1] == "captions longer than the tokenizer's limit, truncated: 0"
    written = json.loads((tmp_path / "run" / "data.json").read_text())
    assert written["skipped"] == data.skipped
    assert written["notes"] == data.notes


def test_images_without_a_caption_file_are_skipped(tmp_path: Path) -> None:
    folder = write(beside(tmp_path, ".txt"), {"003.txt": " \n", "LICENSE": "free"})
    (folder / "005.txt").unlink()
    data = load(folder)
    assert data.skipped == ["003.png: its caption file is empty", "005.png: no caption file (005.txt) beside it"]
    assert "files that are no images and are not read: 1 (LICENSE)" in data.notes
    write(folder, {"006.caption": "something else"})
    with pytest.raises(DataError, match=r"006.png has several caption files \(006.txt, 006.caption\) that differ; keep one"):
        load(folder)


def test_links_that_lead_nowhere_and_addresses_are_skipped(tmp_path: Path) -> None:
    folder = write(pictures(tmp_path), {"metadata.jsonl": jsonl([*ROWS[:19], ROWS[19] | {"file_name": "https://somewhere/a.jpg"}])})
    (folder / "019.png").unlink()
    (folder / "019.png").symlink_to("nowhere.png")
    assert sorted(load(folder).skipped) == [
        "019.png: no file, or a link that leads nowhere",
        "https://somewhere/a.jpg: named in metadata.jsonl row 20, but not in the folder",
    ]
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(encoded(50))  # a name that is no Unicode
    assert "caf?.png: in the folder, but not named in metadata.jsonl" in load(folder).skipped
    write(folder, {"metadata.jsonl": jsonl([r | {"file_name": "https://somewhere/" + r["file_name"]} for r in ROWS])})
    with pytest.raises(DataError, match="0 of 41 images can be read .https://somewhere/000.png: named in metadata.jsonl row 1, but not in"):
        load(folder)


def test_small_images_and_large_crops_are_counted(tmp_path: Path) -> None:
    folder = write(pictures(tmp_path), {"metadata.jsonl": jsonl(ROWS)})
    picture(3, (100, 20)).save(folder / "003.png")
    picture(4, (9, 9)).save(folder / "004.png")
    notes = load(folder).notes
    assert "1 images are smaller than 16 x 16 pixels, and enlarged: 004.png (9 x 9)" in notes
    assert "1 images lose more than half to the crop of their centre: 003.png" in notes


# Held-out means held out.


def parts(data: ImageText) -> dict[str, list[int]]:
    """Rows by part; what is in no other part is the test's."""
    known = {*data.train, *data.validation}
    return {"train": data.train, "validation": data.validation, "test": [i for i in range(len(data.captions)) if i not in known]}


def test_an_image_with_several_captions_is_in_one_part(tmp_path: Path) -> None:
    """As COCO and Flickr have them: rows of one file, or lists of captions, which are the same data."""
    several = [[f"{caption(i)}, {k}" for k in range(5)] for i in range(COUNT)]
    rows = [{"file_name": f"{i:03d}.png", "text": text} for k in range(5) for i, text in enumerate(texts[k] for texts in several)]
    data = load(write(pictures(tmp_path / "rows"), {"metadata.jsonl": jsonl(rows)}))
    lists = [{"file_name": f"{i:03d}.png", "text": texts} for i, texts in enumerate(several)]
    assert load(write(pictures(tmp_path / "lists"), {"metadata.jsonl": jsonl(lists)})).fingerprint == data.fingerprint
    assert (data.examples, len(data.train)) == (18, 90)
    trained, kept = ({image_of(data.ids[i]) for i in data.train}, {image_of(data.ids[i]) for i in data.validation})
    assert not trained & kept
    test = {prompt for prompt, _ in data.evaluation}
    assert len(test) == 5
    assert not test & {data.captions[i] for i in data.train}
    assert len(set(data.ids)) == 100


@pytest.mark.parametrize("copy", ["bytes", "metadata", "JPEG", "larger", "mirrored", "mirrored JPEG"])
def test_the_same_image_under_another_name_and_caption_is_in_the_same_part(tmp_path: Path, copy: str) -> None:
    """Every image is there twice, with two captions that differ."""
    folder, rows = tmp_path, list(ROWS)
    for i in range(COUNT):
        picture(i, (240, 200)).save(folder / f"{i:03d}.png")
        name = f"copy{i}.jpg" if "JPEG" in copy else f"copy{i}.png"
        if copy == "bytes":
            shutil.copy(folder / f"{i:03d}.png", folder / name)
        else:
            options = {"quality": 90} if "JPEG" in copy else {"compress_level": 1}
            image = ImageOps.mirror(picture(i, (240, 200))) if "mirrored" in copy else picture(i, (240, 200))
            image.resize((480, 400) if copy == "larger" else (240, 200)).save(folder / name, **options)
        rows.append({"file_name": name, "text": f"quite another text {i}"})
    data = load(write(folder, {"metadata.jsonl": jsonl(rows)}))
    pixels = {part: [data.fetch(i) for i in rows] for part, rows in parts(data).items()}
    for first in ("validation", "test"):
        for other in set(pixels) - {first}:
            others = [way for b in pixels[other] for way in (b, b.flip(2))]
            assert min(float((a - b).abs().mean()) for a in pixels[first] for b in others) > 0.1
    assert len(data.captions) == 40


def test_cut_outs_of_one_photograph_are_different_images() -> None:
    """Nothing is merged falsely: of 64 tiles of real photographs no two are taken for the same, mirrored or not."""
    from sklearn.datasets import load_sample_images

    tiles = [
        photo[y : y + 100, x : x + 150] for photo in load_sample_images().images for x in range(0, 600, 150) for y in range(0, 400, 100)
    ]
    both = [*tiles, *(tile[::-1] for tile in tiles)]  # upside down is another image
    seen = [look(saved(Image.fromarray(np.ascontiguousarray(tile)))) for tile in both]
    assert len(seen) == 64
    assert {(a, b) for a, b in same_images(seen) if a != b} == set()
    mirrored = [look(saved(ImageOps.mirror(Image.fromarray(tile)))) for tile in tiles]
    found = {(min(pair), max(pair)) for pair in same_images([*seen, *mirrored]) if pair[0] != pair[1]}
    assert found <= {(i, 64 + i) for i in range(32)}
    assert len(found) > 24  # the others, such as a piece of grey sky, have too little contrast to be told


def test_near_images_are_those_that_a_comparison_of_all_pairs_finds() -> None:
    """Among images that are equal in some colours, equal but for noise, or mirrored."""
    draws = np.random.default_rng(0)
    thumbs = draws.integers(10, 245, (120, 8, 8, 3))
    thumbs[30:60, ..., 1] = thumbs[:30, ..., 1]  # the same greens, other reds and blues
    thumbs[60:75] = thumbs[:15] + draws.integers(-NEAR, NEAR + 1, (15, 8, 8, 3))
    thumbs[75:90] = thumbs[:15] + draws.choice([-NEAR - 1, NEAR + 1], (15, 8, 8, 3))
    thumbs[90:105] = thumbs[15:30, :, ::-1]
    seen = [Look(str(i), "", str(i), thumb.astype(np.uint8).tobytes()) for i, thumb in enumerate(thumbs)]
    near = [(i, j) for j in range(120) for i in range(j) if min(abs(thumbs[i] - b).max() for b in (thumbs[j], thumbs[j][:, ::-1])) <= NEAR]
    found = {(min(pair), max(pair)) for pair in same_images(seen) if pair[0] != pair[1]}
    assert found == set(near)
    assert found >= {(i, i + 60) for i in range(15)} | {(i + 15, i + 90) for i in range(15)}


def test_captions_that_differ_by_capitals_alone_are_the_same(tmp_path: Path) -> None:
    folder = pictures(tmp_path)
    rows = [{"file_name": f"{i:03d}.png", "text": f"{'A  Cat' if i % 2 else 'a cat'} {i // 2}"} for i in range(COUNT)]
    data = load(write(folder, {"metadata.jsonl": jsonl(rows)}))
    trained = {" ".join(data.captions[i].lower().split()) for i in data.train}
    assert not trained & {" ".join(text.lower().split()) for text, _ in data.evaluation}
    assert len(data.train) == 16


def test_a_few_captions_are_shared_and_that_is_said(tmp_path: Path) -> None:
    rows = [{"file_name": f"{i:03d}.png", "text": "sks dog"} for i in range(COUNT)]
    data = load(write(pictures(tmp_path), {"metadata.jsonl": jsonl(rows)}))
    assert "the parts share captions, of which there are 1, and no images" in data.notes
    copies = write(tmp_path / "copies", {f"{i:03d}.png": encoded(1) for i in range(COUNT)} | {"metadata.jsonl": jsonl(ROWS)})
    with pytest.raises(DataError, match="20 of 20 images can be read, with 1 different ones among them; at least 3 are needed"):
        load(copies)


def test_data_are_known_by_their_contents(tmp_path: Path) -> None:
    first = load(write(pictures(tmp_path / "a"), {"metadata.jsonl": jsonl(ROWS)}))
    other = write(tmp_path / "b", {f"z{9 * i % 20}.png": encoded(i) for i in range(COUNT)})
    other = load(write(other, {f"z{9 * i % 20}.txt": caption(i) for i in range(COUNT)}))
    assert (other.fingerprint, other.captions, other.ids, other.train) == (first.fingerprint, first.captions, first.ids, first.train)
    write(tmp_path / "a", {"004.png": encoded(77)})
    assert load(tmp_path / "a").fingerprint != first.fingerprint


# One way of opening.


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB", (40, 20), "red")
    image.paste("blue", (0, 0, 20, 20))
    stream = io.BytesIO()
    image.save(stream, "PNG", exif=exif)
    return stream.getvalue()


def other_profile() -> bytes:
    """sRGB's profile with red and green exchanged, under another name."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace(b"rXYZ", b"?XYZ").replace(b"gXYZ", b"rXYZ").replace(b"?XYZ", b"gXYZ")
    return profile.replace("sRGB".encode("utf-16-be"), "xRGB".encode("utf-16-be"))


def saved(image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


OPENED = {
    "turned by EXIF": (turned(), (0, 0, 255), (20, 40)),  # the blue half is on the left, and turned to the top
    "profile": (saved(Image.new("RGB", (20, 20), (255, 0, 0)), icc_profile=other_profile()), (0, 255, 0), (20, 20)),
    "broken profile": (saved(Image.new("RGB", (20, 20), (255, 0, 0)), icc_profile=b"none"), (255, 0, 0), (20, 20)),
    "clear": (saved(Image.new("RGBA", (20, 20), (0, 0, 0, 0))), (255, 255, 255), (20, 20)),
    "16 bits": (saved(Image.new("I;16", (20, 20), 0x4F00)), (79, 79, 79), (20, 20)),
}


@pytest.mark.parametrize("what", OPENED)
def test_folders_shards_and_studies_open_alike(tmp_path: Path, what: str) -> None:
    content, colour, size = OPENED[what]
    image = open_image(content)
    assert image.size == size
    assert np.abs(np.subtract(image.getpixel((5, 2)), colour)).max() <= 2
    study = write(tmp_path / "study", {"a.png": content, "metadata.csv": "file_name,prompt\na.png,a\n"})
    assert len(load_pictures(study)) == 1
    with Image.open(io.BytesIO(png(study / "a.png", 10))) as shown:
        assert np.abs(np.subtract(shown.getpixel((5, 2)), colour)).max() <= 2
    folder = write(pictures(tmp_path / "folder"), {"003.png": content, "metadata.jsonl": jsonl(ROWS)})
    rows = [pair(i, i + 50, 1.0, caption=caption(i), jpg_0={"bytes": content if i == 3 else encoded(i), "path": ""}) for i in range(COUNT)]
    (tmp_path / "pairs").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs" / "a.parquet")
    opened = []
    for data in (load(folder), load(tmp_path / "pairs")):
        opened.append(data.fetch(data.captions.index(caption(3))))
    assert torch.equal(*opened)
    assert np.abs(opened[0][:, 2, 8].numpy() * 255 - colour).max() <= 2


def test_a_jpeg_is_decoded_no_larger_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    picture(1, (1600, 1200)).save(stream, "JPEG", quality=95)
    sizes = []
    monkeypatch.setattr("selfimprove.data.opening._on_white", lambda image, profile: sizes.append(image.size) or image.convert("RGB"))
    small = open_image(stream.getvalue(), SIZE)
    open_image(stream.getvalue())
    assert sizes == [(200, 150), (1600, 1200)]
    whole = ImageOps.fit(Image.open(stream), SIZE, Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(small, float) - np.asarray(whole, float)).mean() < 2


def test_pairs_are_read_as_datasets_writes_them_and_refused_by_row(tmp_path: Path) -> None:
    rows = [pair(i, i + 100, 1.0, caption=[caption(i), f"other {i}"]) for i in range(COUNT)]
    folder = tmp_path / "data"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "train-0.parquet")
    data = load(tmp_path)  # a clone of a data set's repository
    assert (len(data.captions), data.examples) == (40, 18)
    for label in ("1", None):
        pq.write_table(pa.Table.from_pylist([pair(1, 2, 1.0, label_0=label)]), folder / "train-0.parquet")
        with pytest.raises(DataError, match="train-0.parquet, row 1: the labels"):
            load(tmp_path)
    pq.write_table(pa.Table.from_pylist([pair(1, 2, 1.0, caption=7)]), folder / "train-0.parquet")
    with pytest.raises(DataError, match="train-0.parquet, row 1 has a number, '7', in place of a caption"):
        load(tmp_path)
    whole = (folder / "train-0.parquet").read_bytes()
    (folder / "train-0.parquet").write_bytes(whole[:-30])
    with pytest.raises(DataError, match="train-0.parquet is cut off or no parquet file"):
        load(tmp_path)


STUDIES = {
    "bomb": ({"a.png": huge_png(), "metadata.csv": "file_name,prompt\na.png,a\n"}, "a.png' cannot be read as an image .too many pixels"),
    "no JSON": (
        {"a.png": encoded(1), "metadata.jsonl": '{"file_name": "a.png", "prompt": "a"}\n{oh\n'},
        "row 2 holds a line that is no JSON",
    ),
    "number": (
        {"a.png": encoded(1), "metadata.csv": "file_name,prompt,image\na.png,a,first\n"},
        "row 1 .* has image='first', which is no number",
    ),
    "outside": ({"metadata.csv": "file_name,prompt\n../a.png,a\n"}, "lies outside"),
    "several": ({"a.png": encoded(1), "metadata.jsonl": '{"file_name": "a.png", "prompt": ["a", "b"]}\n'}, "row 1 has several prompts"),
}


@pytest.mark.parametrize("what", STUDIES)
def test_a_study_refuses_by_row(tmp_path: Path, what: str) -> None:
    files, message = STUDIES[what]
    with pytest.raises(StudyError, match=message):
        load_pictures(write(tmp_path, files))  # type: ignore[arg-type]


def test_a_study_reads_what_training_reads(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": encoded(1), "metadata.jsonl": '\ufeff{"image": "a.png", "caption": "one\u2028two"}\n'})
    assert [(p.prompt, p.image, p.name) for p in load_pictures(tmp_path)] == [("one\u2028two", 0, "a")]


# What was found is kept, and found anew when a file changes.


def test_images_are_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(pictures(tmp_path / "mine"), {"metadata.jsonl": jsonl(ROWS), "003.png": b"broken"})
    looked, look = [], items._look
    monkeypatch.setattr(items, "_look", lambda item: looked.append(item.name) or look(item))
    assert len(load(folder).skipped) == 1
    assert len(looked) == COUNT
    load(folder)
    assert len(looked) == COUNT
    write(folder, {"003.png": encoded(3)})
    assert not load(folder).skipped
    assert looked[COUNT:] == ["003.png"]
    monkeypatch.setattr(items, "CHECKED", folder / "003.png" / "nowhere")  # cannot be written
    assert not load(folder).skipped
    assert len(looked) == 2 * COUNT + 1


@pytest.mark.parametrize("form", ["jsonl", "tar, txt", "datasets' shards"])
def test_a_file_that_changes_under_a_run_is_noticed(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = FORMS[form](tmp_path / "mine")
    data = load(folder)
    row = data.captions.index(caption(3))
    data.fetch(row)
    whole = encoded
    monkeypatch.setitem(globals(), "encoded", lambda i: whole(i + 100))
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()
    FORMS[form](folder)
    with pytest.raises(DataError, match="has changed since the data were loaded; start again"):
        data.fetch(row)
    again = load(folder)
    assert np.allclose(
        again.fetch(again.captions.index(caption(3))).permute(1, 2, 0) * 255, np.asarray(open_image(encoded(3), SIZE)), atol=1e-3
    )
    shutil.rmtree(folder)
    with pytest.raises(DataError, match="cannot be read any more"):
        again.fetch(row)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_skipped(tmp_path: Path) -> None:
    folder = write(pictures(tmp_path), {"metadata.jsonl": jsonl(ROWS)})
    (folder / "003.png").chmod(0)
    assert load(folder).skipped == ["003.png: the file cannot be read (Permission denied)"]


# Several captions of an image: one per epoch.


def test_an_epoch_takes_each_image_once_with_a_caption_of_its_own_draw() -> None:
    ids = tuple(f"image{i}#{k}" for i in range(6) for k in range(5)) + ("alone",)
    rows = batch_rows(ids, 0, 1, 0, 70)
    for epoch in range(10):
        drawn = [ids[row] for row, e in rows if e == epoch]
        assert len(drawn) == len({image_of(name) for name in drawn}) == 7
    assert len({row for row, _ in rows}) > 20
    assert batch_rows(ids, 0, 1, 14, 9) == rows[14:23]
    reached = sorted({row for row, _ in rows})  # among the captions that a round reaches the draws are the same
    fewer = batch_rows(tuple(ids[row] for row in reached), 0, 1, 0, 70)
    assert [(reached[row], epoch) for row, epoch in fewer] == rows


def test_rounds_on_images_with_several_captions(tiny: Path, tmp_path: Path) -> None:
    rows = [{"file_name": f"{i:03d}.png", "text": [f"{caption(i)} {k}" for k in range(3)]} for i in range(COUNT)]
    folder = write(pictures(tmp_path / "mine"), {"metadata.jsonl": jsonl(rows)})
    preset = PRESET.changed(samples=6, steps=3, batch=4)
    made = set_up(preset, "test", str(tiny), str(folder), tmp_path / "run", 0, "cpu")
    assert (made.data.examples, len(made.data.train)) == (6, 18)
    said = next(line for line in plan(made, 1).lines if line.startswith("round 1:"))
    info = play(made, 1)[1]
    drawn = len(pd.read_parquet(tmp_path / "run" / "round_1" / "prompts.parquet"))
    assert said.startswith(f"round 1: {drawn} rollouts")
    assert 6 < drawn <= 12
    assert json.loads((tmp_path / "run" / "real" / "store.json").read_text())["rows"] == 6
    assert info.log is not None
    whole = dataclasses.replace(set_up(preset, "test", str(tiny), str(folder), tmp_path / "whole", 0, "cpu"), opponent_cache=tmp_path / "c")
    same = play(whole, 1)[1].log  # draws all eighteen, and trains on the same
    assert same is not None
    assert np.allclose(info.log["loss"], same["loss"], atol=1e-3)
