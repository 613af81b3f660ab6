"""Count what became of every fault, and keep the counts, one group of faults after the other."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "book" / "results" / "faults.json"
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "pyarrow")
SAME, REFUSED, UNUSED, TRACEBACK, LOST = "same", "refused", "unused", "traceback", "lost"


@dataclass
class Row:
    """One kind of fault: how often it was tried, and what became of the run.

    `same`: played to the end, and every data file is what an undisturbed run has. `refused`: stopped with one line that names the file or
    the round. `unused`: went on without the damaged file, and everything made afterwards is what an undisturbed run has. `traceback`:
    stopped, but with a traceback where one line belongs. `lost`: ended well with something else than an undisturbed run has, or hung.
    """

    what: str
    tried: int = 0
    same: int = 0
    refused: int = 0
    unused: int = 0
    traceback: int = 0
    lost: int = 0
    notes: list[str] = field(default_factory=list)

    def count(self, outcome: str, note: str = "") -> None:
        """Count one trial."""
        self.tried += 1
        setattr(self, outcome, getattr(self, outcome) + 1)
        if outcome in (TRACEBACK, LOST) and note and note not in self.notes:
            self.notes.append(note)

    @property
    def survived(self) -> int:
        """Return how often nothing was lost and what stopped was said in words."""
        return self.same + self.refused + self.unused


def manifest() -> dict[str, Any]:
    """Return when, where, of which revision and with which versions faults were tried."""
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "revision": git.stdout.strip() or "unknown",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def read(path: Path = RESULTS) -> dict[str, Any]:
    """Return the groups that have been exported: {name: {"rows", "times", "seed", "seconds", "manifest"}}."""
    return json.loads(path.read_text()) if path.exists() else {}


def export(name: str, title: str, play: Callable[[], Iterable[Row]], times: int, seed: int, path: Path = RESULTS) -> list[Row]:
    """Try a group of faults and add its rows to the results, which are replaced whole."""
    about, start = manifest(), time.perf_counter()
    rows = list(play())
    groups = read(path)
    groups[name] = {
        "title": title, "times": times, "seed": seed, "seconds": round(time.perf_counter() - start), "manifest": about,
        "rows": [asdict(row) for row in rows],
    }  # fmt: skip
    unfinished = path.with_suffix(".unfinished")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished.write_text(json.dumps(groups, indent=1) + "\n")
    unfinished.replace(path)
    return rows
