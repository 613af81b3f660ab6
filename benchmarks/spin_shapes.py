"""python -m benchmarks.spin_shapes: three rounds of SPIN on shapes, three seeds, beside its baselines and null experiments.

Results go to `book/results/spin_shapes/`, each arm and seed as soon as it is finished; started again, the command goes on where it
stopped. `--seeds` and `--arms` choose; `--size smoke` plays everything in a minute or two, to see that it runs.
"""

from pathlib import Path

from benchmarks.arms import Arm, passes, play_from_command_line
from selfimprove.config import PRESETS

ROUNDS = 3
JUDGED = 2048  # prompts that every model draws once, which makes the intervals narrow enough for one round's gain


def spin(size: str) -> dict[str, Arm]:
    """One-round arms take the steps of three rounds in one go."""
    preset = PRESETS["smoke"] if size == "smoke" else PRESETS["shapes-spin"].changed(evaluation_prompts=JUDGED)
    s = preset.settings
    long = preset.changed(steps=ROUNDS * s.steps)
    sft = long.changed(objective="sft", beta=s.beta)
    equal = round(ROUNDS * passes(s, s.samples) / (3 * s.batch_size))
    return {
        "spin": Arm(preset, ROUNDS),
        "sft-steps": Arm(sft, 1),
        "sft-compute": Arm(sft.changed(steps=equal), 1),
        "dpo": Arm(long.changed(generated_source="loser", opponent="base"), 1),
        "frozen": Arm(long.changed(opponent="base"), 1),
        "null": Arm(preset.changed(generated_source="real"), 1),
        "null-reencoded": Arm(preset.changed(generated_source="real-reencoded"), 1),
        "raw": Arm(preset.changed(generated_latents="raw"), ROUNDS),
    }


if __name__ == "__main__":
    play_from_command_line(__doc__, {"spin_shapes": spin}, {"spin_shapes": {"spin": range(ROUNDS + 1)}}, Path("runs/spin_shapes"))
