"""Define a world in closed form: conditional Gaussian mixtures, whose noised density, score and best denoiser are exact.

A point of d numbers is a latent of shape (d, 1, 1), and a condition is a one-hot "text" of shape (1, conditions). The zero text is the
empty caption, the mixture over all conditions. Rollouts, losses and training therefore take these denoisers as they take a UNet.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from jaxtyping import Float, Float64, Int
from scipy.spatial import cKDTree
from scipy.special import digamma
from torch import Tensor, nn

from selfimprove.models.paths import DiffusionSchedule, FlowSchedule
from selfimprove.schedule import Schedule


def cosine_schedule(steps: int, last_alpha: float = 0.01, dtype: torch.dtype = torch.float64) -> Schedule:
    """Return a schedule of `steps` steps, cosine-shaped in sqrt(alpha), from alpha near 1 to `last_alpha`, ending in the image itself.

    Raises:
        ValueError: there are no steps, or last_alpha lies outside (0, 1).
    """
    if steps < 1:
        raise ValueError(f"steps={steps} (T) must be at least 1; give a schedule of at least one step")
    if not 0 < last_alpha < 1:
        raise ValueError(f"last_alpha={last_alpha!r} must lie between 0 and 1, both excluded")
    angle = np.arange(1, steps + 1) / steps * math.acos(math.sqrt(last_alpha))
    alphas = np.cos(angle) ** 2
    betas = 1 - alphas / np.concatenate([[1.0], alphas[:-1]])
    scheduler = DDIMScheduler(steps, trained_betas=betas.tolist(), clip_sample=False, set_alpha_to_one=True)
    scheduler.alphas_cumprod = torch.tensor(alphas, dtype=torch.float64)
    return DiffusionSchedule(scheduler, torch.device("cpu"), dtype)


def flow_schedule(shift: float = 1.0, dtype: torch.dtype = torch.float64) -> Schedule:
    """Return a flow's schedule, whose sampling times are shifted towards noise."""
    return FlowSchedule(FlowMatchEulerDiscreteScheduler(shift=shift), torch.device("cpu"), dtype)


@dataclass(frozen=True)
class PointWorld:
    """The space of points of d numbers: what `rollout` needs beside a denoiser."""

    schedule: Schedule
    dimensions: int
    conditions: int

    @property
    def device(self) -> torch.device:
        """Return the device of the schedule."""
        return self.schedule.device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Return (d, 1, 1)."""
        return self.dimensions, 1, 1

    def embed(self, conditions: Int[Tensor, " b"]) -> Float[Tensor, "b 1 conditions"]:
        """Return the one-hot texts of condition numbers; -1 is the empty caption."""
        table = torch.eye(self.conditions + 1, self.conditions, dtype=self.schedule.dtype)  # the last row is zero: the empty caption
        return table[conditions][:, None, :]


def _times(timestep: Any, sample: Tensor) -> Tensor:
    """Return one time per point; a float keeps its digits."""
    return torch.as_tensor(timestep, dtype=torch.float64 if isinstance(timestep, float) else None).expand(len(sample))


class Mixture(nn.Module):
    """The mixture p(x | c) = sum_k w_ck N(x; m_ck, S_ck), trainable, with the exact eps*(x_t, t, c) as its denoiser.

    Args:
        schedule: gives alpha_t to the denoiser.
        weights: (C, K), positive; each row is normalised.
        means: (C, K, d).
        factors: (C, K, d, d), matrices F with S = F F^T; each S must be positive definite.

    Raises:
        ValueError: weights are not positive, a covariance is singular, or values are not finite.
    """

    def __init__(
        self, schedule: Schedule, weights: Float[Tensor, "c k"], means: Float[Tensor, "c k d"], factors: Float[Tensor, "c k d d"]
    ) -> None:
        super().__init__()
        for name, values in (("weights", weights), ("means", means), ("factors", factors)):
            if not bool(torch.isfinite(values).all()):
                raise ValueError(f"{name} holds NaN or infinity; give finite numbers")
        if not bool((weights > 0).all()):
            raise ValueError(f"weights={weights.tolist()} must be positive; leave components of weight 0 out")
        if float(torch.linalg.det(factors.double()).abs().min()) < 1e-12:
            raise ValueError("factors holds a singular matrix; every component needs a density")
        self.schedule = schedule
        self.log_weights = nn.Parameter(torch.log(weights / weights.sum(1, keepdim=True)))
        self.means = nn.Parameter(means.clone())
        self.factors = nn.Parameter(factors.clone())

    def _components(self, text: Float[Tensor, "b 1 c"]) -> Float[Tensor, "b ck"]:
        """Return the log weight of every component for each text: other conditions have weight 0, the zero text has all components."""
        log_prior = self.log_weights.log_softmax(1) - math.log(len(self.means))
        chosen = text[:, 0, :, None] > 0.5  # (B, C, 1)
        open_to_all = ~chosen.any(1, keepdim=True)
        masked = log_prior.masked_fill(~(chosen | open_to_all), float("-inf")).flatten(1)
        return masked.log_softmax(1)

    def _noised(
        self, points: Float[Tensor, "b d"], text: Float[Tensor, "b 1 c"], alpha: Float[Tensor, " b"], variance: Float[Tensor, " b"]
    ) -> tuple[Tensor, Tensor]:
        """Return the log joint density (B, CK) of point and component under the noised mixture, and the components' scores (B, CK, d)."""
        means, factors = self.means.flatten(0, 1), self.factors.flatten(0, 1)
        # few noise levels, many points: matrices are computed once per level
        levels, level = torch.stack([alpha, variance], 1).unique(dim=0, return_inverse=True)
        a, b = levels.T.reshape(2, -1, 1, 1, 1)
        covariance = a * (factors @ factors.mT) + b * torch.eye(points.shape[1], dtype=points.dtype)  # (levels, CK, d, d)
        precision, log_det = torch.linalg.inv(covariance)[level], torch.logdet(covariance)[level]
        difference = points[:, None] - alpha.sqrt().view(-1, 1, 1) * means
        scores = -(precision * difference[..., None, :]).sum(-1)
        log_normal = 0.5 * ((difference * scores).sum(-1) - log_det - points.shape[1] * math.log(2 * math.pi))
        return self._components(text) + log_normal, scores

    def log_density(self, points: Float[Tensor, "b d"], text: Float[Tensor, "b 1 c"], alpha: float = 1.0) -> Float[Tensor, " b"]:
        """Return log p(x_t | c) where x_t = sqrt(alpha) x_0 + sqrt(1 - alpha) eps; alpha = 1 is the data's own density."""
        powers = torch.full((len(points),), alpha, dtype=points.dtype)
        joint, _ = self._noised(points, text, powers, 1 - powers)
        return joint.logsumexp(1)

    def score(
        self, points: Float[Tensor, "b d"], text: Float[Tensor, "b 1 c"], alpha: Float[Tensor, " b"],
        variance: Float[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b d"]:  # fmt: skip
        """Return the gradient of log p(x_t | c) in x_t, x_t = a x_0 + b eps; `alpha` is a^2, `variance` b^2 or 1 - alpha."""
        joint, scores = self._noised(points, text, alpha, 1 - alpha if variance is None else variance)
        return (joint.softmax(1)[..., None] * scores).sum(1)

    def clean(
        self, points: Float[Tensor, "b d"], text: Float[Tensor, "b 1 c"], alpha: Float[Tensor, " b"], variance: Float[Tensor, " b"]
    ) -> Float[Tensor, "b d"]:
        """Return the mean of x_0 given x_t, which is defined at pure noise too."""
        joint, scores = self._noised(points, text, alpha, variance)
        factors = self.factors.flatten(0, 1)
        moved = (factors @ (factors.mT @ scores[..., None]))[..., 0]
        return (joint.softmax(1)[..., None] * (self.means.flatten(0, 1) - alpha.sqrt()[:, None, None] * moved)).sum(1)

    def forward(self, sample: Float[Tensor, "b d 1 1"], timestep: Any, encoder_hidden_states: Float[Tensor, "b 1 c"]) -> Any:
        """Return eps*(x_t, t, c) = -b_t * score, the denoiser that no other beats in eq. (3.3), or the velocity eps* - x_0* of a flow."""
        t = _times(timestep, sample)
        alpha, variance = (part.to(sample.dtype) for part in self.schedule.powers(t))
        best = -variance.sqrt()[:, None] * self.score(sample[:, :, 0, 0], encoder_hidden_states, alpha, variance)
        if self.schedule.prediction_type == "flow_prediction":
            best = best - self.clean(sample[:, :, 0, 0], encoder_hidden_states, alpha, variance)
        return SimpleNamespace(sample=best[:, :, None, None])

    @torch.no_grad()
    def sample(self, text: Float[Tensor, "b 1 c"], generator: torch.Generator) -> Float[Tensor, "b d 1 1"]:
        """Draw one exact sample of p(. | c) for each text, as latents."""
        component = torch.multinomial(self._components(text).exp(), 1, generator=generator)[:, 0]
        means, factors = self.means.flatten(0, 1), self.factors.flatten(0, 1)
        noise = torch.randn(len(text), means.shape[1], 1, dtype=means.dtype, generator=generator)
        return (means[component] + (factors[component] @ noise)[..., 0])[:, :, None, None]


class AffineDenoiser(nn.Module):
    """The denoiser eps_theta(x_t, t, c) = A_t x_t + b_(t, c): exact for a Gaussian, but not able to match a mixture of several."""

    def __init__(self, steps: int, dimensions: int, conditions: int, generator: torch.Generator | None = None, scale: float = 0.0) -> None:
        super().__init__()
        shape = (steps, dimensions, dimensions)
        noise = torch.randn(*shape, dtype=torch.float64, generator=generator) * scale
        self.matrix = nn.Parameter(torch.eye(dimensions, dtype=torch.float64).expand(shape) * 0.5 + noise)
        self.shift = nn.Parameter(torch.randn(steps, conditions, dimensions, dtype=torch.float64, generator=generator) * scale)

    def forward(self, sample: Float[Tensor, "b d 1 1"], timestep: Any, encoder_hidden_states: Float[Tensor, "b 1 c"]) -> Any:
        """Return the predicted noise, with the signature of a UNet."""
        t = torch.as_tensor(timestep).expand(len(sample))
        moved = torch.einsum("bij,bj->bi", self.matrix[t], sample[:, :, 0, 0])
        shift = torch.einsum("bc,bcd->bd", encoder_hidden_states[:, 0], self.shift[t])
        return SimpleNamespace(sample=(moved + shift)[:, :, None, None])


class MLPDenoiser(nn.Module):
    """A small multilayer perceptron on (x_t, four functions of alpha_t, c), with SiLU, in double precision."""

    def __init__(self, schedule: Schedule, dimensions: int, conditions: int, width: int = 64, seed: int = 0) -> None:
        super().__init__()
        self.schedule = schedule
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            layers: Sequence[nn.Module] = [
                nn.Linear(dimensions + conditions + 4, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, dimensions),
            ]  # fmt: skip
        self.layers = nn.Sequential(*layers).double()

    def forward(self, sample: Float[Tensor, "b d 1 1"], timestep: Any, encoder_hidden_states: Float[Tensor, "b 1 c"]) -> Any:
        """Return the predicted noise, with the signature of a UNet."""
        t = _times(timestep, sample)
        alpha, variance = (part.to(sample.dtype)[:, None] for part in self.schedule.powers(t))
        angle = torch.atan2(variance.sqrt(), alpha.sqrt())  # 0 at the image, near pi / 2 at pure noise
        time = torch.cat([alpha.sqrt(), variance.sqrt(), torch.sin(4 * angle), torch.cos(4 * angle)], 1)
        eps = self.layers(torch.cat([sample[:, :, 0, 0], time, encoder_hidden_states[:, 0]], 1))
        return SimpleNamespace(sample=eps[:, :, None, None])


def kl_divergence(p: Mixture, q: Mixture, text: Float[Tensor, "b 1 c"], generator: torch.Generator) -> tuple[float, float]:
    """Estimate KL(p || q) given the texts, by sampling p; return the estimate and its standard error, in nats."""
    points = p.sample(text, generator)[:, :, 0, 0]
    with torch.no_grad():
        ratios = p.log_density(points, text) - q.log_density(points, text)
    return float(ratios.mean()), float(ratios.std() / math.sqrt(len(ratios)))


def kl_terms(points: Float[Tensor, "n d"], target: Mixture, text: Float[Tensor, "n 1 c"], neighbour: int = 5) -> Float64[np.ndarray, " n"]:
    """Return each point's share of KL(law of the samples || target), all of one condition, in nats; their mean is the estimate.

    The samples' entropy is Kozachenko and Leonenko's estimate from distances to the `neighbour`-th nearest sample. The target's density is
    exact. The estimate is biased if there are few samples for their dimension.
    """
    n, d = points.shape
    distance = cKDTree(points.numpy()).query(points.numpy(), neighbour + 1)[0][:, -1]
    log_ball = 0.5 * d * math.log(math.pi) - math.lgamma(0.5 * d + 1)
    information = digamma(n) - digamma(neighbour) + log_ball + d * np.log(np.maximum(distance, 1e-300))  # -log p of each
    with torch.no_grad():
        return -information - target.log_density(points, text).numpy()


def kl_of_samples(points: Float[Tensor, "n d"], target: Mixture, text: Float[Tensor, "n 1 c"]) -> tuple[float, float]:
    """Return the mean of `kl_terms` and its standard error."""
    terms = kl_terms(points, target, text)
    return float(terms.mean()), float(terms.std() / math.sqrt(len(terms)))
