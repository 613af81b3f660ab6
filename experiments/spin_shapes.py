"""python -m experiments.spin_shapes: play three rounds of SPIN on shapes, with three seeds, beside baselines and null experiments.

Results go to `book/results/spin_shapes/`, each arm and seed as soon as it is finished. Started again, the command continues where it
stopped. `--seeds` and `--arms` choose. `--size smoke` plays everything in a minute or two, to check that the code runs.
"""

from pathlib import Path

from experiments.arms import Arm, as_long_as, fine_tuning, play_from_command_line
from selfimprove.presets import PRESETS

ROUNDS = 3
ADAPTER_RATE = 5e-4  # learning rate of adapters: a round of rank 8 then ends with the margin of full training (seed 9, no image judged)
JUDGED = 2048  # prompts that every model draws once; so many make the intervals narrow enough for one round's gain


def spin(size: str) -> dict[str, Arm]:
    """Return the arms. A baseline plays one round that is as long as the three rounds of SPIN; a null arm plays one ordinary round."""
    preset = PRESETS["smoke"] if size == "smoke" else PRESETS["shapes-spin"].changed(evaluation_prompts=JUDGED)
    s = preset.settings
    long = preset.changed(steps=ROUNDS * s.steps)
    sft = long.changed(objective="sft", beta=s.beta)
    dpo = long.changed(generated_source="loser", opponent="base")
    adapter = {"lora_rank": 8, "lora_alpha": 8, "lr": ADAPTER_RATE}
    adapted = {"spin": preset.changed(**adapter), "sft": sft.changed(**adapter), "dpo": dpo.changed(**adapter)}
    return {
        "spin": Arm(preset, ROUNDS),
        "sft-steps": Arm(sft, 1),
        "sft-examples": Arm(sft.changed(steps=2 * long.settings.steps), 1),  # as many images as SPIN, winners alone
        "sft-compute": Arm(fine_tuning(preset, ROUNDS), 1),
        "dpo": Arm(dpo, 1),
        "dpo-compute": Arm(as_long_as(preset, dpo, ROUNDS), 1),
        **{f"{arm}-lora": Arm(changed, ROUNDS if arm == "spin" else 1) for arm, changed in adapted.items()},
        **{f"{arm}-compute-lora": Arm(as_long_as(adapted["spin"], adapted[arm], ROUNDS), 1) for arm in ("sft", "dpo")},
        "frozen": Arm(long.changed(opponent="base"), 1),
        "null": Arm(preset.changed(generated_source="real"), 1),
        "null-reencoded": Arm(preset.changed(generated_source="real-reencoded"), 1),
    }


STRIPS = {"spin": range(ROUNDS + 1), "sft-steps-0": (0, 1), "dpo-0": (0, 1)}  # the tour sets these models side by side

if __name__ == "__main__":
    play_from_command_line(__doc__, {"spin_shapes": spin}, {"spin_shapes": STRIPS}, Path("runs/spin_shapes"))
