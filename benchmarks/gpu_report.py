"""What `benchmarks.gpu` writes: one JSON with every number, one tar with every file, whole at any moment."""

import json
import re
import statistics
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LIMIT = 16 * 2**20  # bytes of the tar


def write_json(path: Path, content: Any) -> None:
    """Write beside, then rename: a reader never sees half a file."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content, indent=1, default=str) + "\n")
    unfinished.rename(path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return what a file of JSON lines holds so far; a last line without its end is left for later."""
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def pack(folder: Path, target: Path, limit: int = LIMIT) -> dict[str, Any]:
    """Write the folder's files into a compressed tar of at most `limit` bytes; the largest are left out until it is.

    Returns:
        `files` and `bytes` of the tar, and the names `left_out`.
    """
    files, left_out = sorted((p for p in folder.rglob("*") if p.is_file()), key=lambda p: (p.stat().st_size, str(p))), []
    unfinished = target.with_suffix(".unfinished")
    while True:
        with tarfile.open(unfinished, "w:gz", compresslevel=6) as tar:
            for path in files:
                tar.add(path, path.relative_to(folder))
        if (size := unfinished.stat().st_size) <= limit or not files:
            unfinished.rename(target)
            return {"files": len(files), "bytes": size, "left_out": left_out}
        left_out.append(str(files.pop().relative_to(folder)))


class Report:
    """The JSON's content and the tar's files, exported together into `out` as gpu.json and gpu.tar.gz."""

    def __init__(self, out: Path, files: Path, manifest: dict[str, Any]) -> None:
        self.out, self.files = out, files
        self.content: dict[str, Any] = {"manifest": manifest, "parts": {}, "speed": [], "ratios": {}, "tests": {}, "arms": []}
        out.mkdir(parents=True, exist_ok=True)
        files.mkdir(parents=True, exist_ok=True)
        self.export()

    def export(self) -> None:
        """Write both files as things stand."""
        self.content["tar"] = pack(self.files, self.out / "gpu.tar.gz")
        write_json(self.out / "gpu.json", self.content)

    def add_speed(self, measured: Sequence[dict[str, Any]], estimates: Sequence[dict[str, Any]]) -> None:
        """Take in the cases timed so far and what was counted of them."""
        self.content["speed"] = [with_counts(row, estimates) for row in measured]
        self.content["ratios"] = ratios(self.content["speed"])


def peak_of(card: str, peaks: Mapping[str, tuple[float, int]]) -> float | None:
    """FLOP/s in bf16 of a card by its name, of `planning.plan.PEAKS`; None where it is not known."""
    for name, (peak, _) in peaks.items():
        if any(word in card for word in re.findall(r"[A-Z]?\d{3,4}", name)):
            return peak
    return None


def flops_per_unit(row: Mapping[str, Any], flops: Mapping[str, float]) -> float:
    """FLOPs that one pair (training) or one image (rollouts) asks for; the text encoder, below a hundredth, is left out.

    A pair is two latents through the player and, unless its errors are kept, the opponent; in the naive form its two images are encoded.
    """
    if row["kind"] == "sampling":
        return float(row["forwards_per_image"] * flops["forward"] + flops["decode"])
    opponent = 0 if row["form"].endswith("opponent kept") else flops["forward"]
    encoded = flops["encode"] if row["form"].startswith("naive") else 0
    return 2 * (flops["step"] + opponent + encoded)


def with_counts(row: dict[str, Any], estimates: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Add to a timed case its median, its speed, the share of the card's peak, and the plan's memory."""
    row = dict(row)
    if not row.get("seconds"):
        return row
    row["median_seconds"] = statistics.median(row["seconds"])
    row["per_second"] = row["units"] / row["median_seconds"]
    counted = {(e["case"], e["form"]): e for e in estimates if "flops" in e}
    own = counted.get((row["case"], row["form"])) or counted.get((row["case"], "ours"))
    if own is None:
        return row
    row["flops_per_unit"] = flops_per_unit(row, own["flops"])
    row["flops_per_second"] = row["flops_per_unit"] * row["per_second"]
    row["share_of_peak"] = row["flops_per_second"] / row["card_peak"] if row["card_peak"] else None
    if row["form"].startswith("ours"):
        row["plan_bytes"] = own["plan_bytes"]
        row["peak_over_plan"] = row["peak_bytes"] / own["plan_bytes"] if row["peak_bytes"] else None
    return row


def ratios(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """{case: {other form: how many times as many pairs or images per second our form computes}}."""
    ours = {row["case"]: row["per_second"] for row in rows if row["form"] == "ours" and "per_second" in row}
    others = [row for row in rows if row["form"] != "ours" and "per_second" in row and row["case"] in ours]
    return {case: {r["form"]: ours[case] / r["per_second"] for r in others if r["case"] == case} for case in ours}
