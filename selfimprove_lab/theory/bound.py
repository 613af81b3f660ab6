"""Notebook 03: test Lemma 4.1, that the exact objective lies below the approximate one; where it is tight, and why it is loose."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from selfimprove import losses
from selfimprove_lab.theory import exact
from selfimprove_lab.theory.checks import Check
from selfimprove_lab.theory.mixture import PointWorld
from selfimprove_lab.theory.objective import make_game

# decreasing but not convex: the lemma has no reason to hold for this link, and the test must see it fail
SIGMOID = losses.LinkFunction(
    "sigmoid", lambda x: torch.sigmoid(-x), lambda x: -torch.sigmoid(x) * torch.sigmoid(-x), satisfies_assumption=False
)
LINKS: tuple[losses.LinkFunction, ...] = (*losses.LINKS.values(), SIGMOID)


def gaps(
    count: int,
    totals: Sequence[int] = (1, 5, 20, 100),
    etas: Sequence[float] = (0.0, 0.5, 1.0),
    distances: Sequence[float] = (0.02, 0.25, 1.0),
    beta_per_step: float = 20.0,
    flow: PointWorld | None = None,
) -> pd.DataFrame:
    """Return (4.9) less (4.8), example by example, for every T, eta, distance of theta from theta_k, and link.

    beta_t is `beta_per_step / |h_t|`, a function of t between the constant and the proof's; on a flow what an error of the velocity moves
    a step by stands for h_t. There is one row per case: the means of both objectives, the smallest, mean and largest gap, the largest
    absolute argument of the link, and the mean over examples of its variance over t.
    """
    rows = []
    for total in totals:
        for eta in etas:
            for distance in distances:
                game = make_game(eta, count, steps=total, distance=distance, flow=flow)
                with torch.no_grad():
                    errors = exact.path_errors(game)
                moves = [max(abs(exact.output_move(game.world, s)), 1e-6) for s in game.real.steps]
                weights = beta_per_step / torch.tensor(moves, dtype=torch.float64)[:, None]
                bracket = (errors.player_real - errors.opponent_real) - (errors.player_generated - errors.opponent_generated)
                arguments = -weights * 2 * bracket  # (T, B); 2 dimensions, convention "paper"
                for link in LINKS:
                    inner = losses.spin_exact(*errors, weights, "paper", 2, link).loss
                    outer = torch.stack([
                        losses.spin(*losses.Errors(*(e[i] for e in errors)), float(weights[i]), "paper", 2, link).loss for i in range(total)
                    ]).mean(0)  # fmt: skip
                    gap = outer - inner
                    rows.append({
                        "T": total, "eta": eta, "distance": distance, "link": link.name, "exact": float(inner.mean()),
                        "approximate": float(outer.mean()), "smallest gap": float(gap.min()), "gap": float(gap.mean()),
                        "largest gap": float(gap.max()),
                        "largest argument": float(arguments.abs().max()),
                        "variance over t": float(arguments.var(0, unbiased=False).mean()),
                    })  # fmt: skip
    return pd.DataFrame(rows)


def cost_table(path: str) -> pd.DataFrame:
    """Return what one gradient of either objective costs on the embedded UNet, as `make benchmarks` measured it."""
    measured = json.loads(Path(path).read_text())
    table = pd.DataFrame(measured["rows"]).set_index(["form", "T"]).round(1)
    made = measured["provenance"]
    table.attrs["made"] = f"{measured['examples']} examples; {made['machine']}; torch {made['versions']['torch']}; {made['time'][:10]}"
    return table


def checks(table: pd.DataFrame) -> list[Check]:
    """Return what the notebook asserts."""
    convex = table[table["link"] != SIGMOID.name]
    correlation, sigmoid = (table[table["link"] == name] for name in ("correlation", SIGMOID.name))
    hinge_near = table[(table["link"] == "hinge") & (table["largest argument"] < 1)]
    logistic = table[(table["link"] == "logistic") & (table["T"] > 1)]
    near = logistic[logistic["largest argument"] < 1]
    ratio = near["gap"] / (near["variance over t"] / 8)  # l''(0) / 2 = 1/8
    return [
        Check("Lemma 4.1: (4.8) <= (4.9), every example, convex link, T, sigma, theta", "smallest gap",
              convex["smallest gap"].min(), ">=", -1e-10),
        Check("equality at T = 1", "largest |gap|", convex[convex["T"] == 1]["largest gap"].abs().max(), "<=", 1e-10),
        Check("equality for the correlation link, always", "largest |gap|", correlation["largest gap"].abs().max(), "<=", 1e-8),
        Check("equality for the hinge while all arguments stay below 1", "largest |gap|",
              hinge_near["largest gap"].abs().max() if len(hinge_near) else float("nan"), "<=", 1e-10),
        Check("strict for the logistic link at T > 1", "smallest mean gap", logistic["gap"].min(), ">=", 1e-12),
        Check("near theta_k the gap is l''(0)/2 times the bracket's variance over t", "largest |ratio - 1|",
              float((ratio - 1).abs().max()) if len(near) else float("nan"), "<=", 0.2),
        Check("a link that is not convex breaks it: the check can fail", "smallest gap", sigmoid["smallest gap"].min(), "<=", -1e-3),
    ]  # fmt: skip
