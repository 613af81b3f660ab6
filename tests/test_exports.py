"""Exports are as narrow as they are written, what is written is enough for the pages, and the tree stays small enough to travel."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from selfimprove.runs import write_table


def test_a_table_is_read_as_it_was_written_and_says_so_once(tmp_path: Path) -> None:
    table = pd.DataFrame({"score": np.float32([0.5, 2.0]), "round": np.int8([0, 1])}, index=pd.Index(["b", "a"], name="prompt"))
    table.attrs["protocol"] = {"steps": 10}
    write_table(tmp_path / "table.parquet", table)
    back = pd.read_parquet(tmp_path / "table.parquet")
    pd.testing.assert_frame_equal(back, table)
    assert back.attrs == table.attrs
    assert set(pq.read_metadata(tmp_path / "table.parquet").metadata) == {b"pandas"}
    assert list(tmp_path.iterdir()) == [tmp_path / "table.parquet"]
