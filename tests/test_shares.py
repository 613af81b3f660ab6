"""Commands that each make a share of the shards, some of them killed and started again, make what one process makes, byte for byte."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import write_images

from selfimprove.data import latents
from selfimprove.data.latents import Unfinished
from selfimprove.errors import ArgumentError
from selfimprove.processes import IncompleteError, makers, place, take_share
from tests.forks import python

PROGRAM = """
import os, signal, sys
from pathlib import Path
from selfimprove import report, rounds, run
from selfimprove.data import cache, latents
from selfimprove.evaluation import evaluate
from selfimprove.planning import plan
from selfimprove import __main__ as command

for module in (cache, latents, evaluate, plan):
    module.SHARD = 4  # so that few images are many shards
folder, system, arguments = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]

def begin(name, *more, killed_at=0):
    \"\"\"Start a command in a process of its own; `killed_at`: the shard of the rollout in whose middle it is killed.\"\"\"
    if child := os.fork():
        return child
    for stream in (1, 2):
        os.dup2(os.open(folder / f"{name}.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND), stream)
    written, save = [], latents.save_file

    def killing(tensors, path, header):
        written.append(path) if path.parent.name == "rollout" else None
        if len(written) == killed_at and killed_at:
            Path(path).write_bytes(b"half of it")
            os.kill(os.getpid(), signal.SIGKILL)
        save(tensors, path, header)

    latents.save_file = killing
    sys.argv = ["", system, *arguments, *more]
    try:
        command.main()
    except BaseException as error:
        print(type(error).__name__, error)
        os._exit(1)
    os._exit(0)

def wait(children):
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]

def shares(number, which=(), kills={}):
    run = ["--run", str(folder / "shared")]
    which = which or range(1, number + 1)
    return wait([begin(f"share-{k}", *run, "--share", f"{k}/{number}", killed_at=kills.get(k, 0)) for k in which])
"""
SPIN = """
print(wait([begin("alone", "--run", str(folder / "alone"))]))
print(shares(8, kills={1: 2, 5: 1}))
print(len(list((folder / "shared").rglob("*.unfinished"))), (folder / "shared" / "round_1" / "manifest.json").exists())
print(shares(8, (7,)))
print(shares(8, (1, 5)))
print(wait([begin("merged", "--run", str(folder / "shared"))]))
"""
RSI = """
print(wait([begin("alone", "--run", str(folder / "alone"))]))
for repeated in range(5):
    print([shares(3, (k,)) for k in (1, 2, 3)])
before = {path: path.stat().st_mtime_ns for path in (folder / "shared").rglob("*.safetensors")}
print(wait([begin("merged", "--run", str(folder / "shared"))]))
print([str(path) for path, written in before.items() if path.stat().st_mtime_ns != written])
"""
LASTING = ("*.safetensors", "*.parquet", "store.json", "prompts.json", "edges.json")


def played(folder: Path, rest: str, *arguments: str) -> list[str]:
    """Run a program of forks, which share what was imported once; return the lines that it printed."""
    done = python("-c", PROGRAM + rest, str(folder), *arguments)
    said = "\n".join(f"{path.name}: {path.read_text()[-600:]}" for path in sorted(folder.glob("*")) if path.is_file())
    assert done.returncode == 0, done.stderr[-1000:] + said
    return done.stdout.splitlines()


def contents(run: Path) -> dict[str, Any]:
    """Return every byte of the files that last; of a shard its header, whose entries are written in any order, and its tensors' bytes."""
    files = {str(path.relative_to(run)): path for pattern in LASTING for path in run.rglob(pattern)}
    return {name: shard(path) if path.suffix == ".safetensors" else path.read_bytes() for name, path in files.items()}


def shard(path: Path) -> tuple[dict[str, Any], bytes]:
    written = path.read_bytes()
    length = int.from_bytes(written[:8], "little")
    return json.loads(written[8 : 8 + length]), written[8 + length :]


def test_eight_shares_two_of_them_killed_make_what_one_process_makes(tiny: Path, tmp_path: Path) -> None:
    images, folder = write_images(tmp_path / "images", 48), tmp_path / "runs"
    folder.mkdir()
    given = ["--preset", "smoke", "--iter", "1", "--device", "cpu", "--model", str(tiny), "--data", str(images)]
    given += ["--set", "samples=40, validation=6, steps=5"]
    assert played(folder, SPIN, "spin", *given) == [
        "[0]", "[-9, 0, 0, 0, -9, 0, 0, 0]", "2 False",  # shares finish no stage
        "[0]", "[0, 0]", "[0]",
    ]  # fmt: skip
    last = (folder / "share-7.txt").read_text().splitlines()[-1]
    assert last.startswith("share 7/8 is made; ")
    assert last.endswith("round_1/rollout lacks 2 of 9 shards, those of the shares 1/8, 5/8; run these shares, then go on")
    assert "is made, and so are the others" in "".join((folder / f"share-{k}.txt").read_text() for k in (1, 5))
    ours, theirs = contents(folder / "shared"), contents(folder / "alone")
    assert len([name for name in ours if name.startswith("round_1/rollout/0")]) == 9
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert not list((folder / "shared").rglob("*.unfinished")), "what the killed ones left half written is gone"


def test_judging_and_scoring_are_shared_out_too(tmp_path: Path) -> None:
    lines = played(tmp_path, RSI, "rsi", "--preset", "smoke-rsi", "--iter", "1", "--device", "cpu")
    assert lines == ["[0]", *["[[0], [0], [0]]"] * 5, "[0]", "[]"], "nothing is drawn or scored again"
    said = [(tmp_path / f"share-{k}.txt").read_text() for k in (1, 2, 3)]
    assert "judged/clarity lacks " in "".join(said)
    for text in said:
        assert text.splitlines()[-1].endswith("the scores of round 1 must be finished first: run the same command once without --share")
    assert "the share 1/3 makes it" in said[1] + said[2]
    ours, theirs = contents(tmp_path / "shared"), contents(tmp_path / "alone")
    for question in ("clarity", "specificity"):  # once the prompts are chosen, nobody opens the answers again
        del theirs[f"judged/{question}/store.json"]
    assert {"round_1/pool/00005.safetensors", "judged/clarity/00001.safetensors", "round_1/pool.parquet"} <= ours.keys()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


@pytest.mark.parametrize("text", ["0/8", "9/8", "8", "1/0", "a/b", "1/2/3", "-1/2"])
def test_a_share_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"is no share; give one of 1/N to N/N"):
        take_share(text)
    assert place() == (0, 1)


def test_each_shard_has_one_maker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latents, "SHARD", 2)
    places = []
    try:
        for number in range(1, 4):
            take_share(f"{number}/3")
            places.append(place())
            assert makers([0, 1, 2, 3, 4]) == ["1/3", "2/3", "3/3"]
            assert makers([4, 7]) == ["2/3"]
        store = Unfinished(tmp_path / "store", 9, [1, 4])
        assert store.rows == 9
        for read in (lambda: store.take("mean", [0]), store.digest, lambda: store.shape(0), lambda: store.names):
            with pytest.raises(IncompleteError, match=r"store lacks 2 of 5 shards, those of the shares 2/3; run these shares"):
                read()
    finally:
        take_share("")
    assert places == [(0, 3), (1, 3), (2, 3)]


def test_a_share_and_a_whole_run_do_not_write_at_once(tmp_path: Path) -> None:
    from selfimprove.run_folder import RunError, open_run

    try:
        take_share("1/2")
        held = open_run(tmp_path / "run", {}, {})
    finally:
        take_share("")
    code = (
        "import sys; from pathlib import Path; from selfimprove.run_folder import open_run; from selfimprove.processes import take_share; "
    )
    code += "take_share(sys.argv[2]); open_run(Path(sys.argv[1]), {}, {})"
    other, whole = (python("-c", code, str(tmp_path / "run"), share) for share in ("2/2", ""))
    assert other.returncode == 0, other.stderr
    assert RunError.__name__ in whole.stderr
    assert held.lock is not None
