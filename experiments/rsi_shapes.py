"""python -m experiments.rsi_shapes rounds|collapse|ablations|beyond: play recursive self-improvement on shapes, arm by arm.

Results go to `book/results/rsi_<experiment>/`, each arm and seed as soon as it is finished. Started again, the command continues where it
stopped. `--seeds` and `--arms` choose. `--size smoke` plays everything in a minute or two, to check that the code runs.
"""

from pathlib import Path

from experiments.arms import Arm, play_from_command_line
from selfimprove.presets import PRESETS, Preset

ROUNDS = 8
COLLAPSING = 6  # rounds of the arms that collapse, and of the arms with a cure
ABLATED = 3  # rounds of an ablation cell
FIERCE = 1e-4  # learning rate at which recursion visibly collapses here


def _rsi(size: str) -> Preset:
    return PRESETS["smoke-rsi" if size == "smoke" else "shapes-rsi"]


def _self_play(size: str) -> Preset:
    """Return SPIN with its own preset, judged like the recursive arms."""
    rsi = _rsi(size).settings
    return PRESETS["smoke" if size == "smoke" else "shapes-spin"].changed(
        evaluation_prompts=rsi.evaluation_prompts, evaluation_images=rsi.evaluation_images
    )


def rounds(size: str) -> dict[str, Arm]:
    """Return RSIDiff, fine-tuning on all of the base's samples (equal budget, and long), and self-play for comparison."""
    rsi = _rsi(size)
    s = rsi.settings
    everything = rsi.changed(strategy="all", selected=0, metrics=(), weighting="none", epochs=0)
    return {
        "rsi": Arm(rsi, ROUNDS),
        "spin": Arm(_self_play(size), 3),
        "sft-equal": Arm(everything.changed(steps=ROUNDS * s.steps_for(s.selected)), 1),
        "sft-long": Arm(everything.changed(epochs=2 if size == "smoke" else 30), 1),
    }


def collapse(size: str) -> dict[str, Arm]:
    """Return recursion without any care, at a learning rate at which it collapses, and the same with one cure at a time."""
    rsi = _rsi(size)
    s = rsi.settings
    careless = rsi.changed(
        samples=max(2 * s.selected, s.samples // 5), strategy="random", weighting="none", prompt_source="template", lr=FIERCE,
        evaluation_prompts=s.evaluation_prompts // 2,
    )  # fmt: skip
    weighted = careless.changed(weighting="distance")
    return {
        "careless": Arm(careless, COLLAPSING),
        "weights": Arm(weighted, COLLAPSING),
        "weights-two-sided": Arm(weighted.changed(reference="two-sided"), COLLAPSING),
        "weights-nearest": Arm(weighted.changed(reference="nearest"), COLLAPSING),
        "selection": Arm(careless.changed(strategy="pool"), COLLAPSING),
        "prompts": Arm(careless.changed(prompt_source="filtered"), COLLAPSING),
        "real": Arm(careless.changed(real_samples=s.selected, epochs=s.epochs // 2), COLLAPSING),
        "accumulate": Arm(careless.changed(accumulate=True, epochs=0, steps=s.steps_for(s.selected)), COLLAPSING),
        "gentle": Arm(careless.changed(lr=s.lr), COLLAPSING),
    }


def ablations(size: str) -> dict[str, Arm]:
    """Return the default's neighbours, with one change each; the default itself is the first rounds of `rounds`."""
    rsi = _rsi(size)
    s = rsi.settings
    of_5000 = {"100": 100, "1000": 1000, "2000": 2000}
    cells = {
        "no-prompts": rsi.changed(prompt_source="template"),
        "plain-prompts": rsi.changed(prompt_source="plain"),
        "no-selection": rsi.changed(strategy="random"),
        "no-weights": rsi.changed(weighting="none"),
        "none": rsi.changed(prompt_source="template", strategy="random", weighting="none"),
        **{f"by-{name}": rsi.changed(metrics=((name, 1.0),)) for name in ("clip", "aesthetic", "shading", "saturation", "alignment")},
        **{f"selected-{k}": rsi.changed(selected=max(1, round(s.samples * n / 5000))) for k, n in of_5000.items()},
        "beta-low": rsi.changed(weight_quantile=0.5),
        "beta-high": rsi.changed(weight_quantile=0.99),
        "sigma-low": rsi.changed(weight_sigma2=2.0),  # the calibrated value is about 8
        "sigma-high": rsi.changed(weight_sigma2=32.0),
        "nearest": rsi.changed(reference="nearest"),
        "two-sided": rsi.changed(reference="two-sided"),
        "guidance-1.5": rsi.changed(guidance=1.5),
        "guidance-6": rsi.changed(guidance=6.0),
    }
    return {name: Arm(preset, ABLATED) for name, preset in cells.items()}


def beyond(size: str) -> dict[str, Arm]:
    """Return what neither paper did: self-play with weights on the generated side, and recursion from the end of `spin` in `rounds`."""
    spin = _self_play(size)
    return {
        "spin-weighted": Arm(spin.changed(weighting="distance"), 3),
        "spin-weighted-nearest": Arm(spin.changed(weighting="distance", reference="nearest"), 3),
        "rsi-after-spin": Arm(_rsi(size), ABLATED, start="spin"),
    }


STRIPS = {
    "rsi_rounds": {"rsi": range(ROUNDS + 1)},
    "rsi_collapse": {f"{name}-0": (0, 2, 4, 6) for name in collapse("full")},
}

if __name__ == "__main__":
    made = {"rsi_rounds": rounds, "rsi_collapse": collapse, "rsi_ablations": ablations, "rsi_beyond": beyond}
    play_from_command_line(__doc__, made, STRIPS, Path("runs/rsi_shapes"))
