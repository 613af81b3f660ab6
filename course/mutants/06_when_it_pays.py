"""Known wrong answers: Session 6: When does self-play pay?. Each must fail its test."""

# %% s6-count: a backward costs as much as a forward
def passes(objective, steps, batch, rollouts, sampler_steps, guided):
    return steps * batch * (6 if objective == "spin" else 2) + rollouts * sampler_steps * (2 if guided else 1)

# %% s6-count: forgets the opponent's passes
def passes(objective, steps, batch, rollouts, sampler_steps, guided):
    return steps * batch * (6 if objective == "spin" else 3) + rollouts * sampler_steps * (2 if guided else 1)

# %% s6-count: forgets what guidance costs
def passes(objective, steps, batch, rollouts, sampler_steps, guided):
    return steps * batch * (8 if objective == "spin" else 3) + rollouts * sampler_steps

# %% s6-over-seeds: the normal's 1.96
def over_seeds(ours, theirs):
    d = np.array(ours) - np.array(theirs)
    half = 1.96 * d.std(ddof=1) / np.sqrt(len(d))
    return d.mean(), d.mean() - half, d.mean() + half

# %% s6-over-seeds: divides the variance by n
def over_seeds(ours, theirs):
    d = np.array(ours) - np.array(theirs)
    half = stats.t.ppf(0.975, len(d) - 1) * d.std() / np.sqrt(len(d))
    return d.mean(), d.mean() - half, d.mean() + half

# %% s6-over-seeds: forgets that the seeds are paired
def over_seeds(ours, theirs):
    a, b = np.array(ours), np.array(theirs)
    half = stats.t.ppf(0.975, len(a) - 1) * np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
    return (a - b).mean(), (a - b).mean() - half, (a - b).mean() + half

# %% s6-verdict-numbers: the rival less self-play
rivals = ("frozen", "sft-steps", "sft-compute")
ahead = {rival: over_seeds(changes(rival, "quality"), changes("spin", "quality")) for rival in rivals}

def parts(before, after):
    scene = [(table["oracle_quality"] > 0).mean() for table in (before, after)]
    right = [table["oracle_all_right"].mean() / share for table, share in zip((before, after), scene, strict=True)]
    return (scene[1] - scene[0]) * (right[0] + right[1]) / 2, (right[1] - right[0]) * (scene[0] + scene[1]) / 2

# %% s6-verdict-numbers: the share right among all images in place of among scenes
rivals = ("frozen", "sft-steps", "sft-compute")
ahead = {rival: over_seeds(changes("spin", "quality"), changes(rival, "quality")) for rival in rivals}

def parts(before, after):
    scene = [(table["oracle_quality"] > 0).mean() for table in (before, after)]
    right = [table["oracle_all_right"].mean() for table, share in zip((before, after), scene, strict=True)]
    return (scene[1] - scene[0]) * (right[0] + right[1]) / 2, (right[1] - right[0]) * (scene[0] + scene[1]) / 2

# %% s6-verdict-numbers: both parts from before alone, so that a part is left over
rivals = ("frozen", "sft-steps", "sft-compute")
ahead = {rival: over_seeds(changes("spin", "quality"), changes(rival, "quality")) for rival in rivals}

def parts(before, after):
    scene = [(table["oracle_quality"] > 0).mean() for table in (before, after)]
    right = [table["oracle_all_right"].mean() / share for table, share in zip((before, after), scene, strict=True)]
    return (scene[1] - scene[0]) * right[0], (right[1] - right[0]) * scene[0]

# %% s6-verdict-numbers: the two parts the other way round
rivals = ("frozen", "sft-steps", "sft-compute")
ahead = {rival: over_seeds(changes("spin", "quality"), changes(rival, "quality")) for rival in rivals}

def parts(before, after):
    scene = [(table["oracle_quality"] > 0).mean() for table in (before, after)]
    right = [table["oracle_all_right"].mean() / share for table, share in zip((before, after), scene, strict=True)]
    return ((scene[1] - scene[0]) * (right[0] + right[1]) / 2, (right[1] - right[0]) * (scene[0] + scene[1]) / 2)[::-1]
