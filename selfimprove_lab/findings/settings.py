"""Number the settings and the costs that prose states: they come from the presets and from counted operations."""

import json
from pathlib import Path

from selfimprove.planning.plan import REACHED
from selfimprove.presets import PRESETS

OWN = {"spin": "shapes-spin", "rsi": "shapes-rsi"}
SAID = (
    "lr", "beta", "steps", "batch", "samples", "rollout_steps", "guidance", "selected", "epochs", "evaluation_prompts", "weight_decay",
    "lora_rank",
)  # fmt: skip


def setting(root: Path) -> dict[str, str]:
    """Return settings of the presets: `setting_spin_lr` is the rate of `shapes-spin`, `setting_sd15_spin_lora_lr` of `sd15-spin-lora`."""
    presets = OWN | {name.replace("-", "_"): name for name in PRESETS if name.startswith("sd")}
    found = {}
    for short, name in presets.items():
        settings = PRESETS[name].settings
        for field in SAID:
            value = getattr(settings, field)
            if value is not None:
                found[f"setting_{short}_{field}"] = _plain(value)
    collapse = json.loads((root / "rsi_collapse" / "careless-0.json").read_text())["identity"]
    found["setting_collapse_lr"] = _plain(collapse["lr"])
    return found


def cost(root: Path) -> dict[str, str]:
    """Return counted operations at the sizes of the presets: of a forward pass, a pair, a rollout, and an image encoded or decoded."""
    made = json.loads((root / "scale.json").read_text())["presets"]
    found = {"cost_reached": f"{REACHED:.0%}"}
    for name, preset in PRESETS.items():
        if name not in made:
            continue
        flops, s, short = made[name]["flops"], preset.settings, name.replace("-", "_")
        passes = s.rollout_steps * (2 if s.guidance > 1 else 1)
        rollout = passes * flops["forward"] + flops["decode"] + flops["encode"]
        pair = 2 * (flops["step"] + flops["forward"])
        found |= {f"cost_{short}_{part}": _tera(flops[part]) for part in ("forward", "decode", "encode")}
        found |= {
            f"cost_{short}_rollout": _tera(rollout),
            f"cost_{short}_pair": _tera(pair),
            f"cost_{short}_times": f"{rollout / pair:.0f}",
        }
    first = PRESETS["sd15-spin-lora"].for_round(1).reached(500_000)
    found["cost_first_captions"] = f"{first:,}"
    steps = json.loads((root / "training_memory_cpu.json").read_text())["cases"]
    over = [case["measured_mb"] / case["estimate_mb"] for case in steps]
    return found | {"cost_memory_least": f"{min(over):.1f}", "cost_memory_most": f"{max(over):.1f}"}


def _plain(value: int | float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,g}" if value >= 1e-3 or not value else f"{value:.2g}"


def _tera(flops: float) -> str:
    return f"{flops / 1e12:.3g} TFLOP"
