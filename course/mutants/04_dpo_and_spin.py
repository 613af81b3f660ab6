"""Known wrong answers: Session 4: DPO and SPIN. Each must fail its test."""

# %% s4-convert: the ratio upside down
def convert(beta, source, target, dimensions):
    def strength(c):
        return (0.5 if c in ("diffusion-dpo", "summed-half") else 1.0) * (dimensions if c in ("summed-half", "paper") else 1)

    return beta * strength(target) / strength(source)

# %% s4-convert: forgets the factor of one half
def convert(beta, source, target, dimensions):
    summed = ("summed-half", "paper")
    return beta * (dimensions if source in summed else 1) / (dimensions if target in summed else 1)

# %% s4-laws: counts only the first of the two images as a winner and normalises nothing
def winners_law(base, utility, sharpness):
    return base * ((1 / (1 + np.exp(-sharpness * (utility[:, None] - utility[None])))) @ base)


def dpo_law(base, utility, sharpness, beta):
    weight = base * np.exp(sharpness * (utility - utility.max()) / beta)
    return weight / weight.sum()

# %% s4-laws: multiplies by beta where it divides
def winners_law(base, utility, sharpness):
    return 2 * base * ((1 / (1 + np.exp(-sharpness * (utility[:, None] - utility[None])))) @ base)


def dpo_law(base, utility, sharpness, beta):
    weight = base * np.exp(sharpness * beta * (utility - utility.max()))
    return weight / weight.sum()

# %% s4-laws: losers for winners
def winners_law(base, utility, sharpness):
    return 2 * base * ((1 / (1 + np.exp(sharpness * (utility[:, None] - utility[None])))) @ base)


def dpo_law(base, utility, sharpness, beta):
    weight = base * np.exp(sharpness * (utility - utility.max()) / beta)
    return weight / weight.sum()

# %% s4-laws: forgets the base, as if every image were as likely
def winners_law(base, utility, sharpness):
    return 2 * base * ((1 / (1 + np.exp(-sharpness * (utility[:, None] - utility[None])))) @ base)


def dpo_law(base, utility, sharpness, beta):
    weight = np.exp(sharpness * (utility - utility.max()) / beta)
    return weight / weight.sum()

# %% s4-equal-beta: the beta of the preset in another convention
equal_beta = 2000.0

# %% s4-equal-beta: the labeller's sharpness itself, at which DPO multiplies by exp(u)
equal_beta = SHARPNESS
