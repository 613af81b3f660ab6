"""Read tables that name images and captions: csv, tsv, jsonl and parquet, as people have them. What cannot be read is refused by row."""

import ast
import csv
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from selfimprove.data.opening import kind_of
from selfimprove.errors import DataError

SHARDS = (".parquet", ".arrow")
NAMES = ("metadata.jsonl", "metadata.csv", "metadata.tsv", "metadata.parquet")  # the first that is there counts
FILE_COLUMNS = ("file_name", "image", "filename", "file", "image_path", "path", "image_file", "img")
CAPTION_COLUMNS = ("text", "caption", "prompt", "captions", "texts", "prompts", "txt", "description", "sentence", "sentences")
EXAMPLE = '{"file_name": "cat.png", "text": "a cat"}'
FORMS = (
    f"a metadata.jsonl with one row an image, such as {EXAMPLE} (or metadata.csv, .tsv, .parquet), a .txt or .caption file beside each "
    "image, parquet shards with encoded images and captions, a data set that was saved to disk, or tar archives"
)
LONGEST = 131_072  # letters of a field, the limit of Python's csv
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


class Row(NamedTuple):
    """A row of a table. `where` names the file, the row (from 1, without the header) and, in a text file, the line."""

    where: str
    fields: dict[str, Any]


class Table(NamedTuple):
    """A table in a file. The values of csv and tsv are text; those of jsonl and parquet are of any kind."""

    path: Path
    columns: list[str]
    rows: list[Row]


def decode(encoded: bytes, where: str | Path) -> str:
    """Return the text of a file in UTF-8 or UTF-16, without its byte order mark.

    Raises:
        DataError: the text is in another encoding, or is a pointer of git-lfs. The message names the file and the line.
    """
    if what := kind_of(encoded[:512]) if encoded else "":
        raise DataError(f"{where} is {what}")
    encoding = next((name for mark, name in _MARKS if encoded.startswith(mark)), "utf-8")
    if encoding == "utf-8" and (zeros := encoded.count(b"\0")) > len(encoded) // 4:  # UTF-16 without a mark
        encoding = "utf-16-le" if encoded[1::2].count(b"\0") > zeros // 2 else "utf-16-be"
    try:
        return encoded.decode(encoding)
    except UnicodeDecodeError as error:
        line = encoded[: error.start].count(b"\n") + 1
        raise DataError(f"{where} is not in UTF-8 (line {line}: {error.reason} at byte {error.start}); save it as UTF-8") from error


def read_table(path: Path) -> Table:
    """Read a csv, tsv, jsonl or parquet file; of parquet all columns but images.

    The separator of a csv file may be a comma, a semicolon, a tab or a bar, by its header. Blank lines do not count.

    Raises:
        DataError: the file is cut off or of another kind, has no header or no row, or a row has surplus or missing fields, an unclosed
            quote, or a field of more than 131,072 letters. The message names file and row.
    """
    kind = path.suffix.lower()
    if kind == ".parquet":
        file = open_shard(path)
        columns = [field.name for field in file.schema_arrow if not is_image(field.type)]
        rows = [Row(f"{path.name} row {n}", row) for n, (*_, row) in enumerate(numbered_rows(file, path, columns), start=1)]
    elif kind in (".csv", ".tsv"):
        columns, rows = _separated(path, decode(path.read_bytes(), path))
    else:
        rows = list(_json_lines(path, decode(path.read_bytes(), path)))
        columns = list(dict.fromkeys(name for row in rows for name in row.fields))
    if not rows:
        raise DataError(f"{path.name} has no rows; write one row an image")
    return Table(path, columns, rows)


def _json_lines(path: Path, text: str) -> Iterator[Row]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key stands twice in one object")
        return dict(pairs)

    number = 0
    for line, content in enumerate(text.split("\n"), start=1):  # unlike splitlines, keeps other line breaks inside a caption
        if content.strip():
            number += 1
            where = f"{path.name} row {number}" + (f" (line {line})" if line != number else "")
            try:
                row = json.loads(content, object_pairs_hook=unique)
            except ValueError as error:
                raise DataError(f"{where} holds a line that is no JSON ({error}); write one object a line") from error
            if not isinstance(row, dict):
                raise DataError(f"{where} is {_kind(row)}, not an object; write one object a line, such as " + EXAMPLE)
            yield Row(where, row)


def _separated(path: Path, text: str) -> tuple[list[str], list[Row]]:
    """Return the columns and rows of a csv or tsv file."""
    lines = re.sub("\r\n?", "\n", text).lstrip("\n")  # a lone \r ended lines on old Macs
    if lines[:4].lower() == "sep=":  # Excel's way to name the separator
        lines = lines.partition("\n")[2]
    first, known = lines.partition("\n")[0], {*FILE_COLUMNS, *CAPTION_COLUMNS}

    def fields(separator: str) -> list[str]:
        return [name.strip() for name in next(csv.reader([first], delimiter=separator, skipinitialspace=True), [])]

    order = "\t,;|" if path.suffix.lower() == ".tsv" else ",;\t|"
    separator = max(order, key=lambda s: (sum(name.lower() in known for name in fields(s)), len(fields(s))))
    header = fields(separator)
    if named := [name for name in header if name and (path.parent / name).is_file()]:
        raise DataError(f"{path.name} has no header: its first line names the file {named[0]!r}; write file_name{separator}text above it")
    if twice := [name for name in header if name and header.count(name) > 1]:
        raise DataError(f"{path.name} has two columns {twice[0]!r}; rename one")
    if separator == "\t":
        lines = re.sub(r'(?<![^\t\r\n])"[^\t\r\n]*', _escaped, lines)
    rows: list[Row] = []
    reader, start, where = csv.reader(io.StringIO(lines, newline=""), delimiter=separator, skipinitialspace=True, strict=True), 1, ""
    quoting = "put a field that holds a separator, a quote or a line break in double quotes, and write a quote inside it twice"
    try:
        for found in reader:
            line, start = start, reader.line_num + 1
            if line == 1 or not any(field.strip() for field in found):
                continue
            where = f"{path.name} row {len(rows) + 1} (line {line})"
            if len(found) != len(header):
                raise DataError(f"{where} has {len(found)} fields, and the header {len(header)} ({', '.join(header)}); {quoting}")
            for field in found:
                taken = [part.split(separator)[0].strip('" ') for part in field.split("\n")[1:]]
                if inside := [name for name in taken if name and (path.parent / name).is_file()]:
                    raise DataError(f"{where} takes in the row of {inside[0]!r}: a double quote is opened and not closed; {quoting}")
            rows.append(Row(where, {name: field for name, field in zip(header, found, strict=True) if name}))
    except csv.Error as error:
        said = "a double quote is opened and never closed" if "unexpected end" in str(error) else str(error)
        raise DataError(f"{path.name} row {len(rows) + 1} (line {start}): {said}; {quoting}") from error
    return [name for name in header if name], rows


def _escaped(field: re.Match[str]) -> str:
    """Return a field of a tsv file as csv has it: published ones begin fields with a quote that is part of the text."""
    if field[0].count('"') % 2 or re.fullmatch(r'"(?:[^"]|"")*"', field[0]):
        return field[0]
    return '"' + field[0].replace('"', '""') + '"'


class ArrowFile:
    """Hold a file of `datasets`' save_to_disk, in Arrow's stream format, like a parquet file of one row group; its rows stay on disk."""

    num_row_groups = 1

    def __init__(self, path: Path) -> None:
        self.table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
        self.schema_arrow = self.table.schema


def open_shard(path: Path) -> pq.ParquetFile | ArrowFile:
    """Open a parquet or an arrow file.

    Raises:
        DataError: the file is empty, cut off or of another kind.
    """
    try:
        return ArrowFile(path) if path.suffix == ".arrow" else pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        with path.open("rb") as stream:
            what = kind_of(stream.read(512)) or f"cut off or no {path.suffix[1:]} file ({error})"
        raise DataError(f"{path} is {what}; replace or remove it") from error


def read_group(file: pq.ParquetFile | ArrowFile, path: Path, group: int, columns: list[str]) -> pa.Table:
    """Read some columns of a row group.

    Raises:
        DataError: the row group is damaged. The message names the file and the rows.
    """
    if isinstance(file, ArrowFile):
        return file.table.select(columns)
    try:
        return file.read_row_group(group, columns=columns)
    except (pa.ArrowException, OSError) as error:
        first = sum(file.metadata.row_group(g).num_rows for g in range(group))
        rows = f"rows {first + 1} to {first + file.metadata.row_group(group).num_rows}"
        raise DataError(f"{path}, {rows}: the file is damaged there ({error}); replace or remove it") from error


def numbered_rows(file: pq.ParquetFile | ArrowFile, path: Path, columns: list[str]) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield some columns of each row, with the number of its row group and its place in that, from 0."""
    for group in range(file.num_row_groups):
        yield from ((group, place, row) for place, row in enumerate(read_group(file, path, group, columns).to_pylist()))


def is_image(kind: pa.DataType) -> bool:
    """Return whether a parquet column can hold encoded images: bytes, or a structure of bytes and, as `datasets` has it, path."""
    if pa.types.is_struct(kind):
        return "bytes" in {field.name for field in kind}
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def holds_images(shards: Sequence[Path]) -> bool:
    """Return whether a parquet file among these has a column that can hold images."""
    return any(is_image(field.type) for shard in shards for field in open_shard(shard).schema_arrow)


def choose_column(columns: Sequence[str], wanted: str, known: Sequence[str], setting: str, where: str) -> str:
    """Return the column to read: `wanted` or, if that is empty, the one of a `known` name; `file_name` goes before all others.

    Raises:
        DataError: there is no such column, or there are several. The message names the columns there are, and the `setting` to choose by.
    """
    found = [c for c in columns if (c == wanted if wanted else c.strip().lower() in known)]
    if "file_name" in found or len(found) == 1:
        return "file_name" if "file_name" in found else found[0]
    named = f"no column {wanted!r}" if wanted else f"no column {', '.join(known[:3])} or the like"
    if found:
        named = f"several columns that may be meant ({', '.join(found)})"
    raise DataError(f"{where} has {named}; its columns are {list(columns)}: rename one, or name it by set {setting}=...")


def choose_columns(columns: Sequence[str], images: Sequence[str], where: str, image_column: str, caption_column: str) -> tuple[str, str]:
    """Return the columns of encoded images, one of `images`, and of captions, one of the others; see `choose_column`."""
    known = tuple(name.lower() for name in images) if len(images) == 1 else (*FILE_COLUMNS, "jpg", "png", "webp")
    others = [name for name in columns if name not in images]
    image = choose_column(images, image_column, known, "image_column", where)
    return image, choose_column(others, caption_column, CAPTION_COLUMNS, "caption_column", where)


def captions_of(value: Any, where: str, free: bool = False) -> tuple[str, ...]:
    """Return the different captions in a field: one text, or a list of texts.

    Raises:
        DataError: a caption is empty, longer than 131,072 letters, or a number, a list or another value in place of text. Unless `free`, a
            text that is a number or a list is taken for one too: a column of a table may have shifted.
    """
    texts = value if isinstance(value, (list, tuple)) else [value]
    if not texts:
        raise DataError(f"{where} has an empty list of captions; write one or remove the row")
    for text in texts:
        if text is None or (isinstance(text, float) and math.isnan(text)):
            raise DataError(f"{where} has no caption ({text}); write one or remove the row")
        if not isinstance(text, str):
            raise DataError(f"{where} has {_kind(text)}, {str(text)[:50]!r}, in place of a caption; write text")
        if not text.strip():
            raise DataError(f"{where} has an empty caption; write one or remove the row")
        if not text.isprintable() and text.encode(errors="ignore").decode() != text:
            raise DataError(f"{where} has half of a character in its caption; mend it")
        if len(text) > LONGEST:
            raise DataError(f"{where} has a caption of {len(text)} letters; {LONGEST} are read at most: shorten it")
        if not free and (what := _written(text.strip())):
            raise DataError(f"{where} has {what}, {text[:50]!r}, in place of a caption; write it in words, or mend a shifted column")
    return tuple(dict.fromkeys(text.strip() for text in texts))


def _written(text: str) -> str:
    """Return what a text is that is no caption: a number, or a list or an object that was written as text; else an empty text."""
    try:
        float(text)
    except ValueError:
        pass
    else:
        return "a number"
    if text[0] + text[-1] not in ("[]", "{}"):
        return ""
    try:
        return _kind(ast.literal_eval(text)) + " written as text"
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return ""


def _kind(value: Any) -> str:
    kinds = {bool: "True or False", int: "a number", float: "a number", list: "a list", dict: "an object", str: "a text", bytes: "bytes"}
    return kinds.get(type(value), type(value).__name__)
