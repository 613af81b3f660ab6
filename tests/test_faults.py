"""The harness that tries to break runs: it tells damage from none, three faults are survived, and its page is what its results say."""

import json
import random
from pathlib import Path

import pytest

from faults import page
from faults.damage import KINDS, damage
from faults.fingerprint import differing, fingerprints
from faults.results import LOST, REFUSED, RESULTS, SAME, Row, read
from tests.forks import python

ROOT = Path(__file__).parent.parent


def test_three_faults_are_survived(tmp_path: Path) -> None:
    results = tmp_path / "faults.json"
    done = python("-m", "faults", "--times", "1", "--only", "smoke", "--results", str(results), folder=ROOT, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [Row(**row) for row in json.loads(results.read_text())["smoke"]["rows"]]
    assert [(row.tried, row.survived, row.lost) for row in rows] == [(1, 1, 0)] * 3, rows


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_seen_and_time_and_place_are_not(tmp_path: Path, kind: str) -> None:
    for name, seconds in (("a", 1), ("b", 2)):
        (tmp_path / name / "round_1").mkdir(parents=True)
        (tmp_path / name / "round_1" / "manifest.json").write_text(
            json.dumps({"stages": {"training": {"seconds": seconds, "player": "x"}}})
        )
        (tmp_path / name / "train.parquet").write_bytes(b"table")
    whole = fingerprints(tmp_path / "a")
    assert differing(whole, fingerprints(tmp_path / "b")) == []
    damage(tmp_path / "b" / "train.parquet", kind, tmp_path / "a" / "train.parquet", random.Random(0))
    assert differing(whole, fingerprints(tmp_path / "b")) == ["train.parquet"]
    assert differing(whole, fingerprints(tmp_path / "b"), but="train.parquet") == []


def test_a_row_counts() -> None:
    row = Row("kill")
    for outcome in (SAME, REFUSED, LOST):
        row.count(outcome, "why")
    assert (row.tried, row.survived, row.lost, row.notes) == (3, 2, 1, ["why"])


def test_the_page_is_what_the_results_say() -> None:
    assert page.PAGE.read_text() == page.page(), "run python -m faults.page"
    totals = page._totals(read(RESULTS))[0].split("**")[1]
    assert totals.rstrip(".") in (ROOT / "README.md").read_text(), f"README.md should say: {totals}"


def test_nothing_was_lost() -> None:
    rows = [Row(**row) for group in read(RESULTS).values() for row in group["rows"]]
    assert rows
    assert [row.what for row in rows if row.lost] == []
