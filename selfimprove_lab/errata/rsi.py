"""List what does not hold in RSIDiff's printed formulas and sentences, and what they leave open, with the evidence."""

import torch
from diffusers import DDPMScheduler

from selfimprove import losses
from selfimprove.models.paths import DiffusionSchedule
from selfimprove.recursion import weighting
from selfimprove_lab.errata.erratum import Erratum
from selfimprove_lab.published import load_table
from selfimprove_lab.results.shrinkage import expected_conventions

LATENT, SCALING_FACTOR = (4, 64, 64), 0.18215  # of Stable Diffusion 1.x
BETA, SIGMA2 = 35.0, 2.0  # section 4.1
SCALES = (0.0, 0.5, 1.0, 1.5)
PROMPTS = (1633, 3200)  # of PartiPrompts and of the HPS test, section 4.1
IMAGES = 10  # per prompt, section 4.1


def _conventions() -> str:
    apart = expected_conventions(LATENT, SCALING_FACTOR)["distance"]
    edges = weighting.Edges(BETA, SIGMA2)
    weights = weighting.weights(torch.tensor(apart.to_numpy()), edges)
    said = "; ".join(f"`{name}` {d:.3g}, weight {float(w):.2f}" for (name, d), w in zip(apart.items(), weights, strict=True))
    return (
        "distance of two unrelated latents of unit variance and Stable Diffusion's shape, and the weight that (5) gives it, by how the "
        f"distance is taken: {said}"
    )


def _shrinking() -> str:
    generator = torch.Generator().manual_seed(0)
    references, samples = (torch.randn(count, 4, 16, 16, generator=generator) for count in (256, 64))
    scaled = torch.cat([scale * samples for scale in SCALES])
    result = weighting.weigh(scaled, [f"s{i}" for i in range(len(scaled))], references, [str(i) for i in range(len(references))])
    found = zip(SCALES, result.distance.chunk(len(SCALES)), result.weight.chunk(len(SCALES)), strict=True)
    said = "; ".join(f"times {scale:g}, distance {float(d.mean()):.0f}, weight {float(w.mean()):.2f}" for scale, d, w in found)
    return (
        f"normal latents of unit variance and {references[0].numel():,} dimensions, beta the distance within which nine in ten of the "
        f"references lie: {said}"
    )


def _time_weight() -> str:
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    schedule = DiffusionSchedule(scheduler, torch.device("cpu"), torch.float64)
    one = torch.ones(2, dtype=torch.float64)
    alpha = torch.tensor([schedule.alpha(len(schedule) - 1), schedule.alpha(0)], dtype=torch.float64)
    noisiest, clearest = (float(value) for value in losses.weighted_denoising(one, one, alpha, "one").loss)
    return (
        "the same error in the noise counts, with lambda_t = 1 on Stable Diffusion's schedule, "
        f"{noisiest:.0f} at the noisiest level and {clearest:.2g} at the clearest; with the signal-to-noise ratio, 1 at both"
    )


def _divisor() -> str:
    weight = weighting.weights(torch.full((8,), BETA + SIGMA2), weighting.Edges(BETA, SIGMA2)).double()
    error = torch.linspace(0.5, 2, 8, dtype=torch.float64)
    loss = losses.weighted_denoising(error, weight, torch.full_like(error, 0.5)).loss
    by_count, by_weights = float(loss.mean() / error.mean()), float(loss.sum() / weight.sum() / error.mean())
    return (
        f"of samples that all lie {SIGMA2:g} beyond beta, (6) is {by_count:.2f} times the loss without weights; "
        f"divided by the sum of the weights it is {by_weights:.2f} times that loss"
    )


def _pairs() -> str:
    images, prompts = 5000, 5000  # drawn in a round, one for every prompt: section 4.1
    return (
        f"with {prompts:,} prompts and an image of each, the sum has {images * prompts:,} terms and is divided by {images:,}; "
        f"{images:,} of its terms pair an image with its own prompt"
    )


def _drawn() -> str:
    rounds, kept, drawn, fine_tuning = 4, 300, 5000, 5000  # section 4.1, and 4.2 for SFT
    return (
        f"by section 4.1 a round draws {drawn:,} images and keeps {kept}: {rounds} rounds train on {rounds * kept:,} and have drawn "
        f"{rounds * drawn:,}; SFT drew {fine_tuning:,}"
    )


def _shares() -> str:
    table = load_table("rsidiff/1").values["Visual appeal"]
    lead = {model: 2 * share - 100 for model, share in table.items()}
    said = "; ".join(
        f"over {model} {share:g} % of the answers, if none was a tie {lead[model]:.1f} points" for model, share in table.items()
    )
    return f"table 1: {said}"


RSI = (
    Erratum(
        "(5): which distance",
        "$d(s,\\mathcal D_0)$ is \"a distance metric\" (section 3.4), the mean of the distances in the autoencoder's latents (4.1); "
        "$\\beta=35$, $\\sigma^2=2$",
        "norm, scaling and reduction over the latent's dimensions; $\\beta$ has no meaning without them",
        _conventions,
        "Yes: the same $\\beta$ keeps everything or nothing. Here the convention is named, or $\\beta$ calibrated on the base's own "
        "images ([](../executed/10_ablations)).",
        left_open=True,
    ),
    Erratum(
        "(5): what it cannot see",
        "samples within the main distribution have weight 1, and weights fall away from it",
        "a mean distance to many references is at most the root of the mean square distance, which is least at their average (the mean "
        "distance itself is least at their geometric median); what shrinks towards the average keeps weight 1 where that root is no more "
        "than $\\beta$",
        _shrinking,
        "Yes: latents near the mean latent count in full, {prf:ref}`prop-mean-distance` ([](../executed/09_collapse)).",
    ),
    Erratum(
        "(3), (4), (6): the time weight",
        "$\\lambda_t$ is \"a time-dependent weighting factor\"",
        "the weight itself",
        _time_weight,
        "Yes, to whoever repeats it. Here it is the signal-to-noise ratio, which leaves the plain error in the noise "
        "({prf:ref}`prop-clean-error`), and 1 is an option.",
        left_open=True,
    ),
    Erratum(
        "(6): what it divides by",
        "$1/|\\mathcal S|$",
        "whether weights say only which samples count, $1/\\sum_sw_s$, or also how far the round goes, as printed",
        _divisor,
        "It depends on the optimiser, which is not named: gradient descent takes shorter steps, Adam divides a common factor out again. "
        "Both are options here.",
        left_open=True,
    ),
    Erratum(
        "(3), (4), (6): the sum",
        "over $x_0\\in\\mathcal D,c\\in\\mathcal P$, divided by $|\\mathcal D|$, or by $|\\mathcal S|$",
        "over the images, each with the prompt that it was drawn for",
        _pairs,
        "No: what is meant is plain. As printed most terms would pair an image with a prompt of another.",
    ),
    Erratum(
        "(1) against (3), (4), (6)",
        "$f=\\min_\\theta\\dots$",
        "$f=\\arg\\min_\\theta\\dots$",
        "(1) sets $\\theta_{i+1}=f(\\theta_i,\\mathcal D_i,\\mathcal P_i)$; a minimum is a number, not parameters",
        "No: what is meant is plain.",
    ),
    Erratum(
        "Section 6.2",
        "$\\beta$ and $\\sigma$ \"as defined in Eq. (4)\"",
        "(5)",
        "(4) is the loss on the selected samples and has neither; (5) has both",
        "No.",
    ),
    Erratum(
        "Section 4.1: images per round",
        "4,8330",
        "48,330",
        lambda: f"{' and '.join(f'{n:,}' for n in PROMPTS)} prompts, {IMAGES} images each: {IMAGES * sum(PROMPTS):,}",
        "No.",
    ),
    Erratum(
        "Section 4.2: 1,200 samples",
        "better than SFT after round 4, \"using only 1,200 samples, significantly fewer than the scale of the SFT training set\"",
        "1,200 images trained on, chosen from many more that were drawn and scored",
        _drawn,
        "To whoever counts costs: in images drawn the method is not the cheaper one.",
    ),
    Erratum(
        "Section 4.2: the user study",
        "outperforms the base model \"by 69.0%\", an improvement \"by 59.8%\" over SFT",
        "these are shares of answers, not differences",
        _shares,
        "To whoever quotes them.",
    ),
)  # fmt: skip
