// Sliders, axes and pictures of one figure. `ROOT`, `NAME` and `WORLD` come from the page.

const line = (points, style) => `<path class="${style}" d="${points.map(([x, y], i) => (i ? 'L' : 'M') + x.toFixed(1) + ' ' + y.toFixed(1)).join('')}"/>`;
const signed = x => String(x).replace('-', '−');
const word = (x, y, text, style = '') => `<text class="${style}" x="${x}" y="${y}">${text}</text>`;
// a frame with axes: its box in the picture, the ranges of both axes, ticks and labels; returns the map of points and the axes
const frame = ([left, top, width, height], [x0, x1], [y0, y1], xticks, yticks, xlabel, ylabel, title = '') => {
  const at = ([x, y]) => [left + (x - x0) / (x1 - x0) * width, top + height - (y - y0) / (y1 - y0) * height];
  const bottom = top + height;
  let axes = line([[left, top], [left, bottom], [left + width, bottom]], 'axis');
  for (const x of xticks) axes += line([[at([x, y0])[0], bottom], [at([x, y0])[0], bottom + 4]], 'axis') + word(at([x, y0])[0], bottom + 19, signed(x));
  for (const y of yticks) axes += line([[left - 4, at([x0, y])[1]], [left, at([x0, y])[1]]], 'axis') + word(left - 8, at([x0, y])[1] + 5, signed(y), 'end');
  axes += word(left + width / 2, bottom + 39, xlabel) + (title && word(left + width / 2, top - 9, title, 'bold'));
  if (ylabel) axes += `<text transform="translate(${left - 40} ${top + height / 2}) rotate(-90)">${ylabel}</text>`;
  return {at, axes};
};
const legend = (x, y, entries) => entries.map(([style, text], i) =>
  (style.startsWith('bar') ? `<rect class="${style}" x="${x}" y="${y + 20 * i - 10}" width="26" height="10"/>` : line([[x, y + 20 * i - 5], [x + 26, y + 20 * i - 5]], style))
  + word(x + 33, y + 20 * i, text, 'start')).join('');
const histogram = (points, low, high, bins) => {  // [middle, density] of each bin
  const width = (high - low) / bins, counts = range(bins).map(() => 0);
  for (const x of points) counts[Math.min(Math.max(Math.floor((x - low) / width), 0), bins - 1)]++;
  return counts.map((n, i) => [low + (i + 0.5) * width, n / points.length / width]);
};
const curve = (mix, low, high) => range(161).map(i => low + i / 160 * (high - low)).map(x => [x, density(mix, x)]);
const three = x => x.toFixed(3);

const FIGURES = {
  sampling: {
    size: [500, 325],
    sliders: [['sampler steps', [1, 2, 3, 4, 6, 8, 12, 16, 24, 32], 4]],
    show(world, steps) {
      const found = sampling(world, steps), low = -2.6, high = 2.6;
      let picture = '';
      [['ddim', 'DDIM, diffusion', 50], ['flow', 'Euler, flow', 285]].forEach(([name, title, left], i) => {
        const {at, axes} = frame([left, 30, 140, 250], [0, 1], [low, high], [0, 1], i ? [] : [-2, 0, 2], 'noise (0) to image (1)', i ? '' : 'x', title);
        const beside = frame([left + 144, 30, 64, 250], [0, 1.1], [low, high], [], [], 'density', '').at;
        const {paths} = found[name];
        for (let j = 4; j < paths.length; j += 8) picture += line(paths[j].map((x, t) => at([t / steps, x])), 'thin');
        const half = (high - low) / 80;
        for (const [x, d] of histogram(paths.map(p => p[steps]), low, high, 40)) {
          const [[x0, y0], [x1, y1]] = [beside([0, x + half]), beside([Math.min(d, 1.1), x - half])];
          picture += `<rect class="bar2" x="${x0}" y="${y0.toFixed(1)}" width="${(x1 - x0).toFixed(1)}" height="${(y1 - y0).toFixed(1)}"/>`;
        }
        picture += axes + line(curve(world.data, low, high).map(([x, d]) => beside([d, x])), 'one') + word(left + 183, 299, 'density');
      });
      const numbers = {ddim: found.ddim.distance, flow: found.flow.distance};
      return {picture, numbers, note: `With ${steps} step${steps > 1 ? 's' : ''} the samples (bars) lie ${three(numbers.ddim)} from the data (line) by DDIM ` +
        `and ${three(numbers.flow)} by Euler's method. The distance is how far a sample must move on average.`};
    },
  },
  'self-play': {
    size: [500, 502],
    sliders: [['beta', [0.3, 1, 3, 10, 30], 2], ['round k', [1, 2, 3, 4, 5, 6], 0]],
    show(world, beta, rounds) {
      const found = selfPlay(world, beta, 6), low = -3, high = 3, top = 1.2, half = 3 / 40;
      const [player, opponent] = [found[rounds], found[rounds - 1]];
      const upper = frame([60, 62, 425, 200], [low, high], [0, top], [-3, -2, -1, 0, 1, 2, 3], [0, 0.4, 0.8, 1.2], 'x', 'density');
      let picture = '';
      for (const [x, d] of histogram(player.drawn, low, high, 40)) {
        const [[x0, y0], [x1, y1]] = [upper.at([x - half, Math.min(d, top)]), upper.at([x + half, 0])];
        picture += `<rect class="bar2" x="${x0.toFixed(1)}" y="${y0.toFixed(1)}" width="${(x1 - x0).toFixed(1)}" height="${(y1 - y0).toFixed(1)}"/>`;
      }
      const outline = histogram(opponent.drawn, low, high, 40).flatMap(([x, d]) => [[x - half, Math.min(d, top)], [x + half, Math.min(d, top)]]);
      picture += upper.axes + line(outline.map(upper.at), 'three') + line(curve(world.data, low, high).map(upper.at), 'one');
      picture += legend(66, 16, [['one', 'data'], ['three', "opponent's samples"]]) + legend(270, 16, [['bar2', "player's samples"]]);
      const most = 1.2, lower = frame([60, 340, 425, 120], [0, 6], [0, most], [0, 1, 2, 3, 4, 5, 6], [0, 0.4, 0.8, 1.2], 'round (0 is the base model)', 'distance (units of x)');
      picture += lower.axes + line(found.map((r, k) => lower.at([k, Math.min(r.distance, most)])), 'two');
      found.forEach((r, k) => {
        const [x, y] = lower.at([k, Math.min(r.distance, most)]);
        picture += `<circle class="${k === rounds ? 'here' : 'dot'}" cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="${k === rounds ? 6 : 3.5}"/>`;
      });
      const numbers = {distance: player.distance, loss: player.loss, ahead: player.ahead, before: opponent.distance};
      return {picture, numbers, note: `beta ${beta}, round ${rounds}: the player's samples lie ${three(numbers.distance)} from the data, the opponent's ` +
        `${three(numbers.before)}. The player is ahead of the opponent on ${Math.round(100 * numbers.ahead)} of 100 examples.`};
    },
  },
  times: {
    size: [500, 304],
    sliders: [['shift', [0.5, 1, 1.5, 2, 3, 4, 6], 1]],
    show(world, shift) {
      const found = times(world, shift), top = 5;
      const {at, axes} = frame([60, 20, 425, 240], [0, 1], [0, top], [0, 0.25, 0.5, 0.75, 1], [0, 1, 2, 3, 4, 5], 's, from image (0) to noise (1)', 'density of training times');
      const styles = {uniform: 'one', 'logit-normal': 'two', mode: 'three'}, numbers = {};
      let picture = axes + line([at([world.late, 0]), at([world.late, top])], 'thin');
      for (const [name, style] of Object.entries(styles)) {
        picture += line(found[name].bars.map(([s, d]) => at([s, Math.min(d, top)])), style);
        numbers[name] = {median: found[name].median, above: found[name].above};
      }
      picture += legend(shift > 1 ? 76 : 330, 36, Object.entries(styles).map(([name, style]) => [style, name]));
      const share = name => `${Math.round(100 * numbers[name].above)} (${name})`;
      return {picture, numbers, note: `Shift ${shift}: the median of all three is s = ${three(numbers.uniform.median)}. Of 100 training times, ` +
        `${share('uniform')}, ${share('logit-normal')} and ${share('mode')} lie above s = ${world.late}.`};
    },
  },
};

for (const root of document.querySelectorAll(ROOT)) {
  const figure = FIGURES[NAME], bars = [...root.querySelectorAll('input')], outputs = [...root.querySelectorAll('output')];
  const svg = root.querySelector('svg'), note = root.querySelector('.si-note');
  const show = () => {
    const values = bars.map((bar, i) => figure.sliders[i][1][bar.value]);
    values.forEach((value, i) => {
      outputs[i].textContent = value;
      bars[i].setAttribute('aria-valuetext', value);
    });
    const {picture, numbers, note: said} = figure.show(WORLD, ...values);
    svg.innerHTML = picture;
    svg.setAttribute('aria-label', `${root.dataset.title}. ${said}`);
    note.textContent = said;
    root.dataset.numbers = JSON.stringify(numbers);
  };
  bars.forEach((bar, i) => {
    Object.assign(bar, {min: 0, max: figure.sliders[i][1].length - 1, step: 1, value: figure.sliders[i][2], disabled: false});
    bar.addEventListener('input', show);
  });
  svg.setAttribute('viewBox', `0 0 ${figure.size.join(' ')}`);
  root.querySelectorAll('[hidden]').forEach(part => { part.hidden = false; });
  show();
}
