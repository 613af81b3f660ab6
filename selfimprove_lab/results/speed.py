"""Read what `make bench` and `benchmarks/gpu.sh` measured, as tables for readers; what has not been measured says so, with its command."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from selfimprove.planning.plan import unit

CPU, GPU = "`make bench`", "`OUT=book/results bash benchmarks/gpu.sh`"
OUTSIDE = 0.1  # share of a run's seconds that may pass outside the networks
WITHIN = 0.1  # share by which memory may differ from the plan, and growth exceed that of the captions
AIMS = {  # (case, form beside ours) of benchmarks/gpu_networks -> what readers call it, ratios aimed at on a CPU and on a GPU
    ("all weights", "naive"): ("training step against Diffusion-DPO's", 2.0, 2.0),
    ("adapter", "naive"): ("training step with LoRA against diffusers' script", 1.5, 1.5),
    ("rollouts", "naive, float32"): ("rollout against a pipeline's call at its defaults, in float32", 1.2, 1.5),
    ("rollouts", "naive"): ("rollout against the same call in our precision", 1.2, 1.5),
}


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def speed_table(results: str | Path) -> pd.DataFrame:
    """Return how many times as fast our form is, in pairs of turns, with the 95 % interval; a row per comparison, precision and device."""
    measured = {(r["case"], r["against"], r["precision"]): r for r in _read(Path(results) / "speed_cpu.json") or []}
    card, rows = _read(Path(results) / "gpu.json"), []
    for (case, against), (what, on_cpu, on_gpu) in AIMS.items():
        for precision in ("bf16",) if case == "rollouts" else ("bf16", "no"):
            found = measured.get((case, against, precision), {})
            named = "float32" if precision == "no" else precision
            rows.append({"measured": what, "on": f"CPU, {named}", "aim": on_cpu} | _turns(found))
        ratio = (card or {}).get("ratios", {}).get(case, {}).get(against)
        said = {"times as fast": f"{ratio:.2f}", "of": "medians of steps"} if ratio else {"times as fast": f"not measured: {GPU}"}
        rows.append({"measured": what, "on": "GPU, bf16", "aim": on_gpu, "reached": _verdict(ratio, ratio, ratio, on_gpu)} | said)
    return pd.DataFrame(rows).set_index(["measured", "on"]).fillna("")


def _turns(found: dict[str, Any]) -> dict[str, Any]:
    if "ratio" not in found:
        return {"times as fast": f"not measured: {found.get('left_out') or CPU}", "reached": ""}
    low, high, pairs = found["low"], found["high"], len(found["ratios"])
    ours, theirs = (
        " of ".join(f"{np.median([turn[of] for turn in found[form]]):.0f} s" for of in ("processor", "seconds"))
        for form in ("ours", "naive")
    )
    return {
        "times as fast": f"{found['ratio']:.2f}" + (f" [{low:.2f}, {high:.2f}]" if pairs > 1 else ""),
        "reached": _verdict(found["ratio"], low, high, found["aim"]),
        "of": f"{pairs} pairs of turns" if pairs > 1 else "one pair of turns",
        "ours, of the clock": ours, "theirs, of the clock": theirs, "load": f"{found['load'][0]:.0f}",
    }  # fmt: skip


def _verdict(ratio: float | None, low: float | None, high: float | None, aim: float) -> str:
    """Say whether an aim is reached: by the whole interval or, where there is none, by the ratio."""
    if ratio is None:
        return ""
    if (ratio if low is None else low) >= aim:
        return "met"
    return f"missed by {1 - ratio / aim:.0%}" if (ratio if high is None else high) < aim else "open"


def share_table(results: str | Path) -> pd.DataFrame:
    """Return the share of a card's peak that steps and rollouts reach, of which 45 % is the aim."""
    card = _read(Path(results) / "gpu.json") or {"speed": []}
    found = {row["case"]: row.get("share_of_peak") for row in card["speed"] if row["form"] == "ours"}
    cells = {
        case: f"{share:.0%}" if (share := found.get(case)) else f"not measured: {GPU}" for case in ("all weights", "adapter", "rollouts")
    }
    return pd.DataFrame({"share of the card's peak": cells, "aim": "45 %"}).rename_axis("case")


def memory_beside_plan(results: str | Path) -> pd.DataFrame:
    """Return the peak of a process's memory in every measured case beside the plan's.

    Of the run at true size it is the private memory, less what the process held before it loaded anything. Some hundred megabytes of that
    were code, which is not private: the true ratio is higher by a few hundredths.
    """
    rows = []
    whole = _read(Path(results) / "real_size_cpu.json")
    for stage in whole["stages"] if whole else ():
        if stage.get("planned_bytes"):
            own = stage["private_bytes"] - whole["libraries_bytes"]
            rows.append({"case": f"the run, {stage['stage']}", "measured": own, "plan": stage["planned_bytes"]})
    for path in sorted(Path(results).glob("training_memory_*.json")):
        for case in json.loads(path.read_text())["cases"]:
            device = path.stem.rpartition("_")[2]
            rows.append(
                {
                    "case": f"embedded model, {device}: {case['case']}",
                    "measured": 1e6 * case["measured_mb"],
                    "plan": 1e6 * case["estimate_mb"],
                }
            )
    card = _read(Path(results) / "gpu.json") or {"speed": []}
    rows += [
        {"case": f"GPU: {r['case']}, {r['form']}", "measured": r["peak_bytes"], "plan": r["plan_bytes"]}
        for r in card["speed"]
        if r.get("peak_bytes") and r.get("plan_bytes")
    ]
    table = pd.DataFrame(rows).set_index("case")
    ratio = table["measured"] / table["plan"]
    table["measured / plan"], table["aim"] = ratio.map("{:.2f}".format), f"within {WITHIN:.0%}"
    table["reached"] = ["met" if abs(r - 1) <= WITHIN else f"missed by {abs(r - 1) - WITHIN:.0%} of the plan" for r in ratio]
    for column in ("measured", "plan"):
        table[column] = [f"{unit(float(size))}B" for size in table[column]]
    return table


def stages_table(results: str | Path) -> pd.DataFrame:
    """Return what every stage of the run at true size took, seconds of the processor and memory, beside what the plan said."""
    whole = _read(Path(results) / "real_size_cpu.json")
    if not whole:
        return pd.DataFrame({"stage": [], "not measured": []})
    rows = [
        {
            "stage": stage["stage"],
            "seconds": round(stage["processor_seconds"], 1),
            "planned seconds": round(stage["planned_seconds"], 1) if "planned_seconds" in stage else "",
            "peak": f"{unit(float(stage['peak_bytes']))}B",
            "of it private": f"{unit(float(stage['private_bytes']))}B",
            "planned, beside libraries": f"{unit(float(stage['planned_bytes']))}B" if stage.get("planned_bytes") else "",
        }
        for stage in whole["stages"]
    ]
    return pd.DataFrame(rows).set_index("stage")


def stages_sentence(results: str | Path) -> str:
    """Say with what, where and when the run at true size was made."""
    whole = _read(Path(results) / "real_size_cpu.json")
    if not whole:
        return "Not measured yet: `make bench`."
    made, used = whole["provenance"], sum(stage["processor_seconds"] for stage in whole["stages"])
    return (
        f"{whole['images']} images, {whole['settings']['steps']} training steps: {used / 60:.1f} min of one thread of {made['machine']}, "
        f"{whole['seconds'] / 60:.0f} min of the clock beside other work (load {whole['load'][0]:.0f}); "
        f"libraries alone hold {unit(float(whole['libraries_bytes']))}B; {made['time']}; git {made['git'][:10]}."
    )


def captions_table(results: str | Path) -> pd.DataFrame:
    """Return what runs of 500, 5,000 and 50,000 captions cost beside their networks, and what share of the whole that is."""
    found = _read(Path(results) / "captions.json")
    if not found:
        return pd.DataFrame({"captions": [], "not measured": []})
    rows = [
        {
            "captions": f"{row['captions']:,}",
            "set-up, s": round(row["set_up_seconds"], 1),
            "outside the networks, s": round(row["seconds"], 1),
            "a caption, ms": round(1000 * row["seconds"] / row["captions"], 2),
            "peak memory, with mapped files": f"{unit(float(row['peak_bytes']))}B",
            "private memory at the end": f"{unit(float(row['private_bytes']))}B",
            "written": f"{unit(float(row['bytes']))}B",
            "share, embedded model": f"{row['seconds'] / (row['seconds'] + row['embedded_network_seconds']):.1%}",
            "share, Stable Diffusion 1.5 on an H100": f"{row['seconds'] / (row['seconds'] + row['sd15_network_seconds']):.1%}",
        }
        for row in found["rows"]
    ]
    return pd.DataFrame(rows).set_index("captions")


def captions_aims(results: str | Path) -> pd.DataFrame:
    """Return what runs of more and more captions were to keep to, what they did, and by how much an aim is missed."""
    found = (_read(Path(results) / "captions.json") or {}).get("rows", [])
    rows = []
    for less, more in pairwise(found):
        step, name = (1 + WITHIN) * more["captions"] / less["captions"], f"from {less['captions']:,} to {more['captions']:,} captions"
        for what, column, most in (
            ("set-up", "set_up_seconds", step), ("seconds outside the networks", "seconds", step), ("bytes written", "bytes", step),
            ("private memory at the end", "private_bytes", 1 + WITHIN),
        ):  # fmt: skip
            grew = more[column] / less[column]
            reached = "met" if grew <= most else f"missed by {grew / most - 1:.0%}"
            rows.append({"measured": what, "over": name, "aim": f"at most {most:.3g} x", "found": f"{grew:.2f} x", "reached": reached})
    for row in found:
        share = row["seconds"] / (row["seconds"] + row["sd15_network_seconds"])
        reached = "met" if share <= OUTSIDE else f"missed by {share - OUTSIDE:.0%}"
        said = {"measured": "share outside, Stable Diffusion 1.5 on an H100", "over": f"{row['captions']:,} captions"}
        rows.append(said | {"aim": f"at most {OUTSIDE:.0%}", "found": f"{share:.1%}", "reached": reached})
    columns = ["measured", "over", "aim", "found", "reached"]
    return pd.DataFrame(rows, columns=columns).set_index(["measured", "over"])


def named(root: Path) -> dict[str, str]:
    """Return the numbers that the page on speed names: what grows between the smallest and the largest number of captions."""
    rows = (_read(root / "captions.json") or {}).get("rows", [])
    if not rows:
        return {}
    few, many = rows[0], rows[-1]
    grown = {name: many[name] - few[name] for name in ("captions", "peak_bytes", "private_bytes", "bytes")}
    return {
        "speed_captions_few": f"{few['captions']:,}",
        "speed_captions_many": f"{many['captions']:,}",
        "speed_grown_peak": f"{unit(float(grown['peak_bytes']))}B",
        "speed_grown_mapped": f"{unit(float(grown['peak_bytes'] - grown['private_bytes']))}B",
        "speed_grown_written": f"{unit(float(grown['bytes']))}B",
        "speed_grown_private": f"{unit(float(grown['private_bytes']))}B",
        "speed_private_each": f"{grown['private_bytes'] / grown['captions'] / 1e3:.1f} kB",
    }


def scorers_table(results: str | Path) -> pd.DataFrame:
    """Return images a second of our scorers, beside their authors' packages where these were measured."""
    ours = _read(Path(results) / "scorer_speed.json") or {"rows": []}
    theirs = _read(Path(results) / "scorer_speed_originals.json") or {}
    rows = []
    for row in ours["rows"]:
        if row["family"] == "published":
            other = theirs.get(row["scorer"])
            rows.append(
                {
                    "scorer": row["scorer"],
                    "device": row["device"],
                    "ours, images a second": row["images_per_second"],
                    "its author's package": other or "not measured: `make scorer-parity` makes the environment",
                    "aim": "at least 1 x",
                }
            )
    return pd.DataFrame(rows).set_index(["scorer", "device"])
