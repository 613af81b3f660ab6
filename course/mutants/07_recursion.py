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

# %% s7-choose: chooses on all prompts
def choose_and_test(choosing, testing):
    best = np.hstack([choosing, np.nan_to_num(testing)]).mean(1).argmax()
    return best + 1, choosing[best].mean(), testing[best].mean()

# %% s7-choose: chooses twice, once on each set of prompts
def choose_and_test(choosing, testing):
    return choosing.mean(1).argmax() + 1, choosing.mean(1).max(), np.nanmax(testing.mean(1))

# %% s7-choose: the two sets of prompts the wrong way round
def choose_and_test(choosing, testing):
    best = np.nanargmax(testing.mean(1))
    return best + 1, choosing[best].mean(), testing[best].mean()

# %% s7-choose: counts rounds from 0
def choose_and_test(choosing, testing):
    best = choosing.mean(1).argmax()
    return best, choosing[best].mean(), testing[best].mean()

# %% s7-choose: reads the chosen round where it was chosen, twice
def choose_and_test(choosing, testing):
    best = choosing.mean(1).argmax()
    return best + 1, choosing[best].mean(), choosing[best].mean()
