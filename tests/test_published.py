"""The published tables: recomputed, tampered with, and set beside made-up results."""

from collections import Counter
from dataclasses import replace
from decimal import Decimal

import pandas as pd
import pytest

from selfimprove_lab.published import AVERAGE, VERSION, Table, load_table, tables
from selfimprove_lab.published.beside import NOT_PRINTED, NOT_RUN, beside
from selfimprove_lab.published.checks import check

SCORES = [f"spin-diffusion/{n}" for n in (1, 2, 7, 8, 9, 10, 11)]


def tampered(table: Table, cells: dict[tuple[str, str], str]) -> Table:
    printed = table.printed.copy()
    for (model, column), value in cells.items():
        printed.loc[model, column] = Decimal(value)
    return replace(table, printed=printed)


def kinds(table: Table) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    return {(f.found, f.cells) for f in check(table)}


def test_all_tables_are_there() -> None:
    assert tables() == ["rsidiff/1", *(f"spin-diffusion/{n}" for n in range(1, 12))]
    papers = [load_table(t) for t in tables() if t.startswith("spin")]
    fields = {frozenset(f for f in t.protocol if not f.endswith(VERSION)) for t in papers}
    assert len(fields) == 1, "the tables of a paper have the same protocol fields"


@pytest.mark.parametrize("table_id", tables())
def test_code_finds_exactly_what_is_footnoted(table_id: str) -> None:
    table = load_table(table_id)
    found = Counter((f.found, f.cells) for f in check(table))
    noted = Counter((n.found, n.cells) for n in table.footnotes if n.found != "reading")
    assert found == noted
    for note in table.footnotes:
        assert all(model in table.printed.index and column in table.printed for model, column in note.cells)
        assert not any(line in note.text for line in ("\n", "  "))


@pytest.mark.parametrize("table_id", tables())
def test_tables_are_complete(table_id: str) -> None:
    table = load_table(table_id)
    assert "arXiv:2" in table.source
    assert "table" in table.source
    assert not table.printed.isna().to_numpy().any()
    assert (table.values.to_numpy() > 0).all()
    assert set(table.units) == set(table.printed)
    assert all(table.units.values())


def test_cells_keep_the_printed_digits() -> None:
    assert str(load_table("spin-diffusion/9").printed.loc["SFT", AVERAGE]) == "7.333"
    assert str(load_table("spin-diffusion/3").printed.loc["SFT", "HPS"]) == "82.0"
    assert load_table("spin-diffusion/1").values.loc["SPIN round 3", "PickScore"] == 22.0024
    assert load_table("spin-diffusion/6").values["prompts"].to_dict() == {"Pick-a-Pic": 500, "PartiPrompts": 1630, "HPSv2": 3200}
    assert load_table("spin-diffusion/5").values.loc["SPIN round 2", "Castle"] == 6.993
    assert load_table("rsidiff/1").values.loc["SFT"].tolist() == [59.8, 64.9]


@pytest.mark.parametrize("table_id", SCORES)
def test_a_wrong_digit_in_any_score_is_found(table_id: str) -> None:
    table = load_table(table_id)
    for model in table.printed.index:
        for column in table.printed:
            wrong = str(table.printed.loc[model, column] + Decimal("0.001"))
            assert ("average", ((model, AVERAGE),)) in kinds(tampered(table, {(model, column): wrong}))


def test_percentages_must_be_shares_of_the_prompts() -> None:
    table = load_table("spin-diffusion/3")
    cell = ("DPO", "HPS")
    for wrong in ("100.2", "-0.2", "75.7"):  # 75.7 % of 500 prompts are 378.5
        assert ("percentage", (cell,)) in kinds(tampered(table, {cell: wrong}))
    assert ("percentage", (cell,)) not in kinds(tampered(table, {cell: "75.6"}))


def test_repeated_rows_are_found_only_where_they_are() -> None:
    eight = load_table("spin-diffusion/8")
    assert not any(kind == "repeat" for kind, _ in kinds(tampered(eight, {("SFT", "HPS"): "0.2782"})))
    one = load_table("spin-diffusion/1")
    copied = {("DPO", c): str(v) for c, v in one.printed.loc["SFT"].items()}
    assert ("repeat", tuple(("DPO", c) for c in one.printed)) in kinds(tampered(one, copied))


def test_tables_are_held_against_each_other() -> None:
    eleven = load_table("spin-diffusion/11")
    assert ("disagree", (("SFT", "HPS"),)) in kinds(tampered(eleven, {("SFT", "HPS"): "0.2748"}))
    four, cell = load_table("spin-diffusion/4"), ("SD-1.5", "HPS")
    assert ("opposite", (cell,)) in kinds(four)
    assert ("opposite", (cell,)) not in kinds(tampered(four, {cell: "18.8"}))  # 18.8 + 81.2 = 100


def test_sentences_are_held_against_the_cells() -> None:
    three, cell = load_table("spin-diffusion/3"), ("SPIN round 3", "PickScore")
    assert ("claim", (cell,)) in kinds(three)
    assert ("claim", (cell,)) not in kinds(tampered(three, {cell: "79.8"}))
    nine, cell = load_table("spin-diffusion/9"), ("SPIN round 3", "ImageReward")
    assert ("claim", (cell,)) in kinds(nine)
    assert ("claim", (cell,)) in kinds(tampered(nine, {cell: "1.1547"})), "a tie with a baseline is no lead"
    assert ("claim", (cell,)) not in kinds(tampered(nine, {cell: "1.1548"}))
    said = [f.said for f in check(load_table("spin-diffusion/1"))]
    assert "abstract: SPIN round 2 not higher: HPS 0.2751 against 0.2753" in said


ONE = load_table("spin-diffusion/1")
RESULTS = pd.DataFrame({"PickScore": {"SD-1.5": 20.7, "SPIN-LoRA round 1": (21.0, 20.9, 21.1)}, "HPS": {"SD-1.5": 0.26512}})
PROTOCOL = ONE.protocol | {"images per prompt": 4, "sampler": "DDIM", "HPS version": "hpsv2: xswu/HPSv2/HPS_v2_compressed.pt"}


def test_results_stand_beside_the_table() -> None:
    shown = beside(ONE, RESULTS, PROTOCOL, commands={"SD-1.5": "make a", "SFT": "make b"})
    frame = shown.frame
    assert list(frame.index) == [*ONE.printed.index, "SPIN-LoRA round 1"]
    assert frame.loc["SD-1.5", ("HPS", "published")] == "0.2699"
    assert frame.loc["SD-1.5", ("HPS", "here")] == "0.2651"
    assert frame.loc["SPIN-LoRA round 1", ("PickScore", "here")] == "21.0000 [20.9000, 21.1000]"
    assert frame.loc["SPIN-LoRA round 1", ("PickScore", "published")] == NOT_PRINTED
    assert frame.loc["SPIN-LoRA round 1", ("HPS", "here")] == NOT_RUN
    assert (frame["Aesthetic", "here"] == NOT_RUN).all()
    assert frame["command", "to fill"].to_dict() == dict.fromkeys(frame.index, "") | {"SD-1.5": "make a", "SFT": "make b"}
    assert frame.loc["DPO", ("PickScore", "published")] == "21.5919 [4]"
    assert shown.footnotes[3].startswith("[4] Section 6.2 gives 21.45")


def test_a_full_row_needs_no_command() -> None:
    table = load_table("rsidiff/1")
    results = pd.DataFrame({c: {"SFT": 50.0} for c in table.printed})
    frame = beside(table, results, table.protocol, commands={"SFT": "make study", "SD-1.4": "make study"}).frame
    assert frame["command", "to fill"].to_dict() == {"SD-1.4": "make study", "SFT": ""}


def test_the_header_names_every_difference() -> None:
    header = beside(ONE, RESULTS, PROTOCOL | {"seed": None, "batch": 8}).header
    assert "arXiv:2402.10210, table 1, page 9" in header
    differences = header.partition("Differences of protocol: ")[2]
    assert differences == (
        "images per prompt: 5 there, 4 here; sampler: not stated there, DDIM here; seed: one fixed, 5775709 there, not stated here; "
        "batch: not stated there, 8 here."
    )
    assert beside(ONE, RESULTS, ONE.protocol).header.endswith("The protocols agree in every field.")


def test_versions_matter_only_of_what_was_measured() -> None:
    other = PROTOCOL | {"HPS version": "hpsv2.1: xswu/HPSv2/HPS_v2.1_compressed.pt"}
    with pytest.raises(ValueError, match=r"HPS version 'hpsv2\.1', spin-diffusion/1 has 'hpsv2'.*force=True"):
        beside(ONE, RESULTS, other)
    with pytest.raises(ValueError, match="HPS version"):  # the average holds HPS
        beside(ONE, pd.DataFrame({AVERAGE: {"SD-1.5": 7.0}}), other)
    assert "HPS version: hpsv2 there, hpsv2.1 here" in beside(ONE, RESULTS, other, force=True).header
    assert "HPS version" not in beside(ONE, RESULTS[["PickScore"]], other).header


def test_rendering_escapes_and_keeps_header_and_footnotes() -> None:
    table = replace(ONE, title="<b>", footnotes=(ONE.footnotes[0]._replace(text="a < b"),))
    for page in (table._repr_html_(), beside(table, RESULTS, PROTOCOL)._repr_html_()):
        assert "&lt;b&gt;" in page
        assert "<p>[1] a &lt; b</p>" in page
        assert "<table" in page


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"table_id='spin-diffusion/12' is not known; choose one of \['rsidiff/1', 'spin-diffusion/1'"):
        load_table("spin-diffusion/12")
    with pytest.raises(ValueError, match=r"columns \['CLIP'\], which spin-diffusion/1 does not have; .*'HPS'"):
        beside(ONE, RESULTS.assign(CLIP=0.3), PROTOCOL)
    with pytest.raises(ValueError, match=r"protocol lacks \['guidance', 'steps', 'PickScore version'\]"):
        beside(
            ONE, RESULTS, {f: v for f, v in PROTOCOL.items() if f not in ("guidance", "steps", "PickScore version", "Aesthetic version")}
        )
    with pytest.raises(ValueError, match=r"rows \['SD-1.5'\] more than once"):
        beside(ONE, pd.concat([RESULTS, RESULTS.iloc[:1]]), PROTOCOL)
    with pytest.raises(ValueError, match=r"commands names \['SD15'\]"):
        beside(ONE, RESULTS, PROTOCOL, commands={"SD15": "make"})


@pytest.mark.parametrize("cell", [(0.3, 0.2), (0.3, 0.4, 0.5), (0.3, float("nan"), 0.5), float("inf"), "high", (0.1, 0.2, 0.3, 0.4)])
def test_bad_cells_are_named(cell: object) -> None:
    results = pd.DataFrame({"HPS": pd.Series([cell], index=["SFT"], dtype=object)})
    with pytest.raises(ValueError, match=r"results at 'SFT', 'HPS' is .*; give a finite number"):
        beside(ONE, results, PROTOCOL)
