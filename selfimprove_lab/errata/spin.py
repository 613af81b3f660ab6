"""List what does not hold in SPIN-Diffusion's printed formulas and sentences, and what they leave open, with the evidence."""

import math

import torch

from selfimprove import losses
from selfimprove.presets import get_preset
from selfimprove.train import learning_rate
from selfimprove_lab.errata.erratum import Erratum
from selfimprove_lab.published import AVERAGE, load_table
from selfimprove_lab.theory import exact, fixed_points, objective, uniqueness
from selfimprove_lab.theory.worlds import point_world


def _below(value: float, bound: float) -> str:
    return f"below {bound:g}" if value < bound else f"{value:.2g}"


def _h() -> str:
    table = objective.noise_form(8)
    printed = table["as extracted"]
    errors = f"{_below(table['derived'].max(), 1e-10)} as derived, {printed.min():.2g} to {printed.max():.0f} as printed"
    return (
        "largest relative error of the noise form against the means, over t, examples, three values of eta, and the real and the "
        f"opponent's side: {errors}"
    )


def _whose_point() -> str:
    game = objective.make_game(0.0, 64)
    worst = {"own": 0.0, "other": math.inf}
    with torch.no_grad():
        for index, step in enumerate(game.generated.steps):
            target = game.opponent(game.generated.states[index], step.t, game.text).sample
            direct = exact.path_error(game.world, game.player, game.generated, index, game.text)
            for name, points in (("own", game.generated.states[index]), ("other", game.real.states[index])):
                form = step.h**2 * losses.squared_error(target, game.player(points, step.t, game.text).sample)
                error = float(((form - direct).abs() / direct).max())
                worst[name] = max(worst[name], error) if name == "own" else min(worst[name], error)
    return (
        f"largest relative error over examples: {_below(worst['own'], 1e-10)} with x'_t, {worst['other']:.2g} or more at every t with x_t"
    )


def _last_sigma() -> str:
    world = point_world(10)
    last = world.schedule.steps(eta=1.0)[-1]
    return (
        f"alpha_0 = {last.alpha_next:g}, so 1 - alpha_0 - sigma_1^2 >= 0 leaves sigma_1 = {last.sigma:g} alone, where (4.7) divides by "
        "sigma_1^2 and lambda T / (2 sigma_1^2) is infinite"
    )


def _roots() -> str:
    clean, noise = torch.randn(2, 2_000_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with_roots, without = (float((a * clean + b * noise).var()) for a, b in ((0.5**0.5, 0.5**0.5), (0.5, 0.5)))
    return f"variance of x_t at alpha_t = 1/2 for data of variance 1: {with_roots:.2f} with the roots, as in q; {without:.2f} without"


def _start() -> str:
    value = float(losses.get_link("logistic").value(torch.zeros(1, dtype=torch.float64)))
    return f"every margin is 0 at theta = theta_k, and the logistic link is {value:.4f} there"


def _no_better() -> str:
    scales = (0.1, 1.0, 10.0)
    largest = fixed_points.counterexample(1000, [fixed_points.OPPONENT], scales)["excess"].abs().max()
    said = f"{largest:g} for s = {', '.join(f'{s:g}' for s in scales)}"
    return f"theta* = theta_k fulfils it as printed, also where theta_k is not optimal; g(s) - l(0) is then {said}, not below 0"


def _two_theorems() -> str:
    table = fixed_points.counterexample(100_000, [fixed_points.BEST], [0.3])
    own, practical = (table[table["form"] == form].iloc[0] for form in ("own path", "practical"))
    values = [f"{form['excess']:+.4f} ± {2 * form['error']:.4f}" for form in (own, practical)]
    return (
        "one dimension and one step; the opponent draws exactly the data's law, and its denoiser is not the best one. Theorem 5.2 says "
        "that something then beats the opponent, 5.3 that nothing does. The objective at the best denoiser less that at the opponent is "
        f"{values[0]} on the opponent's own path, {values[1]} in practical form (two standard errors)"
    )


def _not_unique() -> str:
    table = uniqueness.flat_players([1.0])
    found = "; ".join(f"{name} {_small(value)}" for name, value in zip(table["case"], table["excess"], strict=True) if "point" not in name)
    return f"one dimension, samples with the data's law, a player at distance 1 from theta_k, its objective less l(0): {found}"


def _small(value: float) -> str:
    return "0 to rounding" if abs(value) < uniqueness.FLAT else f"{value:.3f}"


def _vanishing_sigma() -> str:
    step = point_world(10).schedule.steps(eta=1.0)[4]
    prices = (f"{2 * step.sigma**2 * share**2 / 10:.2g}" for share in (1, 0.1, 0.01))  # lambda = 2 sigma^2 beta / T, T = 10 and beta = 1
    return (
        f"at one step of a schedule of 10, beta_t = 1, and eta of 1, 0.1 and 0.01, lambda = 2 sigma_t^2 beta_t / T is {', '.join(prices)}"
    )


def _other_prompts() -> str:
    said = []
    for number in (7, 8, 9, 10):
        average = load_table(f"spin-diffusion/{number}").values[AVERAGE]
        said.append(f"table {number} {average['SPIN round 1']:g} against {average['DPO']:g}")
    return f"average of round 1 against that of the DPO in the table: {'; '.join(said)}"


def _warm_up() -> str:
    settings = get_preset("sd15-spin").for_round(1)
    reached = max(learning_rate(settings, step, settings.steps) for step in range(settings.steps))
    share = f"{reached:.1e} at most, {reached / settings.lr:.0%} of the one stated"
    return f"with {settings.warmup} warm-up steps, {settings.steps} steps reach a learning rate of {share}"


def _plateau() -> str:
    batch, chosen, saved, warm_up, plateau = 512, 2000, 500, 500, 50_000  # appendices A.1 and A.4
    return (
        f"by A.1 the chosen checkpoint has seen {chosen:,} steps of {batch}, {chosen * batch:,} images, and the first that was saved "
        f"{saved * batch:,}; {plateau:,} are {plateau / batch:.0f} steps, {plateau / batch / warm_up:.0%} of the warm-up"
    )


def _averages() -> str:
    said = {"SFT": (20.8, 0.270, 5.6, 8.9), "SPIN": (21.2, 0.272, 5.9, 9.1)}  # appendix A.4: PickScore, HPS, Aesthetic, "average score"
    parts = [f"{name} {sum(v[:3]) / 3:.2f} where {v[3]} is printed" for name, v in said.items()]
    reward = min(4 * v[3] - sum(v[:3]) for v in said.values())
    largest = load_table("spin-diffusion/1").values["ImageReward"].max()
    return (
        f"mean of A.4's three other scores: {'; '.join(parts)}; as a fourth, ImageReward would have to be {reward:.1f} or more, where the "
        f"largest of table 1 is {largest:.2f}"
    )


def _lower(ours: str, theirs: str) -> str:
    printed = load_table("spin-diffusion/1").values.drop(columns=AVERAGE)
    pairs = ((name, printed.loc[ours, name], printed.loc[theirs, name]) for name in printed)
    return "; ".join(f"{name} {a:g} against {b:g}" for name, a, b in pairs if a < b)


SPIN = (
    Erratum(
        "(C.3), (C.4), (C.5)",
        "$h_t$ ends in $\\sqrt{1-\\alpha_{t-1}}$",
        "$h_t=\\sqrt{1-\\alpha_{t-1}-\\sigma_t^2}-\\sqrt{\\alpha_{t-1}/\\alpha_t}\\,\\sqrt{1-\\alpha_t}$",
        _h,
        "Only to whoever computes $h_t$. Code that folds $\\beta_th_t^2$ into one constant never does.",
    ),
    Erratum(
        "(C.4): whose point",
        "the player is evaluated at $x_t$",
        "at $x'_t$, the opponent's point",
        _whose_point,
        "No: code evaluates it at $x'_t$.",
    ),
    Erratum(
        "(4.4) against (4.5)",
        "(4.4) has $p_\\theta(x_{1:T}\\mid c)$; (4.5) and (4.6), which follow from it, have $x_{0:T}$",
        "$x_{0:T}$, if the sum in (4.8) is to begin at $t=1$",
        "page 6; of the factors in (4.7) only that of $t=1$ holds $x_0$, so with $x_{1:T}$ the test function would not see the image",
        "To the derivation: with $x_{1:T}$ the last step, where (4.7) is singular, drops out, and {prf:ref}`prop-exact` is stated so.",
    ),
    Erratum(
        "(4.7), (4.8) at the last step",
        "every step has a density and a finite $\\beta_t$",
        "$\\sigma_1=0$, so (4.7) is singular at $t=1$, and $\\beta_1$ of (4.8) infinite if tied to it",
        _last_sigma,
        "Code chooses $\\beta$ apart from $\\sigma$; here both are named.",
    ),
    Erratum(
        "Last display of C.3",
        "$x_t=\\alpha_tx_0+(1-\\alpha_t)\\epsilon$",
        "$x_t=\\sqrt{\\alpha_t}\\,x_0+\\sqrt{1-\\alpha_t}\\,\\epsilon$",
        _roots,
        "No: everywhere else it has the roots.",
    ),
    Erratum(
        "(5.1), called (D.3)",
        "pages 7 and 8 find reweighting, matching and pushing in (D.3)",
        "in (5.1)",
        "(D.3), page 26, is the derivative of $g$ at 0 in the proof of Theorem 5.2 and has no such parts; (5.1) names them",
        "No.",
    ),
    Erratum(
        "(D.2)",
        "some $\\theta^*$ has $L_{\\rm DSM}(\\theta^*)\\le L_{\\rm DSM}(\\theta_k)$",
        "$<$",
        _no_better,
        "No: if $\\theta_k$ is not a global optimum, as assumed, some $\\theta^*$ has less.",
    ),
    Erratum(
        "Proof of Theorem 5.2",
        "$g(0)=0$",
        "$g(0)=\\ell(0)$",
        _start,
        "No: the proof needs that $g$ falls from there, and it does.",
    ),
    Erratum(
        "Theorems 5.2 and 5.3",
        "both about (4.9), with $p_{\\theta_k}(\\cdot\\mid c)=p_{\\rm data}(\\cdot\\mid c)$ in 5.3",
        "5.2 is proved on the opponent's own path, 5.3 in the practical, forward-noised form. On one objective they contradict each other "
        "if the equation is about the law of the image $x_0$, which is how this book reads it. If it is about the law of whole paths, as "
        "section 4's words allow, both hold on the own path",
        _two_theorems,
        "Yes: the fixed point of what is trained is that the *sampler's output* has the data's law, not that "
        "$\\epsilon_\\theta=\\epsilon^*$ ([](../executed/05_fixed_points)).",
    ),
    Erratum(
        "Theorem 5.3: for any penalty",
        "$\\theta_k$ is the global minimum of (4.9) for any $\\lambda\\ge0$",
        "for any $\\beta_t$ and any $\\sigma_t$, which is what the proof shows",
        "page 8; (4.9) has $\\beta_t$ and no $\\lambda$, which could enter only through $\\sigma_t^2=\\lambda T/(2\\beta_t)$; nor has "
        "the proof, pages 26 and 27",
        "No. The proof of Theorem 5.2, page 26, writes $\\lambda$ as well where it means $s$.",
    ),
    Erratum(
        "The only global optimum",
        '"$\\theta_k$ is the only global optimum of our objective" (Limitations); "as a consequence, $\\theta_{k+1}=\\theta_k$" (last line '
        "of the proof of Theorem 5.3)",
        "$\\theta_k$ is *a* global optimum; the only one if the link is strictly convex, the two sides are independent, and the noise is "
        "not determined by $x_t$",
        _not_unique,
        "Yes, in two cases: the correlation link, which assumption 5.1 allows, and noise that both sides share, as released code does "
        "({prf:ref}`prop-unique`).",
    ),
    Erratum(
        "(4.8) as $\\sigma_t\\to0$",
        '(4.8) "remains valid for deterministic generation processes as $\\sigma_t\\to0$"',
        "(4.8) can be computed there, but it is no longer the game's objective: the laws of two deterministic samplers' paths have no "
        "common density, and the likelihood ratio does not exist",
        _vanishing_sigma,
        "To the derivation: at a fixed $\\beta_t$ the price $\\lambda$ goes to 0 with $\\sigma_t^2$.",
    ),
    Erratum(
        "Settings of round 1",
        "200 warm-up steps, 50 steps in round 1",
        "whether the warm-up is counted from the start of each round, and if so how long it is: as printed the round ends inside it",
        _warm_up,
        "Yes, to whoever repeats it: say whether the warm-up is counted from each round's start.",
        left_open=True,
    ),
    Erratum(
        "Where SFT stops",
        "SFT stops improving after about 50k samples (A.4); its best checkpoint is that of step 2000 (A.1)",
        "which run figure 7 shows: if it is A.1's, the chosen checkpoint lies twenty times as far on as the end of the improvement",
        _plateau,
        "Yes, to whoever takes 50k for SFT's limit.",
        left_open=True,
    ),
    Erratum(
        "Figures 5 and 7",
        "an average score of 8.9 to 9.1",
        "the mean of three scores, without ImageReward; the tables average four",
        _averages,
        "Only to whoever compares them: table 1's averages are near 7.",
    ),
    Erratum(
        "Figure 3's caption",
        "SPIN-Diffusion outperforms SFT at iteration 1, and all the baselines after iteration 2",
        "on Aesthetic and PickScore, yes; on HPS, and in round 1 on ImageReward, no",
        lambda: (
            f"round 1 against SFT: {_lower('SPIN round 1', 'SFT')}; round 2 against DPO (reproduced): "
            f"{_lower('SPIN round 2', 'DPO (reproduced)')}"
        ),
        "Little: the abstract and section 6.2 claim less for round 1, and what they claim holds.",
    ),
    Erratum(
        "Table 1 and DPO",
        "exceeds the RLHF-based methods across all metrics by the second iteration",
        "the released DPO model, yes; the authors' own reproduction of DPO, not on HPS",
        lambda: "round 2 against DPO (reproduced): " + _lower("SPIN round 2", "DPO (reproduced)"),
        "The difference is small.",
    ),
    Erratum(
        "Appendix A.3: the first iteration",
        'on PartiPrompts and HPSv2 "comparable ... with Diffusion DPO (reproduced)", and "surpasses other baseline models at the first '
        'iteration"',
        "tables 7 to 10 have no row of the reproduction, and the DPO that they have is above round 1",
        _other_prompts,
        "To whoever compares first rounds on these prompts.",
    ),
    Erratum(
        "Appendix A.3: which tables",
        'results on both prompt sets "are shown in Table 7 and 8"; SFT of adapters "in Figure 11"',
        "HPSv2 is in tables 9 and 10; adapters are in table 11",
        "tables 7 and 8 are captioned PartiPrompts, 9 and 10 HPSv2; figure 11 shows images of five prompts",
        "No.",
    ),
    Erratum(
        "Figure 1's caption",
        'both panels are win rates "over SD1.5 checkpoint"',
        "the right one is over Diffusion-DPO (reproduced)",
        "the right panel's own title says so, and SD-1.5 is among its bars",
        "No.",
    ),
)
