"""Try every group of faults that is not in the results yet, and write the page: python -m faults --times 10."""

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from faults import damage, kills, notebook, page, surroundings
from faults.bench import Bench
from faults.results import RESULTS, Row, export, read

Group = tuple[str, Callable[[Bench], Iterable[Row]]]


def groups() -> dict[str, Group]:
    """Return the groups of faults by name: a title, and what tries them."""
    result: dict[str, Group] = {
        "writers": ("Several processes on one folder", kills.writers),
        "moved": ("What lies around a run is moved or changed", surroundings.moved),
        "memory": ("Out of memory", surroundings.memory),
        "read-only": ("A folder that may not be written", surroundings.read_only),
        "two-processes": ("One of two processes is killed", kills.two_processes),
    }
    for system in ("spin", "rsi"):
        result |= {
            f"kill-{system}": (f"SIGKILL in each stage ({system})", partial(kills.by_stage, system=system)),
            f"anywhere-{system}": (f"SIGKILL at any moment ({system})", partial(kills.anywhere, system=system)),
            f"damage-unfinished-{system}": (f"Damaged files of an unfinished round ({system})", partial(damage.unfinished, system=system)),
            f"damage-finished-{system}": (f"Damaged files of finished rounds ({system})", partial(damage.finished, system=system)),
            f"exchanged-{system}": (f"Whole folders of another run ({system})", partial(damage.exchanged, system=system)),
            f"disk-{system}": (f"Disk full ({system})", partial(surroundings.disk_full, system=system)),
            f"file-limit-{system}": (f"No room for a file ({system})", partial(surroundings.file_limit, system=system)),
        }
    interrupted = partial(kills.by_stage, system="spin", what=signal.SIGINT)
    return result | {"ctrl-c": ("Ctrl-C in each stage", interrupted), "notebook": ("A notebook interrupted", notebook.interrupted)}


def smoke(bench: Bench) -> Iterator[Row]:
    """Try three faults in half a minute, as a check of this harness: a kill, a flipped bit, a second process."""
    killed, flipped = Row("SIGKILL in training (spin)"), Row("a flipped bit in a shard of an unfinished round (spin)")
    run = kills.killed(bench, "spin", "training", signal.SIGKILL, 0)
    killed.count(*bench.verdict("spin", run, bench.play("spin", run)))
    run, shard = bench.cut_off("spin"), "round_2/rollout/00000.safetensors"
    damage.damage(run / shard, "flipped", run / shard, bench.random("smoke"))
    flipped.count(*bench.verdict("spin", run, bench.play("spin", run), shard))
    yield from (killed, flipped)
    yield from kills.writers(bench, (2,))


def main() -> None:
    """Play the groups that are asked for, and say what became of each."""
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("--times", type=int, default=10, help="how often each random fault is tried")
    parser.add_argument("--only", nargs="*", default=["*"], help=f"patterns of groups: {', '.join(groups())}; or smoke")
    parser.add_argument("--again", action="store_true", help="also try groups that are in the results")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--keep", action="store_true", help="keep the folder with the runs")
    given = parser.parse_args()
    known = groups() | ({"smoke": ("Smoke", smoke)} if given.only == ["smoke"] else {})
    wanted = {name: group for name, group in known.items() if any(fnmatch(name, pattern) for pattern in given.only)}
    missing = {name: group for name, group in wanted.items() if given.again or name not in read(given.results)}
    if missing:
        folder = Path(tempfile.mkdtemp(prefix="faults-"))
        folder.chmod(0o755)  # another user plays in it
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # and remove the folder
        try:
            bench = Bench(folder, given.seed, given.times)
            for name, (title, play) in missing.items():
                rows = export(name, title, partial(play, bench), given.times, given.seed, given.results)
                tried, survived, lost = (sum(getattr(row, what) for row in rows) for what in ("tried", "survived", "lost"))
                print(f"{title}: {tried} tried, {survived} survived, {lost} lost", flush=True)
        finally:
            print(f"runs: {folder}") if given.keep else shutil.rmtree(folder, ignore_errors=True)
    if given.results == RESULTS:
        page.PAGE.write_text(page.page())
        print(f"wrote {page.PAGE.name}")


if __name__ == "__main__":
    main()
