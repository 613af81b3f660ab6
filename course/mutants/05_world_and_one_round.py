"""Known wrong answers: Session 5: A world in which truth can be measured, and one round. Each must fail its test."""

# %% s5-interval: resamples images as if they were independent
def paired_interval(ours, theirs, seed=0):
    differences = (ours - theirs).ravel()
    rows = np.random.default_rng(seed).integers(len(differences), size=(2000, len(differences)))
    low, high = np.quantile(differences[rows].mean(1), [0.025, 0.975])
    return float(differences.mean()), float(low), float(high)

# %% s5-interval: forgets the pairing
def paired_interval(ours, theirs, seed=0):
    rng, a, b = np.random.default_rng(seed), ours.mean(1), theirs.mean(1)
    means = [a[rng.integers(len(a), size=len(a))].mean() - b[rng.integers(len(b), size=len(b))].mean() for _ in range(2000)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float((a - b).mean()), float(low), float(high)

# %% s5-interval: where 95 % of prompts lie, not where the mean does
def paired_interval(ours, theirs, seed=0):
    differences = ours.mean(1) - theirs.mean(1)
    low, high = np.quantile(differences, [0.025, 0.975])
    return float(differences.mean()), float(low), float(high)

# %% s5-interval: resamples of half the size
def paired_interval(ours, theirs, seed=0):
    differences = ours.mean(1) - theirs.mean(1)
    rows = np.random.default_rng(seed).integers(len(differences), size=(2000, len(differences) // 2))
    low, high = np.quantile(differences[rows].mean(1), [0.025, 0.975])
    return float(differences.mean()), float(low), float(high)

# %% s5-calibration: the slope of the truth on the reading
def calibration(truth, reading):
    error = reading - truth
    return float(error.mean()), float(np.sqrt((error**2).mean())), float(np.cov(truth, reading)[0, 1] / reading.var(ddof=1))

# %% s5-calibration: the spread of the errors about their mean
def calibration(truth, reading):
    error = reading - truth
    return float(error.mean()), float(error.std()), float(np.polyfit(truth, reading, 1)[0])

# %% s5-calibration: truth less reading
def calibration(truth, reading):
    error = truth - reading
    return float(error.mean()), float(np.sqrt((error**2).mean())), float(np.polyfit(truth, reading, 1)[0])

# %% s5-round-end: all steps of the round
def round_end(log, index):
    last = log[log["round"] == index].mean()
    return last["implicit_accuracy"], last["player_real"] / last["opponent_real"], last["player_generated"] / last["opponent_generated"]

# %% s5-round-end: the last ten steps of the file
def round_end(log, index):
    last = log.tail(10).mean()
    return last["implicit_accuracy"], last["player_real"] / last["opponent_real"], last["player_generated"] / last["opponent_generated"]

# %% s5-round-end: ratios upside down
def round_end(log, index):
    last = log[log["round"] == index].tail(10).mean()
    return last["implicit_accuracy"], last["opponent_real"] / last["player_real"], last["opponent_generated"] / last["player_generated"]
