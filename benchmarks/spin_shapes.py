"""python -m benchmarks.spin_shapes: three rounds of SPIN on shapes, three seeds, beside its baselines and null experiments.

Results go to `book/results/spin_shapes/`, each arm and seed as soon as it is finished; started again, the command goes on where it
stopped. `--seeds` and `--arms` choose; `--size smoke` plays everything in a minute or two, to see that it runs.
"""

from dataclasses import replace
from pathlib import Path

from benchmarks.arms import Arm, passes, play_from_command_line
from selfimprove.config import PRESETS, Preset

ROUNDS = 3
ADAPTER_RATE = 5e-4  # of adapters: where a round of rank 8 ends with the margin of a round of all weights (seed 9; no image was judged)
JUDGED = 2048  # prompts that every model draws once, which makes the intervals narrow enough for one round's gain


def fine_tuning(preset: Preset, rounds: int = 1) -> Preset:
    """SFT on the images of `preset` for as many passes as so many rounds of it have."""
    s = preset.settings
    step = passes(s, s.samples) / passes(replace(s, objective="sft", steps=1), s.samples)
    return preset.changed(objective="sft", steps=round(rounds * step))


def spin(size: str) -> dict[str, Arm]:
    """One-round arms take the steps of three rounds in one go."""
    preset = PRESETS["smoke"] if size == "smoke" else PRESETS["shapes-spin"].changed(evaluation_prompts=JUDGED)
    s = preset.settings
    long = preset.changed(steps=ROUNDS * s.steps)
    sft = long.changed(objective="sft", beta=s.beta)
    dpo = long.changed(generated_source="loser", opponent="base")
    adapter = {"lora_rank": 8, "lora_alpha": 8, "lr": ADAPTER_RATE}
    adapted = (("spin", preset, ROUNDS), ("sft", sft, 1), ("dpo", dpo, 1))
    return {
        "spin": Arm(preset, ROUNDS),
        "sft-steps": Arm(sft, 1),
        "sft-examples": Arm(sft.changed(steps=2 * long.settings.steps), 1),  # as many images, winners alone
        "sft-compute": Arm(fine_tuning(preset, ROUNDS), 1),
        "dpo": Arm(dpo, 1),
        **{f"{arm}-lora": Arm(changed.changed(**adapter), rounds) for arm, changed, rounds in adapted},
        "frozen": Arm(long.changed(opponent="base"), 1),
        "null": Arm(preset.changed(generated_source="real"), 1),
        "null-reencoded": Arm(preset.changed(generated_source="real-reencoded"), 1),
        "raw": Arm(preset.changed(generated_latents="raw"), ROUNDS),
    }


if __name__ == "__main__":
    play_from_command_line(__doc__, {"spin_shapes": spin}, {"spin_shapes": {"spin": range(ROUNDS + 1)}}, Path("runs/spin_shapes"))
