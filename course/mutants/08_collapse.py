"""Known wrong answers: Session 8: Collapse, and the signs of it. Each must fail its test."""

# %% s8-drift: accumulates the last two rounds only
def drift(way, rounds, n, chains, seed=0):
    draws, model, history, variances = np.random.default_rng(seed), np.zeros(chains), [], []
    for _ in range(rounds):
        history.append(model + draws.normal(size=chains) / np.sqrt(n))
        if way == "replace":
            model = history[-1]
        elif way == "accumulate":
            model = np.mean(history[-2:], axis=0)
        else:
            model = (history[-1] + draws.normal(size=chains) / np.sqrt(n)) / 2
        variances.append(model.var())
    return np.array(variances)

# %% s8-drift: accumulates samples of the true model, not of the models on the way
def drift(way, rounds, n, chains, seed=0):
    draws, model, history, variances = np.random.default_rng(seed), np.zeros(chains), [], []
    for _ in range(rounds):
        history.append((0 if way == "accumulate" else model) + draws.normal(size=chains) / np.sqrt(n))
        if way == "replace":
            model = history[-1]
        elif way == "accumulate":
            model = np.mean(history, axis=0)
        else:
            model = (history[-1] + draws.normal(size=chains) / np.sqrt(n)) / 2
        variances.append(model.var())
    return np.array(variances)

# %% s8-drift: the real mean is known exactly
def drift(way, rounds, n, chains, seed=0):
    draws, model, history, variances = np.random.default_rng(seed), np.zeros(chains), [], []
    for _ in range(rounds):
        history.append(model + draws.normal(size=chains) / np.sqrt(n))
        model = {"replace": history[-1], "accumulate": np.mean(history, axis=0), "real": history[-1] / 2}[way]
        variances.append(model.var())
    return np.array(variances)

# %% s8-drift: noise of variance 1 / n squared
def drift(way, rounds, n, chains, seed=0):
    draws, model, history, variances = np.random.default_rng(seed), np.zeros(chains), [], []
    for _ in range(rounds):
        history.append(model + draws.normal(size=chains) / n)
        if way == "replace":
            model = history[-1]
        elif way == "accumulate":
            model = np.mean(history, axis=0)
        else:
            model = (history[-1] + draws.normal(size=chains) / n) / 2
        variances.append(model.var())
    return np.array(variances)

# %% s8-distance: distance to the mean of the references
def mean_distance(samples, references):
    return (samples - references.mean(0)).norm(dim=1)

# %% s8-distance: squared distances
def mean_distance(samples, references):
    return (torch.cdist(samples, references) ** 2).mean(1)

# %% s8-weight: what lies near weighs more than one
def weight(distance, beta, sigma2):
    return torch.exp(-(distance - beta) / sigma2)

# %% s8-weight: a Gaussian's square in the exponent
def weight(distance, beta, sigma2):
    return torch.exp(-((distance - beta).clamp_min(0) ** 2) / sigma2)

# %% s8-lead: watches for shrinking alone
def lead(variance, right, low, high):
    warned = next((i for i, v in enumerate(variance, start=1) if v < low), None)
    plain = next((i for i, change in enumerate(right, start=1) if change <= -0.10), None)
    return None if warned is None or plain is None else plain - warned

# %% s8-lead: the sign the wrong way round
def lead(variance, right, low, high):
    warned = next((i for i, v in enumerate(variance, start=1) if not low <= v <= high), None)
    plain = next((i for i, change in enumerate(right, start=1) if change <= -0.10), None)
    return None if warned is None or plain is None else warned - plain

# %% s8-lead: the largest departure in place of the first
def lead(variance, right, low, high):
    plain = next((i for i, change in enumerate(right, start=1) if change <= -0.10), None)
    warned = 1 + max(range(len(variance)), key=lambda i: abs(variance[i] - 1))
    return None if plain is None else plain - warned
