"""Known wrong answers: Session 2: The objective of self-play and its bound. Each must fail its test."""

# %% s2-h: the last factor as extracted from the paper's appendix
def h(alpha, alpha_next, sigma):
    return math.sqrt(max(1 - alpha_next - sigma**2, 0.0)) - math.sqrt(alpha_next / alpha * (1 - alpha_next))

# %% s2-h: of the other sign
def h(alpha, alpha_next, sigma):
    return math.sqrt(alpha_next * (1 - alpha) / alpha) - math.sqrt(max(1 - alpha_next - sigma**2, 0.0))

# %% s2-h: right for DDIM alone
def h(alpha, alpha_next, sigma):
    return math.sqrt(1 - alpha_next) - math.sqrt(alpha_next * (1 - alpha) / alpha)

# %% s2-loss: rewards a player for denoising real images worse
def spin_loss(player_real, player_generated, opponent_real, opponent_generated, beta, dimensions):
    margin = beta * dimensions * ((player_real - opponent_real) - (player_generated - opponent_generated))
    return torch.nn.functional.softplus(-margin), margin

# %% s2-loss: overflows
def spin_loss(player_real, player_generated, opponent_real, opponent_generated, beta, dimensions):
    margin = -beta * dimensions * ((player_real - opponent_real) - (player_generated - opponent_generated))
    return torch.log(1 + torch.exp(-margin)), margin

# %% s2-loss: reads a mean as if it were a sum
def spin_loss(player_real, player_generated, opponent_real, opponent_generated, beta, dimensions):
    margin = -beta * ((player_real - opponent_real) - (player_generated - opponent_generated))
    return torch.nn.functional.softplus(-margin), margin

# %% s2-loss: rewards both sides alike, so that the generated side is denoised better, not worse
def spin_loss(player_real, player_generated, opponent_real, opponent_generated, beta, dimensions):
    margin = -beta * dimensions * ((player_real - opponent_real) + (player_generated - opponent_generated))
    return torch.nn.functional.softplus(-margin), margin

# %% s2-gap-and-limit: the sample variance, divided by T - 1
def gap_and_limit(a):
    link = torch.nn.functional.softplus
    return link(-a).mean(0) - link(-a.mean(0)), a.var(0) / 8

# %% s2-gap-and-limit: averages over examples in place of steps
def gap_and_limit(a):
    link = torch.nn.functional.softplus
    return link(-a).mean(1) - link(-a.mean(1)), a.var(1, unbiased=False) / 8

# %% s2-gap-and-limit: the bound the wrong way round
def gap_and_limit(a):
    link = torch.nn.functional.softplus
    return link(-a.mean(0)) - link(-a).mean(0), a.var(0, unbiased=False) / 8

# %% s2-not-convex: symmetric about the turning point, where the gap is zero
first, second = -3.0, 3.0

# %% s2-not-convex: on the convex side
first, second = 1.0, 4.0
