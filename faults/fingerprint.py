"""Tell two run folders apart by what they hold: tensors, tables, pictures, and what manifests say of players and files."""

import hashlib
import json
from pathlib import Path
from typing import Any

# the holder's name, a drawing of what the tables hold, what has been set aside, and what only a longer training reads (torch names the
# inside of its archives after their temporary files)
ASIDE = ("lock", "summary.png", "training.damaged.pt", "training.pt")
PASSING = ("seconds", "provenance", "mark", "run")  # differ between any two runs
Prints = dict[str, str]


def fingerprints(run: Path) -> Prints:
    """Return a hash of what every file of a run folder holds; the curves of tensorboard, the lock and the drawing are left out."""
    files = (path for path in sorted(run.rglob("*")) if path.is_file() and "tensorboard" not in path.parts)
    return {str(path.relative_to(run)): _print(path) for path in files if path.name not in ASIDE}


def _print(path: Path) -> str:
    content = path.read_bytes()
    try:
        if path.name in ("manifest.json", "run.json"):
            content = json.dumps(_lasting(json.loads(content)), sort_keys=True).encode()
        elif path.suffix == ".safetensors":  # the order of the header's entries varies, what they say does not
            size = 8 + int.from_bytes(content[:8], "little")
            content = json.dumps(json.loads(content[8:size]), sort_keys=True).encode() + content[size:]
    except (ValueError, KeyError, AttributeError):
        pass  # damaged: as it is
    return hashlib.sha256(content).hexdigest()[:16]


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _lasting(entry) for name, entry in value.items() if name not in PASSING}
    return value


def differing(wanted: Prints, found: Prints, but: str = "") -> list[str]:
    """Return the names of files that only one of two folders has or that differ; those beginning with `but` are left out."""
    names = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    return [name for name in names if not (but and name.startswith(but))]
