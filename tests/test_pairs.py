from io import BytesIO
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from selfimprove.data.images import DataError
from selfimprove.data.pairs import LabelledPair, Shards, shapes_pairs
from selfimprove.shapes.image_sets import pairs as drawn_pairs
from selfimprove_lab.results.agreement import correlation_with, pair_accuracy, within_prompt_correlation


def encoded(level: int) -> bytes:
    stream = BytesIO()
    Image.new("RGB", (6, 4), (level, level, level)).save(stream, "PNG")
    return stream.getvalue()


def row(first: int, second: int, label: float, **changes: object) -> dict:
    """A row in the published schema: two grey images, and which was preferred."""
    return {
        "caption": "grey", "jpg_0": encoded(first), "jpg_1": encoded(second), "label_0": label, "label_1": 1 - label, "has_label": True,
        "are_different": True, "ranking_id": 1,
    } | changes  # fmt: skip


def shard(folder: Path, rows: list[dict], name: str = "train-00000.parquet") -> Path:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / name)  # pandas would make null of what is no number
    return folder


def brightness(images: list[Image.Image], prompts: list[str]) -> torch.Tensor:
    return torch.tensor([float(i.getpixel((0, 0))[0]) for i in images])  # type: ignore[index]


def test_shards_are_read_in_order_and_what_decides_nothing_is_counted(tmp_path: Path) -> None:
    shard(tmp_path / "s", [row(10, 20, 1.0), row(1, 2, 0.5), row(30, 5, 0.0)], "b.parquet")
    shard(tmp_path / "s", [row(7, 8, 1.0, has_label=False), row(9, 3, 1.0)], "a.parquet")
    shards = Shards(str(tmp_path / "s"))
    read = list(shards)
    assert [p.first.getpixel((0, 0))[0] for p in read] == [9, 10, 30]
    assert [p.first_wins for p in read] == [True, True, False]
    assert str(shards.dropped) == "rows dropped: 1 ties, 1 unlabelled"
    assert len(list(shards)) == 3
    assert shards.dropped["ties"] == 1  # once, however often it is read


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (row(1, 2, 1.0, label_1=0.3), "row 2: the labels 1.0 and 0.3 must be 1 and 0, 0 and 1, or 0.5 each"),
        (row(1, 2, 1.0, label_1=float("nan")), "row 2: the labels 1.0 and nan must be"),
        (row(1, 2, 1.0, label_0=float("nan"), label_1=float("nan")), "row 2: the labels nan and nan must be"),
        (row(1, 2, 2.0), "row 2: the labels 2.0 and -1.0 must be"),
        (row(1, 2, 0.75), "row 2: the labels 0.75 and 0.25 must be"),
        (row(1, 2, float("inf")), "row 2: the labels inf and -inf must be"),
        (row(1, 2, 1.0, label_0=None), "row 2: the labels"),
        (row(2, 1, 1.0, jpg_1=None), "row 2, jpg_1 is null"),
        (row(1, 2, 1.0, jpg_0=b"no image"), "row 2, jpg_0 is no image"),
        (row(1, 2, 1.0, caption=None), "row 2 has no caption"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, broken: dict, message: str) -> None:
    shard(tmp_path / "s", [row(1, 2, 1.0), broken])
    with pytest.raises(DataError, match=message):
        list(Shards(str(tmp_path / "s")))


def test_a_missing_column_is_named_before_anything_is_read(tmp_path: Path) -> None:
    shard(tmp_path / "s", [{k: v for k, v in row(1, 2, 1.0).items() if k != "jpg_1"}])
    with pytest.raises(DataError, match=r"data='.*/s': .*\.parquet lacks the columns \['jpg_1'\]; .*: rename or add them"):
        Shards(str(tmp_path / "s"))
    with pytest.raises(DataError, match="data='.*/nothing' has no parquet shard; give a shard"):
        Shards(str(tmp_path / "nothing"))


def test_accuracy_by_hand(tmp_path: Path) -> None:
    folder = shard(tmp_path / "s", [row(9, 3, 1.0), row(3, 9, 1.0), row(9, 3, 0.0), row(5, 5, 1.0), row(8, 1, 1.0), row(1, 2, 0.5)])
    found = pair_accuracy({"brightness": brightness}, Shards(str(folder)), batch_size=2).loc["brightness"]
    assert found["accuracy"] == 0.5  # two right, two wrong, one equal
    assert (found["equal"], found["pairs"]) == (1, 5)
    assert found["low"] < 0.5 < found["high"]


def test_no_pair_has_no_accuracy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no labelled pair"):
        pair_accuracy({"brightness": brightness}, Shards(str(shard(tmp_path / "s", [row(1, 2, 0.5)]))))


def test_pairs_of_shapes_are_the_worlds_own() -> None:
    made, drawn = list(shapes_pairs(6, 3)), drawn_pairs(6, 3)
    assert [p.prompt for p in made] == [c.text for c in drawn.captions]
    assert [p.first_wins for p in made] == drawn.first_wins.tolist()
    assert isinstance(made[0], LabelledPair)
    assert made[0].first.size == (64, 64)
    assert made[0].first.tobytes() != made[0].second.tobytes()


def test_correlation_is_within_prompts() -> None:
    """Scores that agree on which prompt is easy and disagree on every image correlate negatively."""
    rows = [{"prompt": p, "a": 10 * i + k, "b": 10 * i - k, "c": 0.0} for i, p in enumerate("xyz") for k in range(4)]
    scores = pd.DataFrame(rows)
    assert scores["a"].corr(scores["b"]) > 0.5
    table = within_prompt_correlation(scores, ["a", "b"])
    assert table.loc["a", "b"] == table.loc["b", "a"] == pytest.approx(-1)
    assert table.loc["a", "a"] == 1
    assert correlation_with(scores, ["b"], "a").loc["b", "prompts"] == 3
    with pytest.raises(ValueError, match="vary in no prompt"):
        correlation_with(scores, ["c"], "a")
