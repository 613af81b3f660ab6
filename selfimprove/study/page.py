"""Style and keys of a study in a notebook: ipywidgets, one style sheet and one small script.

ipywidgets cannot handle keys, so the script clicks a button for the rater: while a frame has the focus, key x clicks its button of class
`key-x`. The kernel decides what a key means, in the order pressed, so fast typing hits the right image. Without the script the buttons
still work.
"""

from collections.abc import Callable, Sequence

import ipywidgets as widgets
from IPython.display import HTML, Javascript, display

HASTE = 0.3  # seconds in which a new page ignores input, as nobody can have looked: a double click or a held key

STYLE = """
.si-frame { background: #f3f3f1; color: #1c1c1c; border: 2px solid #d4d4d0; border-radius: 8px; padding: 14px 20px 16px;
  box-sizing: border-box; font: 15px/1.4 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; outline: none; overflow: visible; }
.si-frame:focus-within { border-color: #2f6fb2; }
.si-frame .widget-html, .si-frame .widget-html-content { color: inherit; font: inherit; margin: 0; height: auto; line-height: 1.4; }
.si-frame .widget-html-content { align-self: stretch; flex: 1; }
.si-bar { display: flex; justify-content: space-between; font-size: 13px; color: #4c4c48; }
.si-track { height: 5px; background: #dcdcd7; border-radius: 3px; margin-top: 5px; }
.si-track div { height: 100%; background: #2f6fb2; border-radius: 3px; }
.si-prompt { height: 64px; overflow: auto; display: flex; align-items: center; justify-content: center; text-align: center;
  font-size: 18px; line-height: 1.3; margin: 8px 0; }
.si-frame img { object-fit: contain; background: #e4e4e0; display: block; margin: 0; }
.si-question { padding: 6px 12px 10px 8px; border-left: 4px solid transparent; border-radius: 4px; margin-top: 10px;
  box-sizing: border-box; }
.si-question .widget-html { margin-bottom: 4px; }
.si-question .widget-html { color: #4c4c48; }
.si-question.si-current { border-left-color: #2f6fb2; background: #e6edf5; }
.si-question.si-current .widget-html { color: #1c1c1c; font-weight: 600; }
.si-frame .jupyter-button { height: 36px; border: 1px solid #a9a9a3; border-radius: 5px; background: #fff; color: #1c1c1c;
  font: 14px/34px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; margin: 0; padding: 0 12px; box-shadow: none; }
.si-frame .jupyter-button:hover { border-color: #2f6fb2; }
.si-frame .jupyter-button:focus-visible { outline: 2px solid #2f6fb2; outline-offset: 1px; }
.si-frame .jupyter-button.si-chosen { background: #2f6fb2; border-color: #2f6fb2; color: #fff; }
.si-hidden { display: none !important; }
.si-frame .si-footer { margin-top: 14px; }
.si-message { min-height: 21px; margin-top: 8px; font-size: 13px; color: #4c4c48; }
.si-message b { color: #a3201a; }
.si-off { display: inline; } .si-frame:focus-within .si-off { display: none; }
.si-on { display: none; } .si-frame:focus-within .si-on { display: inline; }
.si-cell { padding: 6px; border: 2px solid transparent; border-radius: 6px; background: #fbfbfa; }
.si-cell.si-current { border-color: #2f6fb2; }
.si-cell.si-keep { background: #d9ecd9; }
.si-cell.si-drop { background: #e6e2e0; } .si-cell.si-drop img { opacity: .35; }
.si-frame .si-keep .si-chosen { background: #2c7a3f; border-color: #2c7a3f; }
.si-frame .si-drop .si-chosen { background: #6b6560; border-color: #6b6560; }
.si-cell .jupyter-button { height: 28px; line-height: 26px; font-size: 13px; padding: 0 4px; }
.si-caption { height: 36px; overflow: hidden; font-size: 13px; line-height: 18px; margin: 4px 0;
  display: -webkit-box; -webkit-line-clamp: 2; -webkit-box-orient: vertical; }
"""

# Plain keys pressed inside a frame never reach Jupyter, where x cuts the cell and 0 0 restarts the kernel. A mouse click gives the
# focus to the frame itself, because a browser may leave it nowhere.
SCRIPT = """
(() => {
  if (window.siKeys) return;
  window.siKeys = true;
  const focus = frame => {
    frame.tabIndex = -1;
    frame.focus({preventScroll: true});
    if (frame.querySelector('input')) frame.scrollIntoView({block: 'nearest'});
  };
  window.addEventListener('keydown', event => {
    const frame = event.target.closest && event.target.closest('.si-frame');
    if (!frame || event.ctrlKey || event.altKey || event.metaKey || event.key === 'Tab') return;
    const typing = event.target.matches('input');
    if (typing && event.key !== 'Enter') return;
    event.stopImmediatePropagation();
    const name = '.key-' + CSS.escape(event.key.length === 1 ? event.key.toLowerCase() : event.key);
    const button = frame.querySelector(name);
    if (!button) return;
    event.preventDefault();
    if (!event.repeat) button.click();
    if (typing) focus(frame);
  }, true);
  window.addEventListener('click', event => {
    const frame = event.target.closest && event.target.closest('.si-frame');
    if (frame && event.detail > 0 && !event.target.matches('input')) focus(frame);
  }, true);
})();
"""


def button(text: str, act: Callable[[], None], keys: Sequence[str] = (), width: str = "auto", hidden: bool = False) -> widgets.Button:
    """Return a button that calls `act` on a click or on any of the keys, named as the browser names them ("u", "ArrowLeft")."""
    made = widgets.Button(description=text, layout=widgets.Layout(width=width))
    for key in keys:
        made.add_class(f"key-{key}")
    if hidden:
        made.add_class("si-hidden")
    made.on_click(lambda _: act())
    return made


def mark(widget: widgets.DOMWidget, name: str, on: bool) -> None:
    """Add a class of the style sheet to a widget, or remove it."""
    if on:
        widget.add_class(name)
    else:
        widget.remove_class(name)


def frame(children: Sequence[widgets.Widget], width: int, height: int = 0) -> widgets.VBox:
    """Return the frame around `children`, `width` pixels wide and at least `height` high. It takes the focus, and with it the keys."""
    made = widgets.VBox(list(children), layout=widgets.Layout(width=f"{width}px", min_height=f"{height}px"))
    made.add_class("si-frame")
    return made


def progress(text: str, aside: str, share: float) -> str:
    """Return HTML with one line, `text` at its left end and `aside` at its right, and a bar filled to `share`. Both texts are HTML."""
    bar = f'<div class="si-track"><div style="width:{100 * share:.1f}%"></div></div>'
    return f'<div class="si-bar"><span>{text}</span><span>{aside}</span></div>{bar}'


def hint(keys: str) -> str:
    """Return the line that names the keys, or that says how to turn them on."""
    return f'<span class="si-on">{keys}</span><span class="si-off">Click inside this frame to use the keys.</span>'


def show(root: widgets.VBox) -> None:
    """Display a frame with its style and its keys."""
    display(HTML(f"<style>{STYLE}</style>"), root, Javascript(SCRIPT))
