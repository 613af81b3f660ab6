"""Known wrong answers: Session 3: The gradient and the fixed points. Each must fail its test."""

# %% s3-factors: what is told apart counts more
def three_factors(s, k, noisy, eps, forward, forward_eps, beta):
    bracket = (eps - s * noisy) ** 2 - (eps - k * noisy) ** 2 - (forward_eps - s * forward) ** 2 + (forward_eps - k * forward) ** 2
    return beta * torch.sigmoid(-beta * bracket), -2 * noisy * (eps - s * noisy), -2 * forward * (forward_eps - s * forward)

# %% s3-factors: leaves beta out of the weight
def three_factors(s, k, noisy, eps, forward, forward_eps, beta):
    bracket = (eps - s * noisy) ** 2 - (eps - k * noisy) ** 2 - (forward_eps - s * forward) ** 2 + (forward_eps - k * forward) ** 2
    return torch.sigmoid(beta * bracket), -2 * noisy * (eps - s * noisy), -2 * forward * (forward_eps - s * forward)

# %% s3-factors: returns the pushing term with its minus, so that it is subtracted twice
def three_factors(s, k, noisy, eps, forward, forward_eps, beta):
    bracket = (eps - s * noisy) ** 2 - (eps - k * noisy) ** 2 - (forward_eps - s * forward) ** 2 + (forward_eps - k * forward) ** 2
    return beta * torch.sigmoid(beta * bracket), -2 * noisy * (eps - s * noisy), 2 * forward * (forward_eps - s * forward)

# %% s3-next-slope: fine-tuning, no opponent
def next_slope(k, beta):
    clean, eps, start, forward_eps = DRAWS
    noisy = math.sqrt(ALPHA) * clean + NOISE * eps
    return float((noisy * eps).sum() / (noisy**2).sum())

# %% s3-next-slope: the opponent's own path in place of images noised again
def next_slope(k, beta):
    clean, eps, start, _ = DRAWS
    noisy = math.sqrt(ALPHA) * clean + NOISE * eps

    def loss(s):
        bracket = (eps - s * noisy) ** 2 - (eps - k * noisy) ** 2 - (k * start - s * start) ** 2
        return float(torch.nn.functional.softplus(beta * bracket).mean())

    return float(minimize_scalar(loss, bounds=(-1, 2), method="bounded").x)

# %% s3-next-slope: pushes the wrong way
def next_slope(k, beta):
    clean, eps, start, forward_eps = DRAWS
    fake = (start - NOISE * k * start) / math.sqrt(ALPHA)
    noisy, forward = (math.sqrt(ALPHA) * x + NOISE * e for x, e in ((clean, eps), (fake, forward_eps)))

    def loss(s):
        bracket = (eps - s * noisy) ** 2 - (eps - k * noisy) ** 2 - (forward_eps - s * forward) ** 2 + (forward_eps - k * forward) ** 2
        return float(torch.nn.functional.softplus(-beta * bracket).mean())

    return float(minimize_scalar(loss, bounds=(-1, 2), method="bounded").x)

# %% s3-next-slope: generated images are noised from the start in place of the sample
def next_slope(k, beta):
    clean, eps, start, forward_eps = DRAWS
    noisy, forward = (math.sqrt(ALPHA) * x + NOISE * e for x, e in ((clean, eps), (start, forward_eps)))

    def loss(s):
        bracket = (eps - s * noisy) ** 2 - (eps - k * noisy) ** 2 - (forward_eps - s * forward) ** 2 + (forward_eps - k * forward) ** 2
        return float(torch.nn.functional.softplus(beta * bracket).mean())

    return float(minimize_scalar(loss, bounds=(-1, 2), method="bounded").x)
