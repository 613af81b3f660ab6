// What the figures compute. `selfimprove_lab.figures.live_numbers` computes the same by the package; a test compares the two.

const cdf = x => {  // of the standard normal law, to rounding
  let term = x, sum = x;
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) sum += term *= x * x / (2 * n + 1);
  return 0.5 + sum * Math.exp(-x * x / 2) / Math.sqrt(2 * Math.PI);
};
const bisect = (f, low, high) => {  // where a rising f is 0
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2;
    if (f(middle) < 0) low = middle; else high = middle;
  }
  return (low + high) / 2;
};
const quantile = u => bisect(x => cdf(x) - u, -6, 6);
const normal = (x, mean, variance) => Math.exp(-((x - mean) ** 2) / (2 * variance)) / Math.sqrt(2 * Math.PI * variance);
const sum = list => list.reduce((a, b) => a + b, 0);
const mean = list => sum(list) / list.length;
const range = n => [...Array(n).keys()];

// a mixture of normal laws on a line: weights, means and standard deviations
const density = (mix, x) => sum(mix.weights.map((w, k) => w * normal(x, mix.means[k], mix.sds[k] ** 2)));
const mixtureQuantile = (mix, u) => bisect(x => sum(mix.weights.map((w, k) => w * cdf((x - mix.means[k]) / mix.sds[k]))) - u, -5, 5);
// the mean of x_0 given x = a x_0 + b noise: with it comes the best guess of the noise, (x - a x_0) / b
const clean = (mix, x, a, b) => {
  let total = 0, found = 0;
  for (let k = 0; k < mix.weights.length; k++) {
    const own = mix.sds[k] ** 2, variance = a * a * own + b * b, away = x - a * mix.means[k];
    const share = mix.weights[k] * normal(x, a * mix.means[k], variance);
    total += share;
    found += share * (mix.means[k] + a * own / variance * away);
  }
  return found / total;
};
const noise = (mix, x, a, b) => (x - a * clean(mix, x, a, b)) / b;

// A sampler without fresh noise goes through levels (a, b): DDIM where a^2 + b^2 = 1, Euler's on a flow where a + b = 1.
const angle = (share, lastAlpha) => share * Math.acos(Math.sqrt(lastAlpha));
const ddimLevels = (steps, lastAlpha) => range(steps + 1).map(i => {
  const at = angle((steps - i) / steps, lastAlpha);
  return [Math.cos(at), Math.sin(at)];
});
const flowLevels = steps => range(steps + 1).map(i => [i / steps, 1 - i / steps]);
const path = (mix, x, levels) => {
  const states = [x];
  for (let i = 0; i + 1 < levels.length; i++) {
    const [a, b] = levels[i], x0 = clean(mix, x, a, b);
    x = levels[i + 1][0] * x0 + levels[i + 1][1] * (x - a * x0) / b;
    states.push(x);
  }
  return states;
};
const starts = count => range(count).map(i => quantile((i + 0.5) / count));
const distance = (mix, points) => {  // of the points from the mixture: the mean shift that takes one to the other
  const sorted = [...points].sort((x, y) => x - y);
  return mean(sorted.map((x, i) => Math.abs(x - mixtureQuantile(mix, (i + 0.5) / sorted.length))));
};

function sampling({data, lastAlpha, points}, steps) {
  const first = starts(points), found = {};
  for (const [name, levels] of [['ddim', ddimLevels(steps, lastAlpha)], ['flow', flowLevels(steps)]]) {
    const paths = first.map(x => path(data, x, levels));
    found[name] = {levels, paths, distance: distance(data, paths.map(states => states[steps]))};
  }
  return found;
}

// A round of self-play. The player is a mixture of two parts with five parameters; examples are spread evenly, not drawn.
const fromParameters = p => {
  const w = 1 / (1 + Math.exp(-p[0]));
  return {weights: [w, 1 - w], means: [p[1], p[2]], sds: [Math.exp(p[3]), Math.exp(p[4])]};
};
const trainingLevels = (times, lastAlpha) => range(times).map(t => {
  const at = angle((t + 1) / times, lastAlpha);
  return [Math.cos(at), Math.sin(at)];
});
const rollout = (world, mix, first) => {
  const levels = ddimLevels(world.rolloutSteps, world.lastAlpha);
  return first.map(x => path(mix, x, levels)[world.rolloutSteps]);
};
const examples = world => {
  const g = 1.1673039782614187, spread = d => range(world.examples).map(i => (0.5 + (i + 1) / g ** d) % 1);
  return {
    real: spread(1).map(u => mixtureQuantile(world.data, u)), noise: spread(2).map(quantile),
    time: spread(3).map(u => Math.floor(u * world.times)), start: spread(4).map(quantile),
  };
};
const sides = (world, batch, generated) => {  // noised real and generated points, each with its level and its noise
  const levels = trainingLevels(world.times, world.lastAlpha);
  const noised = clear => clear.map((x, i) => {
    const [a, b] = levels[batch.time[i]];
    return {x: a * x + b * batch.noise[i], a, b, e: batch.noise[i]};
  });
  return [noised(batch.real), noised(generated)];
};
const errors = (mix, points) => points.map(p => (p.e - noise(mix, p.x, p.a, p.b)) ** 2);
const margins = (mix, [real, generated], opponent, beta) => {
  const [r, g] = [errors(mix, real), errors(mix, generated)];
  return r.map((e, i) => -beta * ((e - opponent[0][i]) - (g[i] - opponent[1][i])));
};
const softplus = x => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

function playRound(world, start, beta, batch) {
  const fixed = fromParameters(start), generated = rollout(world, fixed, batch.start);
  const both = sides(world, batch, generated), opponent = both.map(side => errors(fixed, side));
  const loss = p => mean(margins(fromParameters(p), both, opponent, beta).map(m => softplus(-m)));
  const p = [...start], first = p.map(() => 0), second = p.map(() => 0), h = 1e-4;
  for (let step = 1; step <= world.trainingSteps; step++) {  // Adam
    const slope = p.map((_, j) => {
      const moved = by => loss(p.map((v, i) => v + (i === j ? by : 0)));
      return (moved(h) - moved(-h)) / (2 * h);
    });
    slope.forEach((s, j) => {
      first[j] = 0.9 * first[j] + 0.1 * s;
      second[j] = 0.999 * second[j] + 0.001 * s * s;
      p[j] -= world.rate * first[j] / (1 - 0.9 ** step) / (Math.sqrt(second[j] / (1 - 0.999 ** step)) + 1e-8);
    });
  }
  const end = margins(fromParameters(p), both, opponent, beta);
  return {parameters: p, loss: mean(end.map(m => softplus(-m))), ahead: mean(end.map(m => +(m > 0)))};
}

const played = new Map();  // rounds that were computed stay
function selfPlay(world, beta, rounds) {
  const found = played.get(beta) || [{parameters: world.start}], batch = examples(world), first = starts(world.points);
  played.set(beta, found);
  while (found.length <= rounds) found.push(playRound(world, found.at(-1).parameters, beta, batch));
  for (const round of found) {
    round.drawn ??= rollout(world, fromParameters(round.parameters), first);
    round.distance ??= distance(world.data, round.drawn);
  }
  return found.slice(0, rounds + 1);
}

// Training times. A law is given by its quantiles before the shift, and the shift moves times towards noise.
const shifted = (s, shift) => shift * s / (1 + (shift - 1) * s);
const laws = {
  uniform: () => u => u,
  'logit-normal': () => u => 1 / (1 + Math.exp(-quantile(u))),
  mode: ({modeScale}) => u => 1 - u - modeScale * (Math.cos(Math.PI / 2 * u) ** 2 - 1 + u),
};
function times(world, shift, points = 200) {
  const found = {};
  for (const [name, law] of Object.entries(laws)) {
    const quantileOf = law(world), falls = quantileOf(0.9) < quantileOf(0.1);
    const edges = range(points + 1).map(i => {
      const u = Math.min(Math.max(i / points, 1e-6), 1 - 1e-6);
      return shifted(quantileOf(falls ? 1 - u : u), shift);
    });
    const bars = edges.slice(1).map((s, i) => [(s + edges[i]) / 2, 1 / points / (s - edges[i])]);  // density where a 200th of all times lies
    const above = x => 1 - bisect(u => shifted(quantileOf(falls ? 1 - u : u), shift) - x, 0, 1);
    found[name] = {bars, median: shifted(quantileOf(0.5), shift), above: above(world.late)};
  }
  return found;
}

if (typeof module !== 'undefined') module.exports = {sampling, selfPlay, times, density, fromParameters};
