"""Make figures that compute in the reader's browser, in plain JavaScript, without a server: `core.js` computes, `draw.js` draws.

A figure is one element that holds its style and its script. It asks for nothing else, so it also works in a page that is opened from a
file. The numbers that it shows stand in the element's `data-numbers` too, where tests read them. `selfimprove_lab.figures.live_numbers`
computes the same numbers by the package.
"""

import hashlib
import html
import json
from pathlib import Path
from typing import Any

_DATA = {"weights": [0.4, 0.6], "means": [-1.3, 0.9], "sds": [0.25, 0.45]}  # the mixture that the samples should have
WORLDS: dict[str, dict[str, Any]] = {  # figure -> what it computes with
    "sampling": {"data": _DATA, "lastAlpha": 1e-3, "points": 200},
    "self-play": {
        "data": _DATA, "lastAlpha": 1e-3, "points": 200, "examples": 160, "times": 100, "rolloutSteps": 10, "trainingSteps": 60,
        "rate": 0.03, "start": [0.2, -0.7, 0.5, -0.5, -0.5],  # of the base model: logit of a weight, two means, two log deviations
    },
    "times": {"modeScale": 1.29, "late": 0.75},  # the mode law's scale is the one of Esser et al. 2024, table 1
}  # fmt: skip
_TITLES = {
    "sampling": ("A mixture on a line, drawn by two samplers", ["sampler steps"]),
    "self-play": ("Rounds of self-play on a mixture", ["beta", "round k"]),
    "times": ("Three laws of training times under a shift", ["shift"]),
}
_STYLE = """
ID{--one:#00563f;--two:#8a3e00;--three:#004f86;max-width:34rem;margin:0 auto}
html[data-theme=dark] ID{--one:#5fd6ad;--two:#f0ae66;--three:#7cc4f5}
ID svg{display:block;width:100%;height:auto;color:inherit}
ID .si-note{margin:.8em 0;text-align:left}
ID [hidden]{display:none}
ID label{display:flex;flex-wrap:wrap;align-items:center;gap:.3em .8em;margin:0 0 .4em}
ID input{flex:1 1 10em;min-width:6em;height:1.8em;margin:0;accent-color:var(--three)}
ID input:focus-visible{outline:3px solid currentColor;outline-offset:3px}
ID output{min-width:2.6em;font-weight:bold}
ID text{fill:currentColor;font:15px system-ui,sans-serif;text-anchor:middle}
ID .end{text-anchor:end}ID .start{text-anchor:start}ID .bold{font-weight:600}
ID path{fill:none;stroke:currentColor;stroke-width:2.2}
ID path.axis{stroke-width:1}ID path.thin{stroke-width:1;opacity:.55}
ID path.one{stroke:var(--one)}ID path.two{stroke:var(--two);stroke-dasharray:7 4}ID path.three{stroke:var(--three);stroke-dasharray:2 3}
ID rect{fill:var(--two);fill-opacity:.35;stroke:var(--two);stroke-width:.7}
ID circle{fill:var(--two)}ID circle.here{stroke:currentColor;stroke-width:2.5}
"""
_HERE = Path(__file__).parent


def markup(name: str) -> str:
    """Return a figure as HTML. It is the same text each time, and may stand on a page more than once.

    Raises:
        ValueError: there is no figure of this name.
    """
    if name not in WORLDS:
        raise ValueError(f"name={name!r} is no figure that computes; give one of {sorted(WORLDS)}")
    title, sliders = _TITLES[name]
    code = (_HERE / "core.js").read_text() + (_HERE / "draw.js").read_text()
    world = json.dumps(WORLDS[name])
    own = f"si-{name}-{hashlib.sha256((code + world).encode()).hexdigest()[:8]}"
    bars = "".join(
        f'<label hidden><span>{slider}</span><input type="range" autocomplete="off" disabled><output aria-live="off"></output></label>'
        for slider in sliders
    )
    constants = f"const ROOT = '.{own}:not([data-numbers])', NAME = {json.dumps(name)}, WORLD = {world};"
    return (
        f'<div class="{own}" data-title="{html.escape(title)}"><style>{_STYLE.replace("ID", f".{own}")}</style>{bars}'
        f'<svg role="img" aria-label="{html.escape(title)}" viewBox="0 0 1 1"></svg>'
        f'<p class="si-note">This figure computes in the browser and needs JavaScript.</p>'
        f"<script>(() => {{\n{constants}\n{code}}})();</script></div>"
    )
