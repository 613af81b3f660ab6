"""What the VAE and the text encoder compute is computed once for all runs, and nothing else is ever served in its place."""

import json
import shutil
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import tiny_pipeline, write_images
from PIL import Image
from safetensors import safe_open
from test_rounds import SETTINGS
from torch import Tensor

from selfimprove.data.cache import Wanted, shared_store
from selfimprove.data.latents import SHARD, Store
from selfimprove.models.pipeline import Diffuser
from selfimprove.opponent import CacheError
from selfimprove.planning.plan import plan, remaining
from selfimprove.planning.work import count
from selfimprove.presets import Preset
from selfimprove.rounds import play
from selfimprove.run import Run, set_up
from selfimprove.stages import held_out_latents, real_latents, stored_as, text_store

KEYS = [f"image {n}" for n in range(SHARD + 20)]


class Encoder:
    """Makes rows that are known again by their key, and counts them."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys, self.made = keys, list[str]()

    def __call__(self, rows: Sequence[int]) -> dict[str, Tensor]:
        self.made += [self.keys[row] for row in rows]
        return {"mean": torch.tensor([[float(self.keys[row].split()[1])] for row in rows])}


def built(cache: Path | None, folder: Path, keys: Sequence[str], **made_from: str) -> list[str]:
    encoder = Encoder(keys)
    store = shared_store(cache, Wanted(folder / "real", keys, {"vae": "a"} | made_from), encoder, "test")
    assert store.take("mean", range(len(keys))).flatten().tolist() == [float(key.split()[1]) for key in keys]
    assert Store(folder / "real").digest() == store.digest()
    return encoder.made


def shards(cache: Path) -> dict[int, Path]:
    """The shards of a cache, by their number of rows."""
    return {len(keys_of(path)): path for path in cache.glob("*/*.safetensors")}


def keys_of(path: Path) -> list[str]:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["keys"])


def test_a_second_run_makes_only_what_is_new(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert built(cache, tmp_path / "one", KEYS) == KEYS
    assert built(cache, tmp_path / "two", KEYS) == []
    own = [tmp_path / name / "real" / "00000.safetensors" for name in ("one", "two")]
    assert own[0].samefile(own[1]), "no second copy on one disk"
    assert built(cache, tmp_path / "three", KEYS[::-3]) == []  # another seed: others, in another order
    assert len(shards(cache)) == 2
    assert built(cache, tmp_path / "four", [*KEYS[5:], "image 999"]) == ["image 999"]
    assert built(cache, tmp_path / "five", ["image 999"]) == []
    assert built(cache, tmp_path / "six", KEYS, vae="b") == KEYS
    assert built(None, tmp_path / "seven", KEYS) == KEYS
    shutil.rmtree(cache)  # each run has its own
    assert built(cache, tmp_path / "one", KEYS) == []
    assert built(cache, tmp_path / "eight", KEYS) == KEYS


@pytest.mark.parametrize("fault", ["deleted", "cut", "flipped", "foreign", "exchanged", "keys"])
@pytest.mark.parametrize("keys", [KEYS, KEYS[::-1]], ids=["linked", "read"])
def test_damage_is_found_and_made_again(tmp_path: Path, fault: str, keys: list[str]) -> None:
    cache = tmp_path / "cache"
    built(cache, tmp_path / "one", KEYS)
    shard, other = shards(cache)[20], shards(cache)[SHARD]
    content = shard.read_bytes()
    shard.unlink()  # the run's own file is another name of it
    if fault == "cut":
        shard.write_bytes(content[:-3])
    elif fault == "flipped":
        shard.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    elif fault == "foreign":
        built(tmp_path / "other", tmp_path / "two", KEYS, vae="b")
        shutil.copyfile(shards(tmp_path / "other")[20], shard)
    elif fault == "exchanged":
        shutil.copyfile(other, shard)
    elif fault == "keys":
        assert content.count(b"image 270") == 1
        shard.write_bytes(content.replace(b"image 270", b"image 271"))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        made = built(cache, tmp_path / "three", keys)
    assert set(made) == set(KEYS[SHARD:]), "what is whole stays"
    found = [" of the cache is damaged and removed, and its rows are made again" in str(each.message) for each in said]
    assert found == [True][fault == "deleted" :]
    assert built(cache, tmp_path / "four", keys) == []


def test_many_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda n: built(tmp_path / "cache", tmp_path / f"{n}", KEYS), range(4)))
    assert all(each in ([], KEYS) for each in made)
    assert built(tmp_path / "cache", tmp_path / "last", KEYS) == []


def test_a_cache_that_cannot_be_written_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.warns(UserWarning, match="cannot be written .* other runs will make these rows again"):
        assert built(tmp_path / "cache", tmp_path / "one", KEYS[:3]) == KEYS[:3]


def run_of(model: Path, images: Path, folder: Path, cache: Path | str, seed: int = 0, **changes: object) -> Run:
    preset = Preset("", "", SETTINGS).changed(**{"samples": 30, "generated_latents": "raw", "on_collapse": "ignore"} | changes)
    return set_up(preset, "test", str(model), str(images), folder, seed, "cpu", latent_cache=cache)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images and texts were encoded, in this order."""
    counts, encode, embed = [0, 0], Diffuser.encode, Diffuser.embed

    def images(self: Diffuser, given: Tensor) -> tuple[Tensor, Tensor]:
        counts[0] += len(given)
        return encode(self, given)

    def texts(self: Diffuser, given: list[str]) -> Tensor:
        counts[1] += len(given)
        return embed(self, given)

    monkeypatch.setattr(Diffuser, "encode", images)
    monkeypatch.setattr(Diffuser, "embed", texts)
    return counts


def stores(run: Run) -> list[int]:
    """Make what a round encodes before it draws."""
    settings = run.preset.settings
    real_latents(run, settings)
    held_out_latents(run)
    text_store(run, run.folder.path / "text", [run.data.captions[i] for i in run.data.train], stored_as(settings))
    return [len(run.data.train), len(run.data.validation)]


def test_what_a_cache_serves(tiny: Path, images: Path, tmp_path: Path, encoded: list[int]) -> None:
    cache = tmp_path / "cache"

    def fresh(name: str, model: Path = tiny, data: Path = images, seed: int = 0, **changes: object) -> list[int]:
        run = run_of(model, data, tmp_path / name, cache, seed, **changes)
        encoded[:] = [0, 0]  # a model that is loaded has its parts tried on the empty caption
        stores(run)
        return encoded.copy()

    train, held_out = stores(run_of(tiny, images, tmp_path / "zero", ""))
    texts = len(set(run_of(tiny, images, tmp_path / "zero", "").data.captions)) - 1  # six captions to train on, and the empty one
    assert fresh("one") == [train + held_out, texts]
    assert fresh("seed", seed=1) == fresh("method", objective="sft", lr=1.0) == fresh("fewer", samples=10, seed=2) == [0, 0]
    assert fresh("flipped", flip=True) == [2 * train, 0]
    assert fresh("half", precision="bf16") == [train + held_out, texts]  # the VAE computes in bfloat16, too
    # another UNet is another model with the same encoders; other VAE, or another text encoder, is not
    for part, wanted in (("unet", [0, 0]), ("vae", [train + held_out, 0]), ("text_encoder", [0, texts])):
        other, pipeline = tmp_path / f"other {part}", tiny_pipeline(7)
        shutil.copytree(tiny, other)
        getattr(pipeline, part).save_pretrained(other / part)
        assert fresh(f"run {part}", other) == wanted
    # one other caption: its embedding is new; latents belong to the whole data set
    for name in ("caption", "image"):
        data = write_images(tmp_path / f"data {name}", 30)
        if name == "caption":
            rows = (data / "metadata.jsonl").read_text().replace("noise number 2", "noise number two")
            (data / "metadata.jsonl").write_text(rows)
        else:
            Image.new("RGB", (20, 16)).save(data / "003.png")
        found = fresh(f"run {name}", data=data)
        assert found[0] > 20
        assert found[1] <= 1


def test_a_second_round_with_a_cache_is_the_first_without(tiny: Path, images: Path, tmp_path: Path, encoded: list[int]) -> None:
    infos = [play(run_of(tiny, images, tmp_path / "plain", ""), 1)]
    runs = [run_of(tiny, images, tmp_path / name, tmp_path / "cache") for name in ("first", "second")]
    infos.append(play(runs[0], 1))
    encoded[:] = [0, 0]
    work = {index: count(runs[1].preset, index, len(runs[1].data.train), 5, held_out=3) for index in (0, 1)}
    for index, name in ((0, "held-out latents"), (1, "real")):
        assert [stage.share for stage in remaining(runs[1], index, work[index], 1) if stage.work is work[index].stages[name]] == [0]
    assert f"are shared by runs in {tmp_path / 'cache'}" in "\n".join(plan(runs[1], 1).lines)
    encoded[:] = [0, 0]
    infos.append(play(runs[1], 1))
    assert encoded[0] == 0
    assert infos[0][1].metrics == infos[1][1].metrics == infos[2][1].metrics


def test_where_a_cache_lies(tiny: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    preset = Preset("", "", SETTINGS)
    assert set_up(preset, "test", str(tiny), str(images), device="cpu").latent_cache == Path("runs/latents")
    assert set_up(preset, "test", str(tiny), str(images), "mine", device="cpu").latent_cache is None
    assert not (tmp_path / "runs" / "latents").exists()
    (tmp_path / "file").write_text("")
    for name in ("latent_cache", "opponent_cache"):
        with pytest.raises(CacheError, match=f"{name}='file' is a file; give a folder"):
            set_up(preset, "test", str(tiny), str(images), "other", device="cpu", **{name: "file"})
