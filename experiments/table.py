"""List the arms of the experiments: which preset is played in which world, for how many rounds, and how its players are judged.

Rates and guidance come from what tuning found (`experiments.tuning`). Everything else that an arm does not change is its preset's.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from experiments.arms import as_long_as, fine_tuning
from experiments.judging import DATA, Judging
from selfimprove.presets import PRESETS, Preset

WORLDS = ("shapes", "shapes-flow")
SEEDS = (0, 1, 2)
ROUNDS, LONG, RECURSION, COLLAPSING = 3, 6, 8, 6
COUNT = 1024  # prompts that every judged player draws once
STEPS = (20, 50, 200)  # of the sampler, beside the world's own; at 200 the first seed alone is drawn
GUIDANCES = (1.0, 1.5, 3.0, 4.5, 6.0)  # of the base without any training
FIERCE = 1e-4  # learning rate at which recursion of all weights visibly collapses
Tuned = Mapping[str, Mapping[str, Any]]  # method -> {"lr", "guidance", ...}; "common" -> {"guidance"}


@dataclass(frozen=True)
class Export:
    """The rounds that a judging is made of; with `first_seed`, of the first seed alone."""

    rounds: tuple[int, ...]
    judging: Judging
    first_seed: bool = False


@dataclass(frozen=True)
class Arm:
    """A preset that is played for some rounds and seeds, and how its players are judged.

    `item`: the question it belongs to, 1 to 4; 0 for what all compare with. `start`: the arm whose last player is the base. `tuned`: the
    method whose tuned settings it has.
    """

    name: str
    world: str
    item: int
    preset: Preset
    rounds: int
    exports: tuple[Export, ...]
    seeds: tuple[int, ...] = SEEDS
    start: str = ""
    tuned: str = ""
    write: None = None  # as in experiments.arms.Arm: every base here is the preset's, or another arm's


def small(preset: Preset) -> Preset:
    """Return a preset with the counts of the smoke presets; its numbers mean nothing."""
    like = PRESETS["smoke-rsi" if preset.settings.objective == "weighted" else "smoke"].settings
    names = ("samples", "validation", "rollout_steps", "batch", "warmup", "collected", "clusters", "kept", "epochs")
    counts = {name: getattr(like, name) for name in (*names, "selected", "evaluation_prompts", "evaluation_images", "evaluation_steps")}
    return replace(preset, settings=replace(preset.settings, steps=like.steps, **counts))


def methods(world: str, size: str) -> dict[str, tuple[Preset, int]]:
    """Return what is tuned: each method's preset and its number of rounds, before tuning.

    "steps", "images" and "compute" are baselines in one round that is as long, by that measure, as three rounds of SPIN.
    """
    made = {name: PRESETS[f"{world}-{name}"].changed(on_collapse="ignore") for name in ("spin", "spin-lora", "rsi")}
    made = {n: small(p) if size == "smoke" else p if n == "rsi" else p.changed(evaluation_prompts=64) for n, p in made.items()}
    spin, adapted = made["spin"], made["spin-lora"]
    rounds = ROUNDS if size == "full" else 1
    long, adapted_long = (p.changed(steps=ROUNDS * p.settings.steps) for p in (spin, adapted))
    dpo, adapted_dpo = (p.changed(generated_source="loser", opponent="base") for p in (long, adapted_long))
    found = {
        "spin": (spin, rounds),
        "spin-lora": (adapted, rounds),
        "sft-steps": (long.changed(objective="sft"), 1),
        "sft-images": (long.changed(objective="sft", steps=2 * long.settings.steps), 1),
        "sft-compute": (fine_tuning(spin, ROUNDS), 1),
        "sft-compute-lora": (fine_tuning(adapted, ROUNDS), 1),
        "dpo-steps": (dpo, 1),
        "dpo-compute": (as_long_as(spin, dpo, ROUNDS), 1),
        "dpo-compute-lora": (as_long_as(adapted, adapted_dpo, ROUNDS), 1),
        "rsi": (made["rsi"], rounds),
    }
    second_world = ("spin", "spin-lora", "sft-compute", "sft-compute-lora", "dpo-compute", "dpo-compute-lora", "rsi")
    return found if world == "shapes" else {name: found[name] for name in second_world}


def arms(world: str, size: str, tuned: Tuned) -> list[Arm]:
    """Return the arms of a world, with the rates and guidances in `tuned`, or the presets' where it has none."""
    known = {
        name: (preset.changed(lr=tuned[name]["lr"]) if name in tuned else preset, rounds)
        for name, (preset, rounds) in methods(world, size).items()
    }
    judged = _Judged(world, size, tuned)
    spin, rsi = known["spin"][0], known["rsi"][0]

    def method(name: str, rounds: int = 0, **how: Any) -> Arm:
        preset, played = known[name]
        rounds = rounds or played
        return Arm(name, world, 4 if name == "rsi" else 1, preset, rounds, judged.headline(name, rounds, **how), tuned=name)

    def one(name: str, item: int, preset: Preset, rounds: int = 1, *, shown: Iterable[int] = (), own: str = "spin", **more: Any) -> Arm:
        return Arm(name, world, item, preset, rounds, judged.rounds(*(tuple(shown) or (rounds,))), tuned=own, **more)

    made = [
        Arm("base", world, 0, spin, 0, judged.base(), (0,), tuned="common"),
        *(Arm(f"data-{part.replace(' ', '-')}", world, 0, spin, 0, judged.data(part), (0,)) for part in DATA),
        method("spin", LONG if world == "shapes" else ROUNDS, in_steps=True),
        *(method(name) for name in known if name not in ("spin", "rsi")),
        one("frozen", 1, _frozen(spin, ROUNDS)),
        method("rsi", RECURSION),
        *_parts(one, spin, world),
        *_own_data(one, judged, spin, world),
    ]
    if world == "shapes":
        made += [*_rates(one, spin), *_recursion(one, rsi)]
    return [_cut(arm) for arm in made] if size == "smoke" else made


def _cut(arm: Arm) -> Arm:
    """Play two rounds at most, with one seed, and judge the last one: enough to see that the code runs."""
    rounds = min(arm.rounds, 2)
    exports = tuple(replace(e, rounds=tuple(sorted({min(k, rounds) for k in e.rounds}))) for e in arm.exports)
    return replace(arm, rounds=rounds, exports=exports, seeds=SEEDS[:1])


def _frozen(spin: Preset, rounds: int) -> Preset:
    """Return as many steps as `rounds` rounds have, against the base and its images."""
    return spin.changed(opponent="base", steps=rounds * spin.settings.steps)


def _rates(one: Any, spin: Preset) -> list[Arm]:
    """Return renewed and frozen opponents at higher rates, and at long rounds."""
    found = []
    for times in (3, 10):
        fast = spin.changed(lr=times * spin.settings.lr)
        found += [one(f"spin-{times}x", 1, fast, ROUNDS), one(f"frozen-{times}x", 1, _frozen(fast, ROUNDS))]
    long = spin.changed(steps=4 * spin.settings.steps)
    return [*found, one("spin-long", 1, long, ROUNDS), one("frozen-long", 1, _frozen(long, ROUNDS))]


def _parts(one: Any, spin: Preset, world: str) -> list[Arm]:
    """Return single rounds with one thing changed; the round as it is is the first of `spin`. Only a flow has its own path.

    The correlation link at half of beta has the slope of the logistic link's start everywhere: its reweighting is frozen.
    """
    changes: dict[str, dict[str, Any]] = {
        "pushing-off": {"pushing": 0.0},
        "noise-apart": {"shared": "t"},
        "null": {"generated_source": "real"},
        "null-reencoded": {"generated_source": "real-reencoded"},
        "correlation": {"link": "correlation", "beta": spin.settings.beta / 2},
        "hinge": {"link": "hinge"},
        "own-path": {"generated_noise": "own"},
    }
    chosen = [name for name in changes if name != "own-path"] if world == "shapes" else ["pushing-off", "null", "own-path"]
    return [one(name, 2, spin.changed(**changes[name])) for name in chosen]


def _own_data(one: Any, judged: "_Judged", spin: Preset, world: str) -> list[Arm]:
    """Return self-play and fine-tuning on the base set itself, where a base that has converged has nothing left to learn."""
    own = replace(spin, data="shapes-base")
    unguided = own.changed(guidance=1.0)
    guided_too = [one("own-data", 3, own, ROUNDS, shown=(1, ROUNDS)), one("own-data-sft", 3, fine_tuning(own, ROUNDS))]
    found = [replace(arm, exports=judged.sampled(arm)) for arm in guided_too]
    if world == "shapes":
        plain = [one("own-data-unguided", 3, unguided, ROUNDS), one("own-data-unguided-sft", 3, fine_tuning(unguided, ROUNDS))]
        found += [replace(arm, exports=judged.unguided(arm)) for arm in plain]
    return found


def _recursion(one: Any, rsi: Preset) -> list[Arm]:
    """Return fine-tuning on own samples at equal budget, the parts of a round of RSIDiff, its sizes and guidances, collapse and cures."""
    s = rsi.settings
    everything = rsi.changed(strategy="all", selected=0, metrics=(), weighting="none", epochs=0)
    parts: dict[str, dict[str, Any]] = {
        "no-prompts": {"prompt_source": "template"}, "no-selection": {"strategy": "random"}, "no-weights": {"weighting": "none"},
    }  # fmt: skip
    none: dict[str, Any] = dict(change for part in parts.values() for change in part.items())
    careless = rsi.changed(
        **none, samples=max(2 * s.selected, s.samples // 5), lr=FIERCE, evaluation_prompts=max(2, s.evaluation_prompts // 2)
    )
    cures: dict[str, dict[str, Any]] = {
        "weights": {"weighting": "distance"}, "selection": {"strategy": "pool"}, "prompts": {"prompt_source": "filtered"},
        "real": {"real_samples": s.selected, "epochs": max(1, s.epochs // 2)}, "gentle": {"lr": s.lr},
        "accumulate": {"accumulate": True, "epochs": 0, "steps": s.steps_for(s.selected)},
    }  # fmt: skip
    sizes = {"selected-100": 100, "selected-1000": 1000}  # of 5,000, as the paper
    rounds = range(1, ROUNDS + 1)
    return [
        one("rsi-sft", 4, everything.changed(steps=RECURSION * s.steps_for(s.selected)), own="rsi"),
        *(one(name, 4, rsi.changed(**change), ROUNDS, shown=rounds, own="rsi") for name, change in (parts | {"none": none}).items()),
        *(one(f"guidance-{g:g}", 4, rsi.changed(guidance=g), ROUNDS, own="rsi") for g in (1.0, 1.5, 6.0)),
        *(
            one(name, 4, rsi.changed(selected=max(1, round(s.samples * n / 5000))), LONG, shown=(ROUNDS, LONG), own="rsi")
            for name, n in sizes.items()
        ),
        one("careless", 4, careless, COLLAPSING, shown=(2, 4, COLLAPSING), own=""),
        *(one(f"careless-{name}", 4, careless.changed(**change), COLLAPSING, own="") for name, change in cures.items()),
    ]


@dataclass(frozen=True)
class _Judged:
    """The judgings of a world: at the common guidance, at a method's own, on other prompts, and in other numbers of steps."""

    world: str
    size: str
    tuned: Tuned

    @property
    def usual(self) -> Judging:
        s = PRESETS[f"{self.world}-spin"].settings
        common = self.tuned.get("common", {}).get("guidance", s.evaluation_guidance)
        return Judging("first", COUNT, common, s.evaluation_steps) if self.size == "full" else Judging("first", 12, common, 2)

    def rounds(self, *rounds: int) -> tuple[Export, ...]:
        return (Export(rounds, self.usual),)

    def own(self, method: str) -> Judging:
        return replace(self.usual, guidance=self.tuned.get(method, {}).get("guidance", self.usual.guidance))

    def headline(self, method: str, rounds: int, in_steps: bool = False) -> tuple[Export, ...]:
        """Every round as usual; round 3, or the last, at the method's own guidance and on the second prompts, and in other steps."""
        at = (min(ROUNDS, rounds),)
        others = dict.fromkeys((self.own(method), replace(self.usual, part="second")))
        found = [Export(tuple(range(1, rounds + 1)), self.usual), *(Export(at, other) for other in others if other != self.usual)]
        return (*found, *(self.in_steps(at) if in_steps else ()))

    def in_steps(self, rounds: tuple[int, ...]) -> list[Export]:
        steps = STEPS if self.size == "full" else (3,)
        return [Export(rounds, replace(self.usual, steps=n), first_seed=n > 100) for n in steps if n != self.usual.steps]

    def sampled(self, arm: Arm) -> tuple[Export, ...]:
        return (*arm.exports, *self.in_steps((arm.rounds,)))

    def unguided(self, arm: Arm) -> tuple[Export, ...]:
        return tuple(replace(e, judging=replace(e.judging, guidance=1.0)) for e in arm.exports)

    def base(self) -> tuple[Export, ...]:
        guidances = {*GUIDANCES, *(found["guidance"] for found in self.tuned.values())} if self.size == "full" else {1.0}
        wanted = [self.usual, replace(self.usual, part="second"), *(replace(self.usual, guidance=g) for g in sorted(guidances))]
        return (*(Export((0,), judging) for judging in dict.fromkeys(wanted)), *self.in_steps((0,)))

    def data(self, part: str) -> tuple[Export, ...]:
        return (Export((0,), replace(self.usual, part=part)),)
