"""Known wrong answers: Session 7: Recursion, one round and eight. Each must fail its test."""

# %% s7-select: averages raw scores, so that the loudest scorer decides
def select(scores, keep):
    return np.argsort(-scores.mean(1), kind="stable")[:keep]

# %% s7-select: takes the worst
def select(scores, keep):
    return np.argsort(stats.rankdata(scores, axis=0).mean(1), kind="stable")[:keep]

# %% s7-select: breaks ties by position
def select(scores, keep):
    return np.argsort(-np.argsort(np.argsort(scores, axis=0, kind="stable"), axis=0, kind="stable").mean(1), kind="stable")[:keep]

# %% s7-select: positions by the first scorer alone
def select(scores, keep):
    return np.argsort(-scores[:, 0], kind="stable")[:keep]

# %% s7-split: chooses on all prompts
def split_gain(changes, first):
    best = changes.mean(1).argmax()
    return changes[best, first].mean(), changes[best, ~first].mean()

# %% s7-split: chooses twice, once on each half
def split_gain(changes, first):
    return changes[:, first].mean(1).max(), changes[:, ~first].mean(1).max()

# %% s7-split: the two halves the wrong way round
def split_gain(changes, first):
    best = changes[:, ~first].mean(1).argmax()
    return changes[best, first].mean(), changes[best, ~first].mean()
