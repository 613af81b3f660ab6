"""Known wrong answers: Session 1: Diffusion and DDIM in closed form. Each must fail its test."""

# %% s1-reverse-mean: keeps all of the old noise whatever sigma is (the form printed in appendix C.3)
def reverse_mean(noisy, eps, alpha, alpha_next, sigma):
    clean = (noisy - math.sqrt(1 - alpha) * eps) / math.sqrt(alpha)
    return math.sqrt(alpha_next) * clean + math.sqrt(1 - alpha_next) * eps

# %% s1-reverse-mean: forgets that the guess at the image is divided by sqrt(alpha)
def reverse_mean(noisy, eps, alpha, alpha_next, sigma):
    clean = noisy - math.sqrt(1 - alpha) * eps
    return math.sqrt(alpha_next) * clean + math.sqrt(max(1 - alpha_next - sigma**2, 0.0)) * eps

# %% s1-reverse-mean: subtracts sigma where its square belongs
def reverse_mean(noisy, eps, alpha, alpha_next, sigma):
    clean = (noisy - math.sqrt(1 - alpha) * eps) / math.sqrt(alpha)
    return math.sqrt(alpha_next) * clean + (math.sqrt(1 - alpha_next) - sigma) * eps

# %% s1-best-eps: components by their prior weights, wherever x is
def best_eps(x, alpha, weights, means, variances):
    spread = alpha * variances + 1 - alpha
    return math.sqrt(1 - alpha) * (weights * (x[:, None] - math.sqrt(alpha) * means) / spread).sum(1)

# %% s1-best-eps: forgets that noise widens the components
def best_eps(x, alpha, weights, means, variances):
    away = x[:, None] - math.sqrt(alpha) * means
    share = (torch.log(weights) - 0.5 * torch.log(variances) - 0.5 * away**2 / variances).softmax(1)
    return math.sqrt(1 - alpha) * (share * away / variances).sum(1)

# %% s1-best-eps: returns the score, not the noise
def best_eps(x, alpha, weights, means, variances):
    spread = alpha * variances + 1 - alpha
    away = x[:, None] - math.sqrt(alpha) * means
    share = (torch.log(weights) - 0.5 * torch.log(spread) - 0.5 * away**2 / spread).softmax(1)
    return -(share * away / spread).sum(1)

# %% s1-best-eps: alpha in place of its root before the mean
def best_eps(x, alpha, weights, means, variances):
    spread = alpha * variances + 1 - alpha
    away = x[:, None] - alpha * means
    share = (torch.log(weights) - 0.5 * torch.log(spread) - 0.5 * away**2 / spread).softmax(1)
    return math.sqrt(1 - alpha) * (share * away / spread).sum(1)

# %% s1-ddim-std: the spread of the noised data in place of the sampler's product, exact at every number of steps
def ddim_std(s, steps):
    return s

# %% s1-ddim-std: multiplies variances where standard deviations belong
def ddim_std(s, steps):
    result = 1.0
    for step in steps:
        slope = math.sqrt(1 - step.alpha) / (step.alpha * s**2 + 1 - step.alpha)
        clean = (1 - math.sqrt(1 - step.alpha) * slope) / math.sqrt(step.alpha)
        result *= (math.sqrt(step.alpha_next) * clean + math.sqrt(1 - step.alpha_next) * slope) ** 2
    return result

# %% s1-ddim-std: the denoiser of unit-variance data for every s
def ddim_std(s, steps):
    result = 1.0
    for step in steps:
        slope = math.sqrt(1 - step.alpha)
        result *= math.sqrt(step.alpha_next * step.alpha) + math.sqrt(1 - step.alpha_next) * slope
    return result * s
