"""Numbers by name: every name is known, prose types no decimals, and every number follows the exported results."""

import json
import re
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from selfimprove_lab import findings as package
from selfimprove_lab.claims.table import Experiments
from selfimprove_lab.figures.forest import forest, read
from selfimprove_lab.findings import GROUPS, chosen, fill, findings, numbers, readme, used
from selfimprove_lab.findings.cells import cells, spoken

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "book" / "results"
CONVERTED = (  # pages whose prose types no decimal
    "intro.md", "07_spin_rounds.ipynb", "07_what_a_round_is_made_of.ipynb", "07_how_long_how_large.ipynb", "07_limits_and_controls.ipynb",
    "08_rsi_rounds.ipynb", "09_collapse.ipynb", "10_ablations.ipynb", "11_evaluation.ipynb", "12_compare_models.ipynb", "13_at_scale.ipynb",
    "claims.ipynb",
)  # fmt: skip
LONGEST = 1_800  # words of a page of results
NAMES_WITH_DECIMALS = re.compile(r"(?:Stable Diffusion|sections?|SD|transformers|`hpsv2`|and) \d\.\d(?:\.\d)?|\(\d\.\d+\)|hpsv\d\.\d")


def prose(name: str) -> str:
    """The words of a page, without code, mathematics, links' targets and raw HTML."""
    if name.endswith(".md"):
        text = (ROOT / "book" / name).read_text()
    else:
        found = json.loads((ROOT / "notebooks" / name).read_text())["cells"]
        text = "\n\n".join("".join(c["source"]) for c in found if c["cell_type"] == "markdown")
    for left_out in (r"^```.*?^```", r"`[^`\n]*`", r"\$\$.*?\$\$", r"\$[^$\n]*\$", r"\]\([^)]*\)"):
        text = re.sub(left_out, " ", text, flags=re.DOTALL | re.MULTILINE)
    return text


def decimals(text: str) -> list[str]:
    return re.findall(r"(?<![\w.])[-+]?\d*\.\d+(?:e-?\d+)?", NAMES_WITH_DECIMALS.sub(" ", text))


@pytest.fixture(scope="module")
def values() -> dict[str, str]:
    return findings(RESULTS)


def test_what_counts_as_a_typed_decimal() -> None:
    assert decimals("gains .018 and +0.5, at 1.5e-6") == [".018", "+0.5", "1.5e-6"]
    assert decimals("as in (4.9), section 6.1, on Stable Diffusion 1.4; three in 100") == []


@pytest.mark.parametrize("name", CONVERTED)
def test_prose_types_no_decimals(name: str) -> None:
    assert decimals(prose(name)) == []


@pytest.mark.parametrize("name", [n for n in CONVERTED if n[0] in "01c" and n != "13_at_scale.ipynb"])
def test_pages_of_results_are_short(name: str) -> None:
    assert len(prose(name).split()) <= LONGEST


def test_every_name_on_a_page_is_known(values: dict[str, str]) -> None:
    """What the book's build would refuse after minutes; on every page, converted or not."""
    pages = [ROOT / "book" / "intro.md", *(ROOT / "book" / "chapters").rglob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]
    named = {path.name: used(path.read_text()) for path in pages}
    assert sum(map(len, named.values())) > 150
    assert {page: unknown for page, names in named.items() if (unknown := [n for n in names if n not in values])} == {}


def test_names_show_their_group_and_texts_say_something(values: dict[str, str]) -> None:
    assert {name.partition("_")[0] for name in values} == set(GROUPS)
    assert [name for name, text in values.items() if not re.search(r"\d", text)] == []
    assert [name for name, text in values.items() if "nan" in text or "not run" in text] == []


def test_numbers_by_hand(values: dict[str, str]) -> None:
    """Recomputed from the exported files without the tables' code."""
    runs = [json.loads((RESULTS / "spin_shapes" / f"spin-{seed}.json").read_text()) for seed in range(3)]
    ends = [run["last_against_base"]["oracle_quality"]["delta_prev"] for run in runs]
    assert values["play_spin_quality"].startswith(f"{np.mean(ends):+.3f} [")
    eight, five = (
        [json.loads((RESULTS / "rsi_rounds" / f"rsi-{seed}.json").read_text())["rounds"][k]["oracle"] for seed in range(3)] for k in (8, 5)
    )
    assert values["rsi_end_obedience"].startswith(f"{np.mean([e['all_right']['delta_base'] for e in eight]):+.3f} [")
    assert len(five) == 3
    frames = {arm: [Experiments(RESULTS).prompts("spin_shapes", arm, s) for s in range(3)] for arm in ("spin", "frozen")}
    last = {arm: [f[f["round"] == f["round"].max()]["oracle_quality"] for f in seeds] for arm, seeds in frames.items()}
    less = np.mean([(a - b).mean() for a, b in zip(last["spin"], last["frozen"], strict=True)])
    assert values["play_over_frozen_opponent_equal_steps_quality"].startswith(f"{less:+.3f} [")
    errors = [
        [r["scores"]["held_out_error"]["mean"] for r in json.loads(p.read_text())["rounds"]]
        for p in sorted((RESULTS / "spin_controls").glob("own-data-unguided-[0-9].json"))
    ]
    assert values["own_unguided_round_3_error"].startswith(f"{np.mean([100 * (e[3] / e[0] - 1) for e in errors]):+.1f} %")
    assert values["setting_spin_lr"] == "1.5e-06"
    assert values["cost_sd15_spin_forward"] == "0.803 TFLOP"
    assert values["claims_spin_rows"] == "19"


def test_numbers_follow_the_results(tmp_path: Path, values: dict[str, str]) -> None:
    """No number is a constant: with other scores in the files, all changes, levels and differences are others."""
    root = tmp_path / "results"
    shutil.copytree(RESULTS, root)
    rng = np.random.default_rng(0)
    for path in root.rglob("*.parquet"):
        frame = pd.read_parquet(path)
        for column in frame.select_dtypes(include="floating"):
            if column not in ("guidance",):
                frame[column] = frame[column] * rng.uniform(0.3, 0.9) + rng.normal(scale=0.05, size=len(frame))
        frame.to_parquet(path)
    for path in root.rglob("*-[0-9].json"):
        path.write_text(re.sub(r"(?<=\d)\.\d{6,}(?!\d)", lambda _: f".{rng.integers(10**6, 10**7)}", path.read_text()))
    groups = [group for group in GROUPS if group not in ("setting", "cost", "claims", "alarm")]
    other = findings(root, groups)
    intervals = [name for name in other if "[" in values[name]]
    assert len(intervals) > 300
    assert [name for name in intervals if other[name] == values[name]] == []


def test_cells_become_names() -> None:
    table = pd.DataFrame({"q": ["+0.1 [+0.0, +0.2] (3 seeds)", "+0.1 [+0.0, +0.2] (1 seed)"]}, index=["a-b", "c"])
    found = cells("play", table, {"a-b": "a-b", "c": "c", "absent": "absent"}, {"q": "quality", "r": "right"})
    assert found == {"play_a_b_quality": "+0.1 [+0.0, +0.2]", "play_c_quality": "+0.1 [+0.0, +0.2] (one seed)"}
    assert spoken("-0.1 [-0.2, +0.0] *") == "-0.1 [-0.2, +0.0] (one seed)"
    assert spoken("+0.1 [+0.0, +0.2] (2 seeds)").endswith("(two seeds)")


def test_tables_are_drawn_as_they_are_written() -> None:
    assert read("+0.1 [-0.2, +0.3] (1 seed)") == (0.1, -0.2, 0.3)
    assert read("not run") is None
    table = pd.DataFrame({"q": ["-0.002 [-0.003, -0.000] (3 seeds)", "+0.1 [-0.2, +0.3] *", "not run"]}, index=["a", "b", "c"])
    figure = forest(table, {"q": "quality"})
    points = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [(p.get_color(), p.get_markerfacecolor()) for p in points] == [
        ("C1", "C1"),
        ("0.5", "white"),
    ]
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said[:3] == ["interval above zero", "below zero", "holds zero: not decided"]
    assert said[3].startswith("one seed")
    assert len(forest(table.head(1), {"q": "quality"}).legends[0].get_texts()) == 3  # no hollow point, no word on it
    plt.close("all")


def test_unknown_names_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyError, match="no number is named \\['setting_nothing'\\]"):
        chosen(["setting_nothing"], RESULTS)
    with pytest.raises(KeyError):
        fill("{{ nothing }}", {})
    assert fill("a {{ b_c }} d", {"b_c": "1"}) == "a 1 d"
    monkeypatch.setitem(package.GROUPS, "setting", lambda root: {"other": "1"})
    with pytest.raises(ValueError, match="must begin with setting_"):
        findings(RESULTS, ["setting"])


def test_a_reader_of_the_notebook_sees_its_numbers(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    monkeypatch.chdir(ROOT)
    table = numbers("09_collapse", RESULTS)
    assert table.loc["collapse_right_base", "value"] == values["collapse_right_base"]
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        text = path.read_text()
        assert bool(used(text)) == (f'numbers(\\"{path.stem}\\"' in text), path.stem


def test_the_readme_says_what_the_results_say() -> None:
    template = Path(package.__file__).with_name("readme.md").read_text()
    assert decimals(re.sub(r"\{\{.*?\}\}", "", template)) == []
    written = (ROOT / "README.md").read_text()
    assert f"<!-- findings -->\n{readme(RESULTS)}\n<!-- end of findings -->" in written, (
        "paste selfimprove_lab.findings.readme() into README.md"
    )
