"""python -m experiments.blind_reading sheets|count: ask fresh readers which of two pictures is better, without saying whose they are.

`sheets` takes the pictures of `experiments.lead_picture`. For each pair of rows it writes a sheet of two lines, in which every column is
shuffled by itself, with its caption, and apart from the sheets the key. Give readers the sheets alone. A reader answers with a line for
each sheet: its number and a letter for each column, A for the upper picture, B for the lower one, = for neither ("1 ABBA=ABABBAA").
`count` reads such files and the key, and says in how many columns each row was called better.
"""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import binomtest

from selfimprove.draws import uniform
from selfimprove.errors import SelfImproveError
from selfimprove.files import write_json

PAIRS = (  # of rows of `lead_picture.ROWS`; the first is expected to be called better
    ("SPIN, round 3", "base"), ("SFT, equal compute", "base"), ("DPO, equal compute", "base"), ("RSIDiff, round 3", "base"),
    ("SPIN, round 3", "SFT, equal compute"), ("SPIN, round 3", "RSIDiff, round 8"),
)  # fmt: skip


class ReadingError(SelfImproveError):
    """An answer cannot be read; the message says which and why."""


def key_of(rows: Sequence[str], columns: int, seed: int) -> dict[str, Any]:
    """Return for each sheet its two rows and, for each column, whether the first of them is the upper picture (A)."""
    pairs = [pair for pair in PAIRS if set(pair) <= set(rows)]
    order = sorted(range(len(pairs)), key=lambda i: float(uniform(seed, "reading/sheet", (), [str(i)])))
    sheets: dict[str, Any] = {}
    for number, i in enumerate(order, start=1):
        upper = uniform(seed, "reading/upper", (i,), [str(column) for column in range(columns)]) < 0.5
        sheets[str(number)] = {"first": pairs[i][0], "second": pairs[i][1], "first_is_a": upper.tolist()}
    return sheets


def sheet(pictures: Path, numbers: Mapping[str, int], key: Mapping[str, Any], prompts: Sequence[str], number: str) -> Figure:
    """Return a sheet: two lines of pictures, A and B, with the captions below."""
    figure, axes = plt.subplots(2, len(prompts), figsize=(1.5 * len(prompts), 4.4), squeeze=False, layout="constrained")
    for column, (prompt, first) in enumerate(zip(prompts, key["first_is_a"], strict=True)):
        for line, row in enumerate((key["first"], key["second"]) if first else (key["second"], key["first"])):
            axes[line, column].imshow(plt.imread(pictures / str(numbers[row]) / f"{column:02d}.png"), interpolation="lanczos")
            axes[line, column].set(xticks=[], yticks=[])
        axes[0, column].set_title(str(column + 1), fontsize=9)
        axes[1, column].set_xlabel(re.sub(r"(.{12,}?) ", r"\1\n", prompt), fontsize=7)
    for line, letter in enumerate("AB"):
        axes[line, 0].set_ylabel(letter, rotation=0, fontsize=14, labelpad=12, va="center")
    figure.suptitle(f"Sheet {number}: which picture shows its caption better, A or B?")
    return figure


def write_sheets(pictures: Path, out: Path, key_file: Path, seed: int) -> list[Path]:
    """Write `sheet-<number>.png` into a folder, and the key elsewhere.

    Raises:
        ReadingError: the key would lie beside the sheets.
    """
    if key_file.resolve().parent == out.resolve():
        raise ReadingError(f"key={str(key_file)!r} lies beside the sheets, where readers would see it; give another folder")
    drawn = json.loads((pictures / "rows.json").read_text())
    numbers = {label: number for number, label in enumerate(drawn["rows"])}
    key = key_of(list(numbers), len(drawn["prompts"]), seed)
    out.mkdir(parents=True, exist_ok=True)
    key_file.parent.mkdir(parents=True, exist_ok=True)
    write_json(key_file, {"seed": seed, "sheets": key, "rows": drawn["rows"]})
    paths = []
    for number in key:
        figure = sheet(pictures, numbers, key[number], drawn["prompts"], number)
        figure.savefig(out / f"sheet-{number}.png", dpi=110)
        plt.close(figure)
        paths.append(out / f"sheet-{number}.png")
    return paths


def answers(path: Path, key: Mapping[str, Any]) -> dict[str, str]:
    """Return {sheet: letters} of a reader's file.

    Raises:
        ReadingError: a line is no answer, names no sheet, or has another number of letters than the sheet has columns.
    """
    found = {}
    for line in filter(None, map(str.strip, path.read_text().splitlines())):
        match = re.fullmatch(r"(\d+)\s+([AB=]+)", line)
        if not match or match[1] not in key or len(match[2]) != len(key[match[1]]["first_is_a"]):
            raise ReadingError(f"{path}: {line!r} is no answer; write a sheet's number and a letter, A, B or =, for each of its columns")
        found[match[1]] = match[2]
    return found


def count(key: Mapping[str, Any], readers: Sequence[Path]) -> pd.DataFrame:
    """Return a row for each reader and sheet: the columns in which the first row, or the second, was called better, and a p value.

    The p value is that of the exact sign test, ties left out: readers who cannot tell the rows apart name each as often.
    """
    rows = []
    for path in readers:
        for number, letters in answers(path, key).items():
            said = key[number]
            first = sum(letter == ("A" if upper else "B") for letter, upper in zip(letters, said["first_is_a"], strict=True))
            decided = len(letters) - letters.count("=")
            p = binomtest(first, decided).pvalue if decided else 1.0
            rows.append(
                {"reader": path.stem, "first": said["first"], "second": said["second"], "first better": first,
                 "second better": decided - first, "neither": letters.count("="), "p": float(p)}
            )  # fmt: skip
    return pd.DataFrame(rows).sort_values(["first", "second", "reader"], ignore_index=True)


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.blind_reading", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["sheets", "count"])
    parser.add_argument("readers", nargs="*", type=Path, help="for count: a file of answers from each reader")
    parser.add_argument("--pictures", type=Path, default=Path("runs/experiments/shapes/pictures"))
    parser.add_argument("--sheets", type=Path, default=Path("runs/reading/sheets"))
    parser.add_argument("--key", type=Path, default=Path("runs/reading-key/key.json"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(given)
    if arguments.what == "sheets":
        print(*write_sheets(arguments.pictures, arguments.sheets, arguments.key, arguments.seed), sep="\n")
    else:
        print(count(json.loads(arguments.key.read_text())["sheets"], arguments.readers).to_string(index=False))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
