import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from selfimprove.evaluation.protocol import ProtocolError, SamplingProtocol, Scored, check_comparable, read_scores, write_scores

PROTOCOL = SamplingProtocol(
    model="base", model_hash="a", prompts="some", prompts_hash="p", n_prompts=2, images=1, noise_seed=1, sampler="DDIM", steps=50,
    guidance=7.5, precision="float32", scorers={"clip": "openai/clip", "hps": "hpsv2: HPS_v2_compressed.pt"},
)  # fmt: skip
TABLE = pd.DataFrame({"id": ["x", "y"], "prompt": ["a", "b"], "image": [0, 0], "clip": [1.0, 2.0]})


def scored(**changes: object) -> Scored:
    return Scored(TABLE, replace(PROTOCOL, **changes))  # type: ignore[arg-type]


def test_a_file_says_how_it_was_made(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores.parquet", scored())
    back = read_scores(tmp_path / "scores.parquet")
    assert back.protocol == PROTOCOL
    pd.testing.assert_frame_equal(back.table, TABLE)
    assert back.scorers == ["clip"]
    assert TABLE.attrs == {}


def test_a_file_that_does_not_say_is_refused(tmp_path: Path) -> None:
    TABLE.to_parquet(tmp_path / "scores.parquet")
    with pytest.raises(ProtocolError, match="does not say how"):
        read_scores(tmp_path / "scores.parquet")


def test_a_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores.parquet", scored())
    (tmp_path / "scores.parquet").write_bytes((tmp_path / "scores.parquet").read_bytes()[:-20])
    with pytest.raises(ProtocolError, match=r"scores\.parquet is cut off or unreadable .*; delete it to have the images scored again"):
        read_scores(tmp_path / "scores.parquet")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"guidance": 5.0}, "guidance: 7.5 and 5.0"),
        ({"steps": 20, "images": 5}, "images: 1 and 5"),
        ({"prompts_hash": "q"}, "prompts hash"),
        ({"timesteps": "999 499"}, "timesteps: not recorded and 999 499"),
        ({"timesteps": " ".join(map(str, range(999, -1, -1)))}, r"timesteps: not recorded and 999 998 .* \[...\]"),
        ({"final_alpha": 1.0}, "final alpha: not recorded and 1.0"),
        ({"image_size": "768x768"}, "image size"),
        ({"precision": "bf16 autocast"}, "precision: float32 and bf16 autocast"),
        ({"tf32": "convolution"}, "tf32: not recorded and convolution"),
    ],
)
def test_other_protocols_are_refused_unless_forced(changes: dict, named: str) -> None:
    other = scored(model="tuned", model_hash="b", **changes)
    with pytest.raises(ProtocolError, match=named):
        check_comparable([scored(), other])
    said = check_comparable([scored(), other], force=True)
    assert any(re.search(named, s) and "'tuned'" in s for s in said)


def test_models_may_differ_and_what_is_allowed_may() -> None:
    assert check_comparable([scored(), scored(model="tuned", model_hash="b", black=3)]) == []
    assert check_comparable([scored(), scored(guidance=5.0)], allowed=("guidance",)) == []


def test_two_versions_in_one_column_are_never_compared() -> None:
    other = scored(scorers={"clip": "openai/clip", "hps": "hpsv2.1: HPS_v2.1_compressed.pt"})
    with pytest.raises(ProtocolError, match=r"hps: hpsv2: .* and hpsv2\.1"):
        check_comparable([scored(), other], force=True)


def test_a_scorer_that_only_one_has_is_no_difference() -> None:
    assert check_comparable([scored(), scored(scorers={"clip": "openai/clip"})]) == []


def test_the_header_names_what_changes_numbers() -> None:
    header = scored(images=5, black=2).protocol.header()
    for part in ("2 prompts", "5 images", "DDIM", "50 steps", "guidance 7.5", "same initial noise", "2 images black"):
        assert part in header
