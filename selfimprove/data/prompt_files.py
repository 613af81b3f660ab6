"""Read prompts from files, in the forms in which sets of prompts are published, and from data sets on the hub."""

import json
import re
from pathlib import Path

from selfimprove.data.tables import decode, read_table
from selfimprove.errors import DataError, SelfImproveError
from selfimprove.models.resolve import HUB, is_hub_id, no_such

KINDS = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")  # endings of files of prompts
COLUMNS = ("prompt", "prompts", "text", "caption")  # names of the column of prompts, the first choice first


class PromptError(SelfImproveError):
    """The prompts cannot be used; the message says why and what to do."""


def load_prompts(source: str, column: str = "") -> list[str]:
    """Load prompts from a file (txt: one a line; json: a list; csv, tsv, jsonl, parquet: a column), or from a `datasets` id owner/name.

    `source` may end in the name of the column, as in "drawbench.csv#Prompts". Without one, the first column of the names prompt, prompts,
    text and caption is used, in any case. Of a data set, the `train` split is streamed, and no other column is fetched where it is stored
    as parquet.

    Raises:
        PromptError: the source is missing or of an unknown kind, has no such column, a row is no text, or there is no prompt.
    """
    path, hash_ = Path(source).expanduser(), source.rfind("#")
    if hash_ > 0 and not column and not path.exists():
        return load_prompts(source[:hash_], source[hash_ + 1 :])
    if path.suffix.lower() in KINDS and path.is_file():
        try:
            prompts = _read(path, source, column)
        except DataError as error:
            raise PromptError(f"prompts={source!r}: {error}") from error
    elif not path.exists() and is_hub_id(source):
        prompts = hub_column(source.removeprefix(HUB), "train", column)
    else:
        wanted = f"a {', '.join(KINDS)} file, or a datasets id owner/name"
        raise PromptError(f"prompts={source!r} is not understood; give {wanted}" if path.exists() else no_such("prompts", source, wanted))
    if not any(p.strip() for p in prompts):
        raise PromptError(f"prompts={source!r} holds no prompt; give at least one a line")
    return prompts


def _read(path: Path, source: str, column: str) -> list[str]:
    text = decode(path.read_bytes(), path) if path.suffix.lower() in (".txt", ".json") else ""
    if path.suffix.lower() == ".txt":
        return [line for line in re.split(r"\r\n|\r|\n", text) if line.strip()]  # U+2028 and the like stay in their line
    try:
        found = json.loads(text) if text else None
    except ValueError:  # .json is also the name of files with one object a line
        found = None
    if isinstance(found, dict):
        lists = [value for value in found.values() if isinstance(value, list) and value]
        fitting = [value for value in lists if isinstance(value[0], dict) and _fitting(list(value[0]), column)]  # COCO's annotations
        one_row = [name for name in _fitting(list(found), column) if isinstance(found[name], str)]
        found = [found] if one_row or len(fitting or lists) != 1 else (fitting or lists)[0]
    if not isinstance(found, list):
        table = read_table(path)
        name = _column(table.columns, source, column)
        return [_text(row.fields.get(name), f"prompts={source!r}: {row.where}, column {name!r}") for row in table.rows]
    names = dict.fromkeys(name for item in found if isinstance(item, dict) for name in item)
    name = _column(list(names), source, column) if names else ""
    items = [item.get(name) if isinstance(item, dict) else item for item in found]
    return [_text(item, f"prompts={source!r}: row {number}") for number, item in enumerate(items, start=1)]


def _text(value: object, where: str) -> str:
    """Return a prompt, or "" where there is none. NaN is what pandas writes for a missing text; json may hold half a character."""
    if value is None or value != value:
        return ""
    if not isinstance(value, str) or re.search("[\ud800-\udfff]", value):
        raise PromptError(
            f"{where}: {str(value)[:60]!r} is of type {type(value).__name__}, and not one text of whole characters; write one prompt a row"
        )
    return value


def hub_column(source: str, split: str, column: str = "") -> list[str]:
    """Stream the texts of one column of a split of a hub data set (see `load_prompts`). Files stored as parquet send that column alone.

    Raises:
        PromptError: the data set cannot be had, has no such column, or a row of it is no text.
    """
    from datasets import load_dataset  # slow to import, and only needed here

    try:
        data = load_dataset(source, split=split, streaming=True)
        name = _column(data.column_names or list(next(iter(data), {})), source, column)
        try:
            data = load_dataset(source, split=split, streaming=True, columns=[name])
        except (TypeError, ValueError):  # only parquet can leave columns out
            data = data.select_columns([name])
        return [_text(row[name], f"prompts={source!r}, row {number}, column {name!r}") for number, row in enumerate(data, start=1)]
    except PromptError:
        raise
    except Exception as error:  # the hub client raises many unrelated types
        raise PromptError(
            f"prompts={source!r}: no such file here, and no data set could be had ({type(error).__name__}); give a file"
        ) from error


def _column(names: list[str], source: str, column: str) -> str:
    """Return the name of the wanted column; of several, the first choice."""
    if not (found := _fitting(names, column)):
        wanted = column or " or ".join(COLUMNS)
        raise PromptError(f"prompts={source!r} has no column {wanted}; it has {names}: name one, as in prompts='{source}#name'")
    return found[0]


def _fitting(names: list[str], column: str) -> list[str]:
    """Return the names that may be meant, the first choice first: as it is written, else in any case."""
    wanted = [column] if column else COLUMNS
    return [name for want in wanted for name in (*(n for n in names if n == want), *(n for n in names if n.lower() == want.lower()))]
