"""Stores: a shard that is missing, cut off, changed or of another store is never read."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from selfimprove.data.latents import SHARD, Part, Store, build_store
from selfimprove.files import DamagedFileError

ROWS = 2 * SHARD + 40


def make(rows: range) -> dict[str, Tensor]:
    return {"mean": torch.arange(rows.start, rows.stop, dtype=torch.float32)[:, None]}


def build(folder: Path, rows: int = ROWS, **given: object) -> Store:
    return build_store(folder, rows, make, "test", **{"made_from": {"model": "a"}, **given})  # type: ignore[arg-type]


def test_rows_are_where_they_were_put(tmp_path: Path) -> None:
    store = build(tmp_path)
    assert store.take("mean", [0, SHARD, ROWS - 1]).flatten().tolist() == [0, SHARD, ROWS - 1]
    assert Part(store, [5, SHARD + 1]).take("mean", [1]).item() == SHARD + 1
    assert Store(tmp_path).digest() == store.digest()


@pytest.mark.parametrize("fault", ["deleted", "cut", "flipped", "exchanged", "foreign"])
def test_a_finished_store_names_the_shard_that_is_not_its_own(tmp_path: Path, fault: str) -> None:
    build(tmp_path / "store")
    build(tmp_path / "other", made_from={"model": "b"})
    shard, last = tmp_path / "store" / "00001.safetensors", tmp_path / "store" / "00002.safetensors"
    content = shard.read_bytes()
    if fault == "deleted":
        shard.unlink()
    elif fault == "cut":
        shard.write_bytes(content[: len(content) // 2])
    elif fault == "flipped":
        shard.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
    else:
        shard.write_bytes((last if fault == "exchanged" else tmp_path / "other" / "00000.safetensors").read_bytes())
    with pytest.raises(DamagedFileError, match=r"00001\.safetensors .*(made again)"):
        Store(tmp_path / "store")


def test_a_damaged_shard_of_an_unfinished_store_is_made_again_with_a_warning(tmp_path: Path) -> None:
    digest = build(tmp_path).digest()
    (tmp_path / "store.json").unlink()
    shard = tmp_path / "00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:50])
    with pytest.warns(UserWarning, match=r"00000\.safetensors is cut off .* made again"):
        assert build(tmp_path).digest() == digest


def test_a_shard_made_from_something_else_is_refused_or_made_again(tmp_path: Path) -> None:
    build(tmp_path)
    with pytest.raises(DamagedFileError, match="was made from something else"):
        build(tmp_path, made_from={"model": "b"})
    build(tmp_path, made_from={"model": "b"}, remake=True)
    assert build(tmp_path, made_from={"model": "b"}).rows == ROWS


def test_a_larger_store_goes_on_from_a_smaller_one(tmp_path: Path) -> None:
    keys = [f"prompt {row}" for row in range(ROWS)]
    build(tmp_path, SHARD + 3, keys=keys[: SHARD + 3])
    first = (tmp_path / "00000.safetensors").stat().st_mtime_ns
    store = build(tmp_path, keys=keys)
    assert (tmp_path / "00000.safetensors").stat().st_mtime_ns == first
    assert store.take("mean", [SHARD + 30]).item() == SHARD + 30
    build(tmp_path, keys=["another", *keys[1:]])
    assert (tmp_path / "00000.safetensors").stat().st_mtime_ns != first
