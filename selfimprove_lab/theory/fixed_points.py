"""Notebook 05: find where self-play stops. Theorems 5.2 and 5.3 are about two objectives.

The practical objective stops where the sampler's output, not the denoiser, agrees with the data.
"""

import copy
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from selfimprove import losses
from selfimprove.rollout import rollout
from selfimprove_lab.theory.checks import Check
from selfimprove_lab.theory.gradient import pretrained_opponent
from selfimprove_lab.theory.worlds import Batch, data_mixture, empty_text, ids, point_world, texts

ALPHA = 0.5  # alpha of the one-dimensional counterexample's only step
OPPONENT = (1 - math.sqrt(ALPHA)) / math.sqrt(1 - ALPHA)  # eps_k(x) = OPPONENT * x: one DDIM step maps N(0, 1) to itself
BEST = math.sqrt(1 - ALPHA)  # eps*(x) = BEST * x for data N(0, 1)


def counterexample(samples: int, slopes: Sequence[float], scales: Sequence[float], seed: int = 0) -> pd.DataFrame:
    """Return the objective less l(0) for players eps(x) = slope * x against eps_k, on the own path and in practical form.

    T = 1 and the data are N(0, 1); p_k = p_data although eps_k is not eps*. `scale` is beta_t h_t^2. Rows are means over `samples` with
    standard errors. All players have the same draws.
    """
    generator = torch.Generator().manual_seed(seed)
    clean, eps, start, fake_eps = torch.randn(4, samples, dtype=torch.float64, generator=generator)
    noisy = math.sqrt(ALPHA) * clean + BEST * eps
    fake = (start - BEST * OPPONENT * start) / math.sqrt(ALPHA)  # one DDIM step: x'_0
    forward = math.sqrt(ALPHA) * fake + BEST * fake_eps
    sides = {"own path": (start, OPPONENT * start), "practical": (forward, fake_eps)}
    rows = []
    for form, (points, target) in sides.items():
        for slope in slopes:
            real = [(eps - s * noisy).square() for s in (slope, OPPONENT)]
            generated = [(target - s * points).square() for s in (slope, OPPONENT)]
            for scale in scales:
                excess = losses.spin(real[0], generated[0], real[1], generated[1], scale, "paper", 1).loss - math.log(2)
                rows.append({"form": form, "slope": slope, "scale": scale, "excess": float(excess.mean()),
                             "error": float(excess.std() / math.sqrt(samples))})  # fmt: skip
    return pd.DataFrame(rows)


def directions(
    count: int, sources: Sequence[str] = ("p_data", "elsewhere"), number: int = 20, beta: float = 5.0, seed: int = 0
) -> pd.DataFrame:
    """Test Theorem 5.3 with opponents of any kind: does a player near them do better?

    x'_0 comes from p_data exactly, or, as a control, from elsewhere. For each opponent there are `number` random directions, and the
    objective's own descent direction, found on another batch, in steps of several sizes. There is one row per source, opponent, kind of
    direction and size: the practical objective less l(0), with its standard error.
    """
    world = point_world(50)
    data, text = data_mixture(world.schedule), texts(world, count)
    laws = {"p_data": data, "elsewhere": data_mixture(world.schedule, 0.5, 1.5)}
    opponents: dict[str, nn.Module] = {
        "exact": data, "another mixture": data_mixture(world.schedule, 0.5, 1.4),
        "small network": pretrained_opponent(world, 300),
    }  # fmt: skip
    rows = []
    for source in sources:
        generator = torch.Generator().manual_seed(seed)
        search, batch = (
            Batch.make(world, data.sample(text, generator), laws[source].sample(text, generator), text, generator) for _ in range(2)
        )
        for name, opponent in opponents.items():
            with torch.no_grad():
                reference = batch.errors(opponent)
            down = _descent(opponent, search, beta)
            moves = [("random", 10 ** (-2 + 1.5 * k / number), _random_like(opponent, generator)) for k in range(number)]
            moves += [("descent", size, down) for size in (0.003, 0.01, 0.03, 0.1, 0.3)]
            for kind, size, direction in moves:
                player = copy.deepcopy(opponent)
                with torch.no_grad():
                    for parameter, move in zip(player.parameters(), direction, strict=True):
                        parameter += size * move
                    excess = losses.spin(*batch.errors(player), *reference, beta, "paper", 2).loss - math.log(2)
                rows.append({"source": source, "opponent": name, "direction": kind, "size": size, "excess": float(excess.mean()),
                             "error": float(excess.std() / math.sqrt(count))})  # fmt: skip
    return pd.DataFrame(rows).assign(ratio=lambda table: table["excess"] / table["error"])


def _random_like(model: nn.Module, generator: torch.Generator) -> list[Tensor]:
    return [torch.randn(p.shape, dtype=torch.float64, generator=generator) for p in model.parameters()]


def _descent(opponent: nn.Module, batch: Batch, beta: float) -> list[Tensor]:
    """Return the unit vector along which the practical objective falls fastest from theta_k."""
    player = copy.deepcopy(opponent)
    loss = batch.spin(player, opponent, beta).loss.mean()
    gradient = torch.autograd.grad(loss, list(player.parameters()))
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradient))
    return [-g / norm for g in gradient]


def gradient_left(counts: Sequence[int], samples: int, parts: int = 20, seed: int = 0) -> pd.DataFrame:
    """Return the practical objective's gradient at theta_k = the exact p_data mixture, against the sampler's number of steps n.

    Only the sampler's discretisation, its start at N(0, I) included, can cause this gradient. Its squared norm over the mixture's
    parameters is estimated without bias from `parts` independent batches of `samples` (the mean of products of different batches), with a
    jackknife standard error. The last row, n = inf, has exact samples; there the norm should vanish.
    """
    world = point_world(100)
    data, text = data_mixture(world.schedule), texts(world, samples)
    parameters = list(data.parameters())
    rows = []
    for n in [*counts, math.inf]:
        gradients = []
        for part in range(parts):
            generator = torch.Generator().manual_seed(seed * 1000 + part)
            if math.isinf(n):
                generated = data.sample(text, torch.Generator().manual_seed(90_000 + part))
            else:
                generated = rollout(
                    world, data, text, empty_text(world), ids(samples), seed * 1000 + part, "left", 0, None if n == 100 else int(n), 1.0
                )
            batch = Batch.make(world, data.sample(text, generator), generated, text, generator)
            loss = batch.spin(data, data, 1.0).loss.mean()
            gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
        value, error = products_and_error(torch.stack(gradients))
        rows.append({"n": n, "squared norm": value, "error": error})
    return pd.DataFrame(rows)


def products_and_error(gradients: Tensor) -> tuple[float, float]:
    """Return the squared norm of the mean gradient, from independent batches' gradients (parts, p), and its jackknife standard error."""
    parts, products = len(gradients), gradients @ gradients.T
    left_out = [_between(products, [i for i in range(parts) if i != j]) for j in range(parts)]
    return _between(products, list(range(parts))), math.sqrt((parts - 1) * float(np.var(left_out)))


def _between(products: Tensor, chosen: list[int]) -> float:
    block = products[chosen][:, chosen]
    count = len(chosen)
    return float((block.sum() - block.trace()) / (count * (count - 1)))


def checks(line: pd.DataFrame, directions: pd.DataFrame, left: pd.DataFrame, played: pd.DataFrame, guided: float) -> list[Check]:
    """Return what the notebook asserts; `guided` is the distance of the exact denoiser's samples at guidance 2, in nats."""
    moving = line[(line["scale"] > 0) & ~np.isclose(line["slope"], OPPONENT)]
    own, practical = moving[moving["form"] == "own path"], moving[moving["form"] == "practical"]
    best = own[np.isclose(own["slope"], BEST)].sort_values("scale")
    small, large = best.iloc[0], best.iloc[-1]
    from_data, control = (directions[directions["source"] == source] for source in ("p_data", "elsewhere"))
    descents = control[control["direction"] == "descent"].groupby("opponent")["ratio"].min()
    first, last, exact = left.iloc[0], left.iloc[-2], left.iloc[-1]
    ends = played[played["round"] == played["round"].max()].set_index(["arm", "seed"])
    spin, sft = ends.loc["SPIN, reachable"], ends.loc["SFT, reachable"]
    nearer = np.concatenate([spin["terms"][seed] - sft["terms"][seed] for seed in spin.index])
    error = nearer.std() / math.sqrt(len(nearer))
    return [
        Check("counterexample, own path: eps* beats eps_k for a small s (Theorem 5.2)", "excess plus 5 s.e.",
              small["excess"] + 5 * small["error"], "<=", 0),
        Check("the same eps* at a large s does not", "excess less 5 s.e.", large["excess"] - 5 * large["error"], ">=", 0),
        Check("counterexample, practical form: no player and no s does better", "smallest excess plus 5 s.e.",
              float((practical["excess"] + 5 * practical["error"]).min()), ">=", 0),
        Check("Theorem 5.3: x'_0 from p_data, any eps_k: no direction improves", "smallest excess, s.e.",
              float(from_data["ratio"].min()), ">=", -5),
        Check("x'_0 from elsewhere: the descent direction improves on every eps_k", "largest of the least excesses, s.e.",
              float(descents.max()), "<=", -5),
        Check("a sampler of few steps leaves a gradient though eps_k = eps*", "squared norm less 5 s.e.",
              first["squared norm"] - 5 * first["error"], ">=", 0),
        Check("which falls with the number of steps", "last over first", last["squared norm"] / first["squared norm"], "<=", 0.2),
        Check("and is gone where x'_0 is drawn exactly", "|squared norm| less 5 s.e.",
              abs(exact["squared norm"]) - 5 * exact["error"], "<=", 0),
        Check("reachable family: self-play's samples end nearer to p_data than SFT's", "paired KL difference plus 2 s.e., nats",
              float(nearer.mean() + 2 * error), "<=", 0),
        Check("and its denoiser ends farther from eps*", "eps distance of SPIN over SFT's",
              float(spin["denoiser"].mean() / sft["denoiser"].mean()), ">=", 1),
        Check("with guidance in the rollout self-play undoes more than half of what guidance 2 does to the exact denoiser's samples",
              "KL of the worst seed over the exact denoiser's",
              float(ends.loc["SPIN, reachable, guidance 2"]["samples"].max() / guided), "<=", 0.5),
    ]  # fmt: skip
