"""Precomputed pictures behind a slider: interactive in a notebook and in the static page alike, with no kernel and no library."""

import base64
import html
import io
from collections.abc import Sequence

import matplotlib.pyplot as plt
from IPython.display import HTML
from matplotlib.figure import Figure


def slider(figures: Sequence[Figure], labels: Sequence[str], name: str, start: int = 0, dpi: int = 80) -> HTML:
    """Show one of the figures at a time, chosen by a slider; `name` says what the slider moves, a label each position.

    Raises:
        ValueError: no figures, or not one label a figure.
    """
    if not figures or len(figures) != len(labels):
        raise ValueError(f"figures has {len(figures)} entries and labels {len(labels)}; give one label a figure, at least one")
    images = []
    for figure in figures:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi)
        plt.close(figure)
        images.append(base64.b64encode(buffer.getvalue()).decode())
    texts = [html.escape(f"{name}: {label}") for label in labels]
    pictures = "".join(
        f'<img alt="{text}" src="data:image/png;base64,{image}" style="max-width:100%;display:{"block" if i == start else "none"}">'
        for i, (text, image) in enumerate(zip(texts, images, strict=True))
    )
    show = (
        "const d=this.parentElement.parentElement;d.querySelectorAll('img').forEach((m,i)=>{"
        "m.style.display=(i==this.value)?'block':'none';if(i==this.value)d.querySelector('output').textContent=m.alt;});"
    )
    return HTML(
        f'<div><label style="display:flex;gap:1em;align-items:center">'
        f'<input type="range" min="0" max="{len(images) - 1}" value="{start}" aria-label="{html.escape(name)}" '
        f'style="width:20em" oninput="{show}"><output>{texts[start]}</output></label>{pictures}</div>'
    )
