"""A module imports only from those above it in this list; names say where to look."""

import ast
from pathlib import Path

import selfimprove

PACKAGE = Path(selfimprove.__file__).parent
ORDER = [
    "draws", "shapes.render", "shapes", "shapes.captions", "shapes.image_sets", "shapes.oracle", "config", "presets", "schedule",
    "losses", "frames", "models", "lora", "costs", "judges", "scorers.images", "scorers.interface", "scorers.checkpoints",
    "scorers.nearest", "scorers.heads", "scorers.clip", "scorers.openclip", "scorers.blip", "scorers.hps_package", "scorers.truth",
    "scorers.published", "scorers.embedded", "scorers.families", "scorers", "pairs", "streaming", "data", "latents", "prompts",
    "prompt_sets", "rollout", "selection", "weighting", "mixture", "exact", "batches", "runs", "opponent", "train", "statistics",
    "protocol", "aggregate", "agreement", "sensitivity", "diversity", "evaluate", "collapse", "game", "samples", "rounds", "plan",
    "scale", "compare", "figures", "published", "report", "results", "evaluation_results", "rsi_results", "films", "claims", "rsi_claims",
    "spin_results", "signs", "towards_data", "spin_claims", "shrinkage", "study.store", "study.images", "study.pairwise", "study",
    "study.analysis", "study.demo", "study.page", "study.panel", "study.grid", "request", "__main__", "shapes.pretrain", "theory",
    "theory.claims", "theory.worlds", "theory.figures", "theory.forward", "theory.practical", "theory.objective", "theory.bound",
    "theory.gradient", "theory.self_play", "theory.fixed_points", "theory.dpo", "theory.errata", "theory.films", "theory.spin_claims",
]  # fmt: skip


def layer(module: str) -> int:
    while module and module not in ORDER:
        module = module.rpartition(".")[0]
    return ORDER.index(module)


def test_imports_go_upwards() -> None:
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if name == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("selfimprove"):
                module = node.module.removeprefix("selfimprove").lstrip(".")
                inside = [f"{module}.{a.name}".lstrip(".") for a in node.names]
                targets = [name if name in ORDER else module for name in inside]
                for target in targets:
                    assert layer(target) <= layer(name), f"{name} imports {target}, which stands below it"


def test_no_module_is_long() -> None:
    long = {p.name: n for p in PACKAGE.rglob("*.py") if (n := len(p.read_text().splitlines())) > 300}
    assert not long
