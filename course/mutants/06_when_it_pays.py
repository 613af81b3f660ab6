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

# %% s6-verdict-numbers: the rival less self-play, and rates with their sign
rivals = ("frozen", "sft-steps", "sft-compute")
ahead = {rival: over_seeds(changes(rival, "quality"), changes("spin", "quality")) for rival in rivals}
rate = {arm: float(np.mean(changes(arm, "quality")) / np.mean(changes(arm, "all_right"))) for arm in ("spin", *rivals)}

# %% s6-verdict-numbers: obedience where quality belongs
rivals = ("frozen", "sft-steps", "sft-compute")
ahead = {rival: over_seeds(changes("spin", "all_right"), changes(rival, "all_right")) for rival in rivals}
rate = {arm: float(-np.mean(changes(arm, "all_right")) / np.mean(changes(arm, "quality"))) for arm in ("spin", *rivals)}
