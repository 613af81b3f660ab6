"""Show precomputed pictures behind sliders, in a notebook and on the static page alike: no kernel, no library, no request.

The page holds one `<figure>`: a picture, sliders that are switched off, the other pictures as data, and a script that connects these. If no
script runs (scripts are not allowed, or the notebook is not yet trusted), the one picture stands there as any other figure does.
"""

import base64
import hashlib
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
from IPython.display import HTML
from matplotlib.figure import Figure
from PIL import Image

HEAVIEST = 1_500_000  # bytes of one set of frames as encoded in the page; a page with two sets should stay below 3 MB
COLOURS = 64  # colours that a drawn figure keeps: lines look the same at half the size
FINE = 2  # pixels of a drawn figure per pixel of the page, so that text is sharp on fine screens

_KEYS = "data-lm-suppress-shortcuts"
_STYLE = """
#ID{margin:1em 0;padding:0}
#ID [hidden]{display:none!important}
#ID .si-axis{display:flex;flex-wrap:wrap;align-items:center;gap:.3em .8em;margin:0 0 .4em}
#ID label{display:flex;align-items:center;gap:.8em;margin:0}
#ID input{flex:1 1 12em;width:16em;min-width:6em;max-width:100%;height:1.8em;margin:0;accent-color:#0072B2}
#ID button{font:inherit;color:inherit;background:none;border:1px solid currentColor;border-radius:.3em;min-width:4.6em;padding:.2em .6em}
#ID input:focus-visible,#ID button:focus-visible{outline:3px solid currentColor;outline-offset:3px}
#ID output{font-weight:bold}
#ID img{display:block;max-width:100%;height:auto;margin:.3em 0;padding:0;background:none;filter:none}
#ID p,#ID figcaption{margin:.3em 0;max-width:44em;text-align:left}
#ID figcaption{padding:0;font-size:1em;font-weight:inherit;color:inherit}
"""
# Play goes through the positions once, from the start if it is at the end. With reduced motion it moves on by one position.
_SCRIPT = """
for (const figure of document.querySelectorAll('#ID:not([data-ready])')) {
  figure.dataset.ready = '';
  const all = name => [...figure.querySelectorAll(name)];
  const bars = all('input'), outputs = all('output'), buttons = all('button'), first = figure.querySelector('img');
  const frames = JSON.parse(figure.querySelector('script[type="application/json"]').textContent);
  const pictures = frames.map(([data, words]) => {
    const picture = data ? first.cloneNode() : first;
    if (data) Object.assign(picture, {src: 'data:image/webp;base64,' + data, alt: words, hidden: true});
    return picture;
  });
  first.replaceWith(...pictures);
  const note = figure.querySelector('.si-note');
  const labels = bars.map(bar => JSON.parse(bar.dataset.labels));
  const calm = matchMedia('(prefers-reduced-motion: reduce)');
  let timer = 0, playing = null;
  const show = () => {
    let place = 0;
    bars.forEach((bar, i) => {
      outputs[i].textContent = labels[i][bar.value];
      bar.setAttribute('aria-valuetext', labels[i][bar.value]);
      place = place * labels[i].length + Number(bar.value);
    });
    pictures.forEach((picture, i) => { picture.hidden = i !== place; });
    if (note) note.textContent = frames[place][2];
  };
  const stop = () => {
    clearInterval(timer);
    playing = null;
    buttons.forEach(button => { button.textContent = calm.matches ? 'Next' : 'Play'; });
  };
  const step = bar => {
    bar.value = bar.value === bar.max ? 0 : Number(bar.value) + 1;
    show();
    if (bar.value === bar.max) stop();
  };
  figure.querySelector('.si-still').hidden = true;
  bars.forEach((bar, i) => {
    bar.hidden = buttons[i].hidden = bar.disabled = buttons[i].disabled = bar.max === '0';
    bar.addEventListener('input', () => { stop(); show(); });
    buttons[i].addEventListener('click', () => {
      const pause = playing === bar;
      stop();
      if (pause) return;
      if (!calm.matches) {
        playing = bar;
        buttons[i].textContent = 'Pause';
        timer = setInterval(step, PACE, bar);
      }
      step(bar);
    });
  });
  calm.addEventListener('change', stop);
  stop();
  show();
}
"""


class Film(NamedTuple):
    """The arguments of `sliders`, in its order: one picture per position, the last axis fastest, and words for each picture.

    `axes` maps what each slider moves to the labels of its positions. `descriptions` tell a reader who does not see the pictures what to
    know, one text per picture. `notes` are lines under the pictures, such as what was measured there: none, or one per picture.
    """

    frames: Sequence[Figure | Image.Image]
    axes: Mapping[str, Sequence[str]]
    descriptions: Sequence[str]
    notes: Sequence[str] = ()


def slider(
    frames: Sequence[Figure | Image.Image],
    labels: Sequence[str],
    name: str,
    descriptions: Sequence[str],
    notes: Sequence[str] = (),
    *,
    start: int = 0,
    caption: str = "",
    pace: float = 0.8,
) -> HTML:
    """Show one of the pictures at a time, chosen by one slider. `name` says what it moves, with one label per position. See `sliders`."""
    return sliders(frames, {name: labels}, descriptions, notes, start=start, caption=caption, pace=pace)


def sliders(
    frames: Sequence[Figure | Image.Image],
    axes: Mapping[str, Sequence[str]],
    descriptions: Sequence[str],
    notes: Sequence[str] = (),
    *,
    start: int = 0,
    caption: str = "",
    pace: float = 0.8,
) -> HTML:
    """Show one of the pictures at a time, chosen by one slider per axis; for the other arguments see `Film`.

    Figures are drawn at twice the resolution at which they are shown, and closed. Pictures are shown pixel by pixel, slightly compressed.
    The same arguments give the same bytes.

    Args:
        start: the position, counted through all frames, that shows first, and that shows alone if no script runs.
        caption: what to look for, as plain text.
        pace: seconds between two positions while playing, more than 0.34.

    Raises:
        ValueError: there are no frames; labels, descriptions or notes are not one per frame; a description is empty; frames differ in size
            or are too heavy for a page; start or pace is out of range.
    """
    _check(len(frames), axes, descriptions, notes, start, pace)
    drawn = [_encoded(frame) for frame in frames]
    sizes = [size for _, size in drawn]
    if len(set(sizes)) > 1:
        other = next(i for i, size in enumerate(sizes) if size != sizes[0])
        raise ValueError(f"frame {other} is {sizes[other]} pixels, frame 0 {sizes[0]}; draw all frames with one size")
    weight = sum(len(data) for data, _ in drawn)
    if weight > HEAVIEST:
        raise ValueError(f"the frames weigh {weight / 1e6:.1f} MB, more than {HEAVIEST / 1e6} MB; show fewer or smaller ones")
    places = _places(start, [len(labels) for labels in axes.values()])
    rows = "".join(_axis(name, labels, place) for (name, labels), place in zip(axes.items(), places, strict=True))
    data = ["" if i == start else data for i, (data, _) in enumerate(drawn)]  # the page holds this one as its picture
    others = json.dumps(list(zip(data, descriptions, notes or [""] * len(frames), strict=True))).replace("<", "\\u003c")
    body = rows + _picture(drawn[start][0], sizes[0], descriptions[start])
    body += f'<p class="si-note">{html.escape(notes[start])}</p>' if notes else ""
    # no <noscript>: a notebook that is not trusted allows scripts, but this script is removed from it
    body += f'<p class="si-still">Position {start + 1} of {len(frames)}. The others need JavaScript; in Jupyter, a trusted notebook.</p>'
    body += f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    body += f'<script type="application/json">{others}</script>'
    name = "frames-" + hashlib.sha256(body.encode()).hexdigest()[:12]
    style, script = _STYLE.replace("ID", name), _SCRIPT.replace("ID", name).replace("PACE", f"{1000 * pace:.0f}")
    title = html.escape(" and ".join(axes))
    return HTML(
        f'<figure id="{name}" role="group" aria-label="Pictures by {title}"><style>{style}</style>{body}<script>{script}</script></figure>'
    )


def _check(
    count: int, axes: Mapping[str, Sequence[str]], descriptions: Sequence[str], notes: Sequence[str], start: int, pace: float
) -> None:
    if not count:
        raise ValueError("frames is empty; give at least one picture")
    if not axes or not all(axes.values()) or not all(name.strip() for name in axes):
        raise ValueError(f"axes={dict(axes)!r} must name what each slider moves, and label at least one position of each")
    positions = math.prod(len(labels) for labels in axes.values())
    for name, given in (("labels", positions), ("descriptions", len(descriptions)), ("notes", len(notes) if notes else count)):
        if given != count:
            raise ValueError(f"frames has {count} entries, {name} make {given}; give one a frame")
    for index, description in enumerate(descriptions):
        if not description.strip():
            raise ValueError(f"descriptions[{index}] is empty; say what the picture shows to a reader who does not see it")
    if not 0 <= start < count:
        raise ValueError(f"start={start} is no position; give 0 to {count - 1}")
    if not pace > 0.34:
        raise ValueError(f"pace={pace} seconds: pictures that change more than three times a second can harm; give more than 0.34")


def _places(start: int, counts: Sequence[int]) -> list[int]:
    """Return the position on each axis of frame `start`; the last axis is the fastest."""
    places = []
    for count in reversed(counts):
        start, place = divmod(start, count)
        places.append(place)
    return places[::-1]


def _encoded(frame: Figure | Image.Image) -> tuple[str, tuple[int, int]]:
    """Return WebP in base64, and the size in the page's pixels. Drawn figures are reduced to few colours, pictures keep all."""
    buffer = io.BytesIO()
    if isinstance(frame, Figure):
        drawing = io.BytesIO()
        frame.savefig(drawing, format="png", dpi=72 * FINE, facecolor="white")
        plt.close(frame)
        image = Image.open(drawing).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).convert("RGB")
        image.save(buffer, "WEBP", lossless=True)
        size = (image.width // FINE, image.height // FINE)
    else:
        frame.convert("RGB").save(buffer, "WEBP", quality=90)
        size = frame.size
    return base64.b64encode(buffer.getvalue()).decode(), size


def _axis(name: str, labels: Sequence[str], place: int) -> str:
    """Return a slider with its label, its value in words and its button, switched off until the script runs.

    While the slider or the button has the focus, JupyterLab's own keys (x cuts a cell, arrows leave it) must not act. `_KEYS` prevents
    that; it acts on the element that has the focus, and not on elements inside it.
    """
    words, value, every = html.escape(name), html.escape(labels[place]), html.escape(json.dumps(list(labels)))
    return (
        f'<div class="si-axis"><label><span>{words}</span><input type="range" min="0" max="{len(labels) - 1}" step="1" value="{place}" '
        f'autocomplete="off" aria-valuetext="{value}" data-labels="{every}" {_KEYS} disabled hidden></label>'
        f'<output aria-live="off">{value}</output><button type="button" title="Play {words}" {_KEYS} disabled hidden>Play</button></div>'
    )


def _picture(data: str, size: tuple[int, int], description: str) -> str:
    return f'<img src="data:image/webp;base64,{data}" width="{size[0]}" height="{size[1]}" alt="{html.escape(description)}">'
