"""Known wrong answers: Session 9: Judging, and what it costs at scale. Each must fail its test."""

# %% s9-best-of: the best of the first n
def best_of(scores, truths, n):
    return float(truths[:n][scores[:n].argmax()])

# %% s9-best-of: draws with replacement
def best_of(scores, truths, n):
    m, order = len(scores), np.argsort(scores)
    i = np.arange(1, m + 1)
    return float(((i / m) ** n - ((i - 1) / m) ** n) @ truths[order])

# %% s9-best-of: the best truth, as if the scorer knew it
def best_of(scores, truths, n):
    share = np.array([math.comb(i, n - 1) for i in range(len(scores))]) / math.comb(len(scores), n)
    return float(share @ np.sort(truths))

# %% s9-best-of: picks the lowest score
def best_of(scores, truths, n):
    share = np.array([math.comb(i, n - 1) for i in range(len(scores))]) / math.comb(len(scores), n)
    return float(share @ truths[np.argsort(-scores)])

# %% s9-win-rate: drops ties
def win_rate(ours, theirs):
    ours, theirs = ours[ours != theirs], theirs[ours != theirs]
    n, z = len(ours), float(stats.norm.ppf(0.975))
    share = float((ours > theirs).mean())
    centre, scale = (share + z**2 / (2 * n)) / (1 + z**2 / n), z / (1 + z**2 / n)
    half = scale * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return share, centre - half, centre + half

# %% s9-win-rate: counts ties as wins
def win_rate(ours, theirs):
    n, z = len(ours), float(stats.norm.ppf(0.975))
    share = float((ours >= theirs).mean())
    centre, scale = (share + z**2 / (2 * n)) / (1 + z**2 / n), z / (1 + z**2 / n)
    half = scale * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return share, centre - half, centre + half

# %% s9-win-rate: the interval of the textbook's normal approximation, which is a point where everything is won
def win_rate(ours, theirs):
    n, z = len(ours), float(stats.norm.ppf(0.975))
    share = float((ours > theirs).mean() + 0.5 * (ours == theirs).mean())
    half = z * math.sqrt(share * (1 - share) / n)
    return share, share - half, share + half

# %% s9-hours: no second pass for guidance
def hours(captions, steps, cards):
    drawn = captions * (50 * FLOPS["forward"] + FLOPS["decode"] + FLOPS["encode"])
    trained = steps * 2048 * (2 * FLOPS["step"] + 2 * FLOPS["forward"])
    return (drawn + trained) / (0.3 * 312e12) / cards / 3600

# %% s9-hours: a pair counted as one latent
def hours(captions, steps, cards):
    drawn = captions * (2 * 50 * FLOPS["forward"] + FLOPS["decode"] + FLOPS["encode"])
    trained = steps * 2048 * (FLOPS["step"] + FLOPS["forward"])
    return (drawn + trained) / (0.3 * 312e12) / cards / 3600

# %% s9-hours: the whole peak
def hours(captions, steps, cards):
    drawn = captions * (2 * 50 * FLOPS["forward"] + FLOPS["decode"] + FLOPS["encode"])
    trained = steps * 2048 * (2 * FLOPS["step"] + 2 * FLOPS["forward"])
    return (drawn + trained) / 312e12 / cards / 3600

# %% s9-hours: forgets the opponent
def hours(captions, steps, cards):
    drawn = captions * (2 * 50 * FLOPS["forward"] + FLOPS["decode"] + FLOPS["encode"])
    trained = steps * 2048 * 2 * FLOPS["step"]
    return (drawn + trained) / (0.3 * 312e12) / cards / 3600
