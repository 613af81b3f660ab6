"""Pick-a-Pic's shards as training data: winners for SPIN and SFT, pairs for DPO."""

from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
import torch
from test_pairs import encoded, row, shard
from test_rounds import PRESET, SETTINGS

from selfimprove.data import streaming
from selfimprove.data.images import DataError, load_data
from selfimprove.presets import Preset
from selfimprove.rounds import play
from selfimprove.run import set_up

SIZE = (16, 16)


def light_and_dark(i: int, prompts: int = 10) -> dict:
    """Pair number `i`: the winner is light (200 and more), the loser dark, and which of them is first alternates."""
    label, light, dark = float(i % 2), 200 + i % 50, 20 + i % 50
    return row(light if label else dark, dark if label else light, label, caption=f"prompt {i % prompts}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards: thirty decided pairs of ten prompts, winners light (200 and more), losers dark; a tie and an unlabelled row."""
    rows = [light_and_dark(i) for i in range(30)]
    shard(tmp_path / "pairs", [*rows[:15], row(1, 2, 0.5)], "a.parquet")
    return shard(tmp_path / "pairs", [*rows[15:], row(1, 2, 1.0, has_label=False)], "b.parquet")


def test_the_preferred_image_is_the_real_one(folder: Path) -> None:
    data = load_data(str(folder), 100, 2, 6, SIZE, seed=0)
    assert data.fetch_loser is not None
    for i in data.train:
        won, lost = data.fetch(i), data.fetch_loser(i)
        assert won.shape == (3, *SIZE)
        assert float(won.mean()) > 0.75 > 0.25 > float(lost.mean())
    assert "rows dropped: 1 ties, 1 unlabelled" in data.notes


def test_a_prompt_is_trained_on_or_kept_out_but_never_both(folder: Path) -> None:
    data = load_data(str(folder), 100, 2, 6, SIZE, seed=0)
    chosen = load_data(str(folder), 100, 2, 6, SIZE, seed=1, part="validation")
    trained, kept = {data.captions[i] for i in data.train}, {data.captions[i] for i in data.validation}
    test = {p for p, _ in data.evaluation}
    assert (len(trained), len(kept), len(test)) == (8, 1, 1)  # one at least is validated and tested by
    assert len(trained | kept | test) == 10
    assert len(data.train) == 24
    assert {p for p, _ in chosen.evaluation} == kept
    assert (chosen.train, chosen.validation) == (data.train, data.validation)
    assert len(set(data.ids)) == 30


def test_a_tenth_is_kept_out_at_most(tmp_path: Path) -> None:
    source = shard(tmp_path / "many", [row(i, i, 1.0, caption=f"prompt {i % 80}") for i in range(200)])
    data = load_data(str(source), 1000, 50, 50, SIZE, 0)
    test, validation = {p for p, _ in data.evaluation}, {data.captions[i] for i in data.validation}
    assert (len(test), len(validation)) == (4, 4)
    assert not test & validation
    assert 180 <= len(data.train) == sum(c not in test | validation for c in data.captions)


def test_a_part_of_it_depends_on_the_seed_and_not_on_the_count_kept_out(folder: Path) -> None:
    parts = [load_data(str(folder), 8, 0, 4, SIZE, seed=s).train for s in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]
    assert parts[0] == sorted(parts[0])
    assert load_data(str(folder), 8, 0, 4, SIZE, seed=0).fingerprint == load_data(str(folder), 9, 2, 4, SIZE, seed=3).fingerprint


def test_dpo_and_spin_run_on_shards(folder: Path, tiny: Path, tmp_path: Path) -> None:
    losses = {}
    for name, preset in {"spin": PRESET, "dpo": Preset("", "", SETTINGS).changed(generated_source="loser", opponent="base")}.items():
        info = play(set_up(preset, name, str(tiny), str(folder), tmp_path / name, 0, "cpu"), 1)[1]
        assert info.log is not None
        losses[name] = info.log["player_generated"].iloc[0]
    assert losses["spin"] != losses["dpo"]


def test_one_prompt_cannot_be_split(tmp_path: Path) -> None:
    source = shard(tmp_path / "one", [row(9, 1, 1.0), row(1, 2, 0.5)])
    with pytest.raises(DataError, match=r"1 of 1 pairs can be read \(rows dropped: 1 ties\); at least 3 are needed"):
        load_data(str(source), 4, 1, 2, SIZE, 0)


def test_pairs_with_an_image_that_cannot_be_read_are_skipped_and_named(tmp_path: Path) -> None:
    """Hours of encoding do not end at one of them."""
    rows = [row(i, i + 100, 1.0, caption=f"prompt {i}") for i in range(9)]
    rows[1]["jpg_0"], rows[4]["jpg_1"] = None, rows[4]["jpg_1"][:50]
    data = load_data(str(shard(tmp_path / "null", rows)), 9, 1, 2, SIZE, 0)
    assert [text.partition("train-00000.parquet, ")[2].partition(":")[0] for text in data.skipped] == ["row 2, jpg_0", "row 5, jpg_1"]
    assert "jpg_0 is null" in data.skipped[0]
    assert len(data.captions) == 7
    assert data.fetch_loser is not None
    assert all(torch.isfinite(data.fetch(i)).all() and torch.isfinite(data.fetch_loser(i)).all() for i in range(7))


@pytest.mark.parametrize("place", [0, 7, 19])
def test_other_pixels_are_other_data(tmp_path: Path, place: int) -> None:
    rows = [light_and_dark(i) for i in range(20)]
    source = str(shard(tmp_path / "pairs", rows))
    before = load_data(source, 8, 1, 2, SIZE, 0).fingerprint
    assert load_data(source, 8, 1, 2, SIZE, 0).fingerprint == before
    rows[place] = rows[place] | {"jpg_1": encoded(128)}
    assert len(rows[place]["jpg_1"]) == len(encoded(129))  # the size alone would not tell
    shard(tmp_path / "pairs", rows)
    first = load_data(source, 8, 1, 2, SIZE, 0).fingerprint
    shard(tmp_path / "pairs", [*rows[:place], rows[place] | {"jpg_1": encoded(129)}, *rows[place + 1 :]])
    assert len({before, first, load_data(source, 8, 1, 2, SIZE, 0).fingerprint}) == 3


class Hub:
    """A data set of forty pairs that decide something, and every sixth row one that does not; counts what is read, and can break off."""

    def __init__(self) -> None:
        self.rows: list[dict] = []
        for i in range(40):
            self.rows.append(light_and_dark(i))
            if i % 5 == 0:
                useless = [row(1, 2, 0.5), row(1, 2, 1.0, has_label=False), row(1, 2, 1.0, jpg_1=None), row(1, 2, 1.0, caption="")]
                self.rows.append(useless[i // 5 % 4])
        self.read, self.opened, self.breaks_after = 0, 0, len(self.rows) + 1

    def load_dataset(self, name: str, split: str, streaming: bool) -> "Hub":
        assert (name.partition("/")[0], split, streaming) == ("someone", "train", True)
        self.opened += 1
        return self

    def __iter__(self) -> Iterator[dict]:
        for number, found in enumerate(self.rows, start=1):
            if number > self.breaks_after:
                raise KeyboardInterrupt
            self.read = number
            yield found


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    """The stand-in for the hub; shards of eight pairs go to a temporary folder."""
    made = Hub()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", made.load_dataset)
    monkeypatch.setattr(streaming, "ROWS", 8)
    return made


CACHE = Path("runs/datasets/someone--pairs")


def contents() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(CACHE.iterdir())}


def test_a_data_set_is_streamed_as_far_as_needed(hub: Hub) -> None:
    data = load_data("someone/pairs", 10, 1, 2, SIZE, 0)
    assert data.name == "someone/pairs"
    assert len(data.train) == 10
    assert len(data.captions) == 13  # and one prompt each to validate and to test by
    assert "rows dropped: 1 incomplete, 1 ties, 1 unlabelled" in data.notes
    assert hub.read < len(hub.rows)
    assert list(contents()) == ["000000.parquet", "000001.parquet"]
    assert [pq.read_metadata(CACHE / name).num_rows for name in contents()] == [8, 8]
    assert data.fetch_loser is not None
    for i in data.train:
        assert float(data.fetch(i).mean()) > 0.75 > 0.25 > float(data.fetch_loser(i).mean())
    load_data("someone/pairs", 10, 1, 2, SIZE, 1)
    assert hub.opened == 1  # what is here already needs no hub


def test_how_far_another_run_has_streamed_changes_nothing(hub: Hub) -> None:
    small = load_data("someone/pairs", 10, 1, 2, SIZE, 0)
    before = contents()
    large = load_data("someone/pairs", 1000, 1, 2, SIZE, 0)
    assert len(large.captions) == 40
    assert len(large.train) == 32  # fewer, if the data has fewer
    again = load_data("someone/pairs", 10, 1, 2, SIZE, 0)
    for name in ("captions", "train", "validation", "evaluation", "fingerprint", "skipped"):
        assert getattr(again, name) == getattr(small, name)
    assert contents() | before == contents()
    assert hub.opened == 2
    load_data("someone/pairs", 5000, 1, 2, SIZE, 0)
    assert hub.opened == 2  # it ended, and the last shard says so


def test_a_stream_that_was_killed_goes_on(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.breaks_after = 25
    with pytest.raises(KeyboardInterrupt):
        load_data("someone/pairs", 1000, 1, 2, SIZE, 0)
    assert list(contents()) == ["000000.parquet", "000001.parquet"]
    hub.breaks_after = len(hub.rows) + 1
    continued, files = load_data("someone/pairs", 1000, 1, 2, SIZE, 0), contents()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert load_data("someone/pairs", 1000, 1, 2, SIZE, 0).fingerprint == continued.fingerprint
    assert contents() == files


def test_the_librarys_own_stream_goes_on_where_it_stopped(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four files it starts with the one it was in, and the shards are those of a stream that was never stopped."""
    for part in range(4):
        shard(tmp_path / "files", hub.rows[12 * part : 12 * part + 12], f"{part}.parquet")
    files = [str(path) for path in sorted((tmp_path / "files").iterdir())]
    monkeypatch.undo()
    monkeypatch.setattr(streaming, "ROWS", 8)
    opened = []

    def load_dataset(name: str, split: str, streaming: bool) -> datasets.IterableDataset:
        opened.append(real("parquet", data_files=files, split=split, streaming=streaming))
        return opened[-1]

    real = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = {}
    for name, samples in {"stopped": (3, 12, 25, 1000), "whole": (1000,)}.items():
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        for count in samples:
            data = load_data("someone/pairs", count, 1, 2, SIZE, 0)
        assert len(data.captions) == 40
        found[name] = (data.captions, data.fingerprint, data.skipped, [pq.read_table(path) for path in sorted(CACHE.iterdir())])
    assert found["stopped"] == found["whole"]
    assert len(opened) == 5
    Path(files[1]).write_bytes(b"no parquet")  # long past, and not read again
    (CACHE / "000005.parquet").unlink()
    assert load_data("someone/pairs", 1000, 1, 2, SIZE, 0).captions == data.captions


def test_a_data_set_that_cannot_be_had(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.rows[3] = {k: v for k, v in hub.rows[3].items() if k != "label_1"}
    with pytest.raises(DataError, match=r"'someone/pairs', row 4 lacks the columns \['label_1'\]"):
        load_data("someone/pairs", 10, 1, 2, SIZE, 0)
    hub.rows[3] = row(1, 2, 2.0)
    with pytest.raises(DataError, match="'someone/pairs', row 4: the labels 2.0 and -1.0 must be"):
        load_data("someone/pairs", 10, 1, 2, SIZE, 0)

    def absent(name: str, split: str, streaming: bool) -> None:
        raise FileNotFoundError("no such data set")

    monkeypatch.setattr(datasets, "load_dataset", absent)
    with pytest.raises(DataError, match=r"no such folder or file here.*FileNotFoundError: no such data set.*check the id, the connection"):
        load_data("someone/pairs", 10, 1, 2, SIZE, 0)
    with pytest.raises(DataError, match="there is no such file or folder"):
        load_data("./someone/pairs", 10, 1, 2, SIZE, 0)
    with pytest.raises(DataError, match="there is no such file or folder"):  # a file's name is not sought on the hub
        load_data("someone/pairs.parquet", 10, 1, 2, SIZE, 0)


def captioned(i: int, **changes: object) -> dict:
    return {"image": {"bytes": encoded(3 * i), "path": None}, "text": f"number {i}", "long": [f"a long text {i}", f"another {i}"]} | changes


def test_a_hub_data_set_of_captioned_images_is_streamed(hub: Hub) -> None:
    """As far as it is needed, and what is of no use is counted. Another column of captions is another stream."""
    hub.rows = [captioned(i) for i in range(40)]
    hub.rows[2:6] = [captioned(2, text=None), captioned(3, image=None), captioned(4, text=" "), captioned(5, image=b"broken")]
    data = load_data("someone/pairs", 10, 1, 2, SIZE, 0)
    assert (len(data.train), len(data.captions), hub.read) == (10, 13, 20)
    assert "rows dropped: 3 incomplete, 1 unreadable" in data.notes
    hub.rows[30] = captioned(30, text=None)
    assert data.fetch_loser is None
    for i in data.train:
        number = int(data.captions[i].split()[1])
        assert float(data.fetch(i).mean()) == pytest.approx(3 * number / 255, abs=0.02)
    again = load_data("someone/pairs", 1000, 1, 2, SIZE, 0)
    assert len(again.captions) == 35
    assert "rows dropped: 4 incomplete, 1 unreadable" in again.notes
    third = load_data("hub:someone/pairs", 10, 1, 2, SIZE, 0)  # how far another run has streamed changes nothing
    assert (third.fingerprint, third.notes) == (data.fingerprint, data.notes)
    assert hub.opened == 2
    several = load_data("someone/pairs", 10, 1, 2, SIZE, 0, caption_column="long")
    assert (several.examples, len(several.train)) == (10, 20)
    with pytest.raises(DataError, match=r"data='someone/pairs' has no column 'said'; its columns are \['text', 'long'\].*caption_column="):
        load_data("someone/pairs", 10, 1, 2, SIZE, 0, caption_column="said")
    hub.rows = [{"text": "a"}]
    with pytest.raises(DataError, match=r"data='someone/other' has no column file_name, image"):
        load_data("someone/other", 10, 1, 2, SIZE, 0)


def test_a_hub_data_set_that_is_a_folder_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library gives addresses of files then, in place of bytes."""
    (tmp_path / "files").mkdir()
    for i in range(9):
        (tmp_path / "files" / f"{i}.png").write_bytes(encoded(20 * i))
    table = "".join(f'{{"file_name": "{i}.png", "text": "number {i}"}}\n' for i in range(9))
    (tmp_path / "files" / "metadata.jsonl").write_text(table)
    monkeypatch.chdir(tmp_path)
    real = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda name, **how: real("imagefolder", data_dir=str(tmp_path / "files"), **how))
    data = load_data("someone/photos", 10, 1, 2, SIZE, 0)
    assert len(data.captions) == 9
    for i in data.train:
        assert float(data.fetch(i).mean()) == pytest.approx(20 * int(data.captions[i].split()[1]) / 255, abs=0.02)


def test_a_lost_shard_is_named(hub: Hub) -> None:
    load_data("someone/pairs", 30, 1, 2, SIZE, 0)
    (CACHE / "000001.parquet").unlink()
    with pytest.raises(DataError, match="a shard before 000004.parquet is missing; remove the folder"):
        load_data("someone/pairs", 30, 1, 2, SIZE, 0)


def test_a_run_on_a_data_set_of_the_hub(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    made = set_up(PRESET.changed(evaluation_part="validation"), "spin", str(tiny), "someone/pairs", tmp_path / "run", 0, "cpu")
    assert {p for p, _ in made.data.evaluation} == {made.data.captions[i] for i in made.data.validation}
    assert play(made, 1)[1].log is not None
