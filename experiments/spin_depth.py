"""python -m experiments.spin_depth controls|map: find what a round of self-play is made of, and where it pays, on shapes.

Results go to `book/results/spin_<experiment>/`, each arm and seed as soon as it is finished. Started again, the command continues where it
stopped. `--seeds` and `--arms` choose. `--size smoke` plays everything in a minute or two, to check that the code runs.
"""

from dataclasses import replace
from pathlib import Path

from experiments.arms import Arm, fine_tuning, play_from_command_line
from experiments.deeper import write_deeper
from experiments.spin_shapes import ADAPTER_RATE, JUDGED
from selfimprove.presets import PRESETS, Preset
from selfimprove_lab.results.controls import partner

MAPPED = 512  # prompts by which a cell of the map is judged


def _preset(size: str, judged: int) -> Preset:
    return PRESETS["smoke"] if size == "smoke" else PRESETS["shapes-spin"].changed(evaluation_prompts=judged)


def controls(size: str) -> dict[str, Arm]:
    """Return arms of one or more rounds with one change each; the unchanged round is the first of `spin` in experiments.spin_shapes."""
    spin = _preset(size, JUDGED)
    s = spin.settings
    own = replace(spin, data="shapes-base")
    unguided = own.changed(guidance=1.0, evaluation_guidance=1.0)
    fewer = max(2, s.rollout_steps - 2)  # eight steps instead of ten: with five, the solvers overshoot under guidance
    return {
        # fig. 5: after round 1, continue with its images and its opponent; `spin` is the comparison, whose round 2 has new ones
        "continued": Arm(replace(spin, rounds=({}, {"opponent": "base"})), 2),
        "pushing-off": Arm(spin.changed(pushing=0.0), 1),
        # -x at beta / 2 has the slope of the logistic link's start, -beta / 2, everywhere: the gradient's reweighting is frozen
        "reweighting-frozen": Arm(spin.changed(link="correlation", beta=s.beta / 2), 1),
        "correlation": Arm(spin.changed(link="correlation"), 1),
        "hinge": Arm(spin.changed(link="hinge"), 1),
        "noise-apart": Arm(spin.changed(shared="t"), 1),
        "all-apart": Arm(spin.changed(shared="nothing"), 1),
        "ddim-few": Arm(spin.changed(rollout_steps=fewer), 1),
        "dpm++-few": Arm(spin.changed(rollout_steps=fewer, sampler="dpm++"), 1),
        "unipc-few": Arm(spin.changed(rollout_steps=fewer, sampler="unipc"), 1),
        "aggressive": Arm(spin.changed(lr=10 * s.lr), 3),
        # Can a player surpass its data? The base can reach the data that it learned from; it cannot reach the winners. And does
        # self-play find something where fine-tuning has nothing left to learn?
        "own-data": Arm(own, 3),
        "own-data-unguided": Arm(unguided, 3),
        "own-data-sft": Arm(fine_tuning(own), 1),
        "own-data-unguided-sft": Arm(fine_tuning(unguided), 1),
    }


def the_map(size: str) -> dict[str, Arm]:
    """Return pairs of cells from the same base on the same images: one round of self-play, and fine-tuning for as many network passes.

    `near` and `far` move the base: `near` by fine-tuning on the same images first, `far` by a round of recursion on its own random samples.
    The longest rounds were added after the others had been read, to see where their trend goes. The network of twice the blocks was added
    last.
    """
    spin = _preset(size, MAPPED)
    s = spin.settings
    counts = (8, 16, 32, 48) if size == "smoke" else (64, 256, 2048, 4096)
    cells = {
        "default": spin,
        **{f"images-{n}": spin.changed(samples=n) for n in counts},
        **{f"steps-{n}": spin.changed(steps=n) for n in (s.steps // 3, 4 * s.steps, 12 * s.steps)},
        **{f"beta-{n:g}": spin.changed(beta=n) for n in (s.beta / 4, 4 * s.beta)},
        **{f"guidance-{n:g}": spin.changed(guidance=n) for n in (1.0, 6.0)},
        **{f"lr-{n:g}x": spin.changed(lr=n * s.lr) for n in (3, 10)},
        **{f"rank-{n}": spin.changed(lora_rank=n, lora_alpha=n, lr=ADAPTER_RATE) for n in (1, 4, 16)},
    }
    recursion = PRESETS["smoke-rsi" if size == "smoke" else "shapes-rsi"]
    moved = {
        "near": Arm(fine_tuning(spin, 3), 1),
        "far": Arm(
            recursion.changed(
                samples=2 * recursion.settings.selected, strategy="random", weighting="none", prompt_source="template", lr=1e-4,
                evaluation_prompts=s.evaluation_prompts, evaluation_images=1, on_collapse="ignore",
            ), 1,
        ),
    }  # fmt: skip
    arms = dict(moved)
    for name, preset in cells.items():
        arms[f"spin-{name}"] = Arm(preset, 1)
        arms.setdefault(partner(name), Arm(fine_tuning(preset), 1))
    arms["spin-blocks-2"] = Arm(spin, 1, write=write_deeper)
    arms["sft-blocks-2"] = Arm(fine_tuning(spin), 1, write=write_deeper)
    for start in moved:
        arms[f"spin-from-{start}"] = Arm(spin, 1, start=start)
        arms[f"sft-from-{start}"] = Arm(fine_tuning(spin), 1, start=start)
    return arms


if __name__ == "__main__":
    play_from_command_line(__doc__, {"spin_controls": controls, "spin_map": the_map}, {}, Path("runs/spin_depth"))
