"""Put a comparison of one's own models beside a published table."""

from collections.abc import Mapping

import pandas as pd

from selfimprove.evaluation.aggregate import RAW, Rule
from selfimprove.evaluation.protocol import SamplingProtocol
from selfimprove_lab.published import AVERAGE, VERSION, load_table
from selfimprove_lab.published.beside import Beside, beside

COLUMNS = {  # score -> what the papers' tables call it
    "hpsv2": "HPS", "hpsv2.1": "HPS", "aesthetic": "Aesthetic", "imagereward": "ImageReward", "pickscore": "PickScore", "clip": "CLIP",
    RAW: AVERAGE,
}  # fmt: skip
STATISTICS = {"mean": ("low", "high"), "median": ("median_low", "median_high"), "win_rate": ("win_low", "win_high")}


def own_beside(
    table_id: str,
    comparison: pd.DataFrame | None,
    protocol: SamplingProtocol | None,
    rule: Rule,
    rows: Mapping[str, str] | None = None,
    statistic: str = "mean",
    commands: Mapping[str, str] | None = None,
    force: bool = False,
) -> Beside:
    """Return a published table with one's own numbers in it; the header names every difference of protocol.

    `comparison` is of `aggregate.comparison`, or None if nothing has been run; `protocol` is that of its baseline. `rows` maps an own model
    to a row of the table, where the names differ. `statistic` is "mean", "median" or "win_rate" (shown in per cent).

    Raises:
        ValueError: there is no such table or statistic, or `beside` refuses, as with HPSv2.1 in a column of HPSv2.
    """
    if statistic not in STATISTICS:
        raise ValueError(f"statistic={statistic!r} is not in the published tables; choose one of {list(STATISTICS)}")
    table = load_table(table_id)
    if comparison is None or protocol is None:
        nothing = pd.DataFrame(index=pd.Index([], dtype=object))
        return beside(table, nothing, dict.fromkeys(table.protocol), commands, force)
    named = comparison[comparison[statistic].notna()].assign(column=lambda t: t["score"].map(COLUMNS))
    named = named[named["column"].isin(table.printed.columns)]
    factor = 100 if statistic == "win_rate" else 1
    bounds = [statistic, *STATISTICS[statistic]]
    cells = [tuple(factor * row) for row in named[bounds].to_numpy(dtype=float)]
    results = named.assign(cell=cells, row=named["model"].map(lambda m: (rows or {}).get(m, m))).pivot(
        index="row", columns="column", values="cell"
    )
    return beside(table, results, table.protocol | _stated(protocol, rule, statistic), commands, force)


def _stated(protocol: SamplingProtocol, rule: Rule, statistic: str) -> dict[str, object]:
    """Return what a run says about the fields that published tables have."""
    stated: dict[str, object] = {
        "prompt set": protocol.prompts, "prompts": protocol.n_prompts, "images per prompt": protocol.images, "aggregation": rule.header(),
        "statistic": f"{statistic} over prompts", "guidance": protocol.guidance, "sampler": protocol.sampler, "steps": protocol.steps,
        "seed": f"stateless, {protocol.noise_seed}", "precision": protocol.precision, "safety checker": protocol.safety_checker,
        "base model": protocol.model, "ties": "half",
    }  # fmt: skip
    return stated | {COLUMNS[name] + VERSION: version for name, version in protocol.scorers.items() if name in COLUMNS}
