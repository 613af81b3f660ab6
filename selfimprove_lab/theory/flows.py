"""Notebook 14: write diffusion and flow matching as one path; compute what objectives, weights and beta become on a flow."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from diffusers import DDIMScheduler
from diffusers.training_utils import compute_loss_weighting_for_sd3

from selfimprove import losses
from selfimprove.config import ErrorIn, Settings, TimeWeight
from selfimprove.models.paths import path_of
from selfimprove.schedule import density
from selfimprove_lab.theory import bound, exact, self_play
from selfimprove_lab.theory.checks import Check
from selfimprove_lab.theory.mixture import flow_schedule, kl_divergence
from selfimprove_lab.theory.own_noise import PAIRINGS
from selfimprove_lab.theory.worlds import DIMENSIONS, data_mixture, flow_world, point_world, texts

SD3_TIMES = replace(Settings(), time_density="logit-normal", time_shift=3.0)
ERRORS: dict[str, ErrorIn] = {"eps": "epsilon", "likelihood": "likelihood", "velocity": "velocity", "x_0": "x0"}
EULER = "SPIN, Euler"  # the arm that is beta 1.5 with fresh noise
LAMBDAS: dict[str, TimeWeight] = {"1": "one", "a^2 / b^2": "snr", "1 / b^2": "inverse-variance"}


def same_image(count: int = 256, steps: int = 8) -> pd.DataFrame:
    """Draw by DDIM on a diffusion, and by Euler on a flow through the same ratios a / b; return one row per state.

    x_t / (a + b) lies on the flow at s = b / (a + b). `difference` is the largest between the two samplers there.
    """
    diffusion, flow, text = point_world(100), flow_world(), texts(flow_world(), count)
    (model, velocity), plan = (data_mixture(world.schedule) for world in (diffusion, flow)), diffusion.schedule.steps(steps)
    states = [(v**0.5, w**0.5) for v, w in ((plan[0].alpha, plan[0].variance), *((s.alpha_next, s.variance_next) for s in plan))]
    shares, differences = [b / (a + b) for a, b in states], [0.0]
    x = torch.randn(count, DIMENSIONS, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = x / sum(states[0])
    for step, s, s_next, (a, b) in zip(plan, shares, shares[1:], states[1:], strict=False):
        euler = flow.schedule.step(1000 * s, 1000 * s_next)
        with torch.no_grad():
            x = diffusion.schedule.reverse(x, model(x, step.t, text).sample, step).mean
            y = flow.schedule.reverse(y, velocity(y, euler.t, text).sample, euler).mean
        differences.append(float((x / (a + b) - y).abs().max()))
    return pd.DataFrame(states, columns=["a", "b"]).assign(s=shares, difference=differences)


def euler_moves(steps: int = 8) -> pd.DataFrame:
    """Return, for each Euler step, s, h_t, and what an error in the velocity moves the step by."""
    world = flow_world()
    return pd.DataFrame([
        {"s": step.variance**0.5, "s'": step.variance_next**0.5, "h_t": step.h if step.alpha else -math.inf,
         "of velocity": exact.output_move(world, step)} for step in world.schedule.steps(steps)
    ])  # fmt: skip


def weights(sigmas: Sequence[float]) -> pd.DataFrame:
    """Return the weight of `|v_hat - v|^2` at each s, for errors in eps, the velocity and x_0, and for the likelihood."""
    schedule = flow_schedule()
    t = schedule.time(torch.tensor(sigmas, dtype=torch.float64))
    return pd.DataFrame({name: schedule.error_scale(t, error).numpy() for name, error in ERRORS.items()}, index=pd.Index(sigmas, name="s"))


def likelihood(count: int, levels: int = 64) -> pd.DataFrame:
    """Compare KL(p || q) of two mixtures with the mean of their velocities' squared distance, for each weight of `weights`.

    On the path of p the weight of the likelihood gives the divergence itself (Kingma et al. 2021). The mean is over s, by midpoints.
    """
    schedule = flow_schedule()
    p, q, text = data_mixture(schedule), data_mixture(schedule, 0.3, 1.2), texts(flow_world(), count)
    divergence, error = kl_divergence(p, q, text.repeat(20, 1, 1), torch.Generator().manual_seed(0))
    generator, middles = torch.Generator().manual_seed(1), (torch.arange(levels, dtype=torch.float64) + 0.5) / levels
    clean, totals = p.sample(text, generator), dict.fromkeys(ERRORS, 0.0)
    for t in schedule.time(middles).double():
        times = t.expand(count)
        noisy = schedule.add_noise(clean, torch.randn(clean.shape, dtype=torch.float64, generator=generator), times)
        with torch.no_grad():
            apart = DIMENSIONS * losses.squared_error(p(noisy, times, text).sample, q(noisy, times, text).sample)
        for name, kind in ERRORS.items():
            totals[name] += float((schedule.error_scale(times, kind) * apart).mean()) / levels
    return pd.DataFrame([{"weight": name, "mean": v, "KL": divergence, "error": error} for name, v in totals.items()]).set_index("weight")


def sft_weights(sigmas: Sequence[float]) -> pd.DataFrame:
    """Return what RSIDiff's (6) by lambda_t, and diffusers' scripts for Stable Diffusion 3, weigh `|v_hat - v|^2` by at each s.

    The scripts compare x_t - s v_hat with x_0, so that s^2 is in front of what `compute_loss_weighting_for_sd3` returns.
    """
    schedule, s = flow_schedule(), torch.tensor(sigmas, dtype=torch.float64)
    t = schedule.time(s)
    alpha, variance = schedule.powers(t)
    errors, one = schedule.error_scale(t, "epsilon"), torch.ones_like(s)
    table = {f"RSIDiff (6), lambda = {n}": losses.weighted_denoising(errors, one, alpha, w, variance).loss for n, w in LAMBDAS.items()}
    for scheme in ("logit_normal", "sigma_sqrt"):
        table[f"diffusers, {scheme}"] = variance * compute_loss_weighting_for_sd3(scheme, variance.sqrt())
    return pd.DataFrame({name: v.numpy() for name, v in table.items()}, index=pd.Index(sigmas, name="s"))


def sd3_times(count: int = 100_000) -> torch.Tensor:
    """Return s at equally spaced quantiles of the times at which Stable Diffusion 3 is trained: logit-normal, shift 3."""
    return density((torch.arange(count, dtype=torch.float64) + 0.5) / count, SD3_TIMES)


def beta_table(beta: float = 2000.0, quantiles: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95)) -> pd.DataFrame:
    """Return where `beta` on errors in eps goes if errors are of the velocity, over the times of SD 1.5 and of SD3.

    Rows are quantiles of training times, and the mean of beta over them. SD 1.5's s is that of the same ratio a / b, s = b / (a + b).
    """
    scheduler = DDIMScheduler(1000, 0.00085, 0.012, "scaled_linear")
    alpha, variance = path_of(scheduler, torch.device("cpu"), torch.float64).powers(torch.arange(1000))
    of_times = {"SD 1.5": variance.sqrt() / (alpha.sqrt() + variance.sqrt()), "SD3": sd3_times()}
    rows: dict[str, list[float]] = {}
    for name, s in of_times.items():
        at = s.quantile(torch.tensor(quantiles, dtype=torch.float64))
        scale = [flow_schedule().error_scale(flow_schedule().time(part), "epsilon") for part in (at, s)]
        rows[f"s, {name}"] = [*at.tolist(), float(s.mean())]
        rows[f"beta, {name}"] = [*(beta * scale[0]).tolist(), beta * float(scale[1].mean())]
    return pd.DataFrame(rows, index=pd.Index([*(f"{q:.0%}" for q in quantiles), "mean"], name="quantile of time"))


def paired(played: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Return, by round, how much nearer to the data the samples of arm `first` are than those of `second`, in nats.

    Points are paired by seed and initial noise. `seeds ahead` counts the seeds in which the first arm is nearer.
    """
    rows = []
    for index, part in played.groupby("round"):
        terms = [part[part["arm"] == arm].set_index("seed")["terms"] for arm in (first, second)]
        nearer = [terms[1][seed] - terms[0][seed] for seed in terms[0].index]
        every = np.concatenate(nearer)
        rows.append({"round": index, "nearer by": every.mean(), "error": every.std() / math.sqrt(len(every)),
                     "seeds ahead": sum(float(n.mean()) > 0 for n in nearer)})  # fmt: skip
    return pd.DataFrame(rows).set_index("round")


def checks_of_weights(
    same: pd.DataFrame, moves: pd.DataFrame, weights: pd.DataFrame, divergence: pd.DataFrame, sft: pd.DataFrame, betas: pd.DataFrame
) -> list[Check]:
    """Return what the notebook asserts of paths, weights and beta."""
    s = weights.index.to_numpy()
    wanted = {"eps": (1 - s) ** 2, "likelihood": (1 - s) / s, "velocity": np.ones_like(s), "x_0": s**2}
    largest = max(float(np.abs(weights[name] / value - 1).max()) for name, value in wanted.items())
    s = sft.index.to_numpy()
    one, snr, inverse, plain, cancelled = (sft[name].to_numpy() for name in sft)
    ratio = divergence["mean"] / divergence["KL"]
    return [
        Check("DDIM and Euler draw one image through the same a / b", "largest difference", same["difference"].max(), "<=", 1e-8),
        Check("an error in velocity moves an Euler step by the step's length", "largest difference",
              (moves["of velocity"] - (moves["s'"] - moves["s"])).abs().max(), "<=", 1e-12),
        Check("weights of the velocity: eps (1-s)^2, likelihood (1-s)/s, x_0 s^2", "largest relative difference", largest, "<=", 1e-4),
        Check("weighted by (1-s)/s, the velocities' distance is the divergence", "|ratio - 1|", abs(ratio["likelihood"] - 1), "<=", 0.03),
        Check("and not by any other weight", "smallest |ratio - 1|", (ratio.drop("likelihood") - 1).abs().min(), ">=", 0.1),
        Check("(6) with lambda 1/s^2 is plain flow matching", "largest difference", np.abs(inverse - 1).max(), "<=", 1e-5),
        Check("with lambda 1 it is diffusers' loss for SD3, s^2", "largest difference",
              max(np.abs(one - s**2).max(), np.abs(plain - one).max()), "<=", 1e-5),
        Check("with the SNR it is the error in eps", "largest difference", np.abs(snr - (1 - s) ** 2).max(), "<=", 1e-5),
        Check("diffusers' 'sigma_sqrt' turns s^2 into 1", "largest difference", np.abs(cancelled - 1).max(), "<=", 1e-5),
        Check("half of SD3's training has s above .75, where beta 2000 is 125", "|median beta - 125|",
              abs(betas.loc["50%", "beta, SD3"] - 125), "<=", 1),
    ]  # fmt: skip


def checks_of_objectives(forms: pd.DataFrame, decoupled: pd.DataFrame, gaps: pd.DataFrame, agreement: pd.DataFrame) -> list[Check]:
    """Return what chapters 2 to 4 assert of diffusions, asked of flows."""
    return [
        Check("(C.3) and (C.4) hold with h_t from (C.2)", "largest relative difference", forms["derived"].max(), "<=", 1e-8),
        Check("(C.5) equals (4.9) at sigma = 0", "largest difference of an example", decoupled.iloc[0]["largest"], "<=", 1e-10),
        *bound.checks(gaps),
        Check("(5.1) is the gradient, for every link", "largest difference", agreement["largest difference"].max(), "<=", 1e-10),
        Check("and that gradient is not nothing", "smallest norm", agreement["norm"].min(), ">=", 1e-3),
    ]  # fmt: skip


def checks_of_play(played: pd.DataFrame, chords: pd.Series, left: pd.DataFrame) -> list[Check]:
    """Return what the notebook asserts of self-play on flows, and of the opponent's own noise."""
    fresh, own = (left.loc[PAIRINGS[pairing]] for pairing in ("fresh", "own"))
    last = played[played["round"] == played["round"].max()].groupby("arm")["denoiser"].mean()
    end = paired(played, self_play.FRESH_LOW, "SFT, Euler").iloc[-1]
    high, low = (paired(played, *arms).loc[3] for arms in ((self_play.OWN_HIGH, EULER), (self_play.OWN_LOW, self_play.FRESH_LOW)))
    best = paired(played, self_play.OWN_HIGH, self_play.FRESH_LOW).iloc[-1]
    return [
        Check("the opponent's velocities sum to e' - x'_0", "largest difference", chords["left"], "<=", 1e-10),
        Check("its paths are bent", "root mean square distance from the chord", chords["bend"], ">=", 0.05),
        Check("a model that is the data: fresh noise leaves no pushing", "|squared norm| less 5 s.e.",
              abs(fresh["squared norm"]) - 5 * fresh["error"], "<=", 0),
        Check("own noise leaves some", "squared norm less 4 s.e.", own["squared norm"] - 4 * own["error"], ">=", 0),
        Check("on flows too, self-play's samples end nearer to p_data than SFT's", "nearer by, less 2 s.e., nats",
              end["nearer by"] - 2 * end["error"], ">=", 0),
        Check("on the own path it ends where SFT does, at the best denoiser", "its denoiser's distance over fresh noise's",
              last[self_play.OWN_PATH] / last[EULER], "<=", 0.5),
        Check("beta 1.5: own noise is ahead of fresh noise after three rounds", "nearer by, less 2 s.e., nats",
              high["nearer by"] - 2 * high["error"], ">=", 0),
        Check("beta 0.4: it is behind after three", "nearer by, plus 2 s.e., nats", low["nearer by"] + 2 * low["error"], "<=", 0),
        Check("each at its better beta, neither ends ahead", "|nearer by| less 5 s.e., nats",
              abs(best["nearer by"]) - 5 * best["error"], "<=", 0),
    ]  # fmt: skip
