import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import tiny_language_model

from selfimprove.data.images import load_data
from selfimprove.data.latents import SHARD
from selfimprove.data.prompt_files import PromptError, load_prompts
from selfimprove.errors import DataError
from selfimprove.recursion.judges import JudgeError, LanguageModelJudge, ShapesRules, judged, read_answer
from selfimprove.recursion.prompts import (
    Collection,
    PromptSet,
    collect,
    drop_duplicates,
    prepare,
    spread,
    templates,
)
from selfimprove.shapes.captions import collected_prompts

TEXTS = ["a red star", "a blue moon on sand", "ein grüner Stern", "山の上の赤い星"]


def letters(prompts: list[str]) -> np.ndarray:
    """Counts of letters as an embedding."""
    return np.array([[p.count(c) for c in "abcdefghijklmnopqrstuvwxyz "] for p in prompts], dtype=np.float32)


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "tsv", "json", "parquet"])
def test_every_kind_of_file(tmp_path: Path, kind: str) -> None:
    path, frame = tmp_path / f"prompts.{kind}", pd.DataFrame({"id": range(4), "prompt": TEXTS})
    if kind == "txt":
        path.write_text("\n".join(TEXTS))
    elif kind.startswith("json"):
        frame.to_json(path, orient="records", lines=kind == "jsonl")
    elif kind == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="," if kind == "csv" else "\t")
    assert load_prompts(str(path)) == TEXTS
    if kind != "txt":
        for one_of_two in ((str(path), "caption"), (f"{path}#caption", "")):
            with pytest.raises(PromptError, match=r"has no column caption; it has \['id', 'prompt'\]: name one, as in prompts='.*#name'"):
                load_prompts(*one_of_two)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("notepad.txt", "\ufeffa cat\r\n007\r\n"),
        ("notepad.csv", "\ufeffprompt\r\na cat\r\n007\r\n"),
        ("PartiPrompts.tsv", "Prompt\tCategory\tNote\na cat\tAbstract\t\n007\tAbstract\tSimple numbers\n"),
        ("utf-16.csv", "prompt\tn\na cat\t1\n007\t2\n"),
        ("old.json", '{"version": 1, "prompts": [{"Prompt": "a cat"}, {"Prompt": "007"}]}'),
        ("captions_val.json", '{"info": {}, "images": [{"file_name": "0"}], "annotations": [{"caption": "a cat"}, {"caption": "007"}]}'),
        ("lines.json", '{"prompt": "a cat"}\n{"prompt": "007"}\n'),
        ("table.parquet", ""),
        ("DrawBench.csv", 'Prompts,Category\n"a cat",Colors\n007,Counting\n'),
        ("excel.csv", "id;Caption\n1;a cat\n2;007\n"),
        ("anime.json", '["a cat", "007"]'),
        ("evaluation_metadata.jsonl", '{"tag": "x", "include": [], "prompt": "a cat"}\n{"tag": "y", "include": [], "prompt": "007"}\n'),
        ("any.csv#Sentence", "text,Sentence\nno,a cat\nno,007\n"),
        ("in any case.csv#sentence", "text,Sentence\nno,a cat\nno,007\n"),
        ("a#b.txt", "a cat\n007"),
        ("capitals.TXT", "a cat\n007"),
    ],
)
def test_published_forms_give_the_same_two_prompts(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / (name if name.startswith("a#") else name.partition("#")[0])
    path.write_text(text, encoding="utf-16" if name.startswith("utf-16") else "utf-8", newline="")
    if name.endswith(".parquet"):
        pd.DataFrame({"image": [b"x"] * 2, "TEXT": ["a cat", "007"]}).to_parquet(path)
    assert load_prompts(str(tmp_path / name)) == ["a cat", "007"]


def test_quotes_of_partiprompts_are_text(tmp_path: Path) -> None:
    """The published file has such lines, and others that hold quotes further on; other programs quote a text that holds one."""
    lines = ['"G I G G L E" painted on a wall\tx', 'the word "PEACE"\tsays "so"', '"a ""red"" cat"\tx', "'BUY MILK'\t"]
    (tmp_path / "a.tsv").write_text("Prompt\tNote\n" + "\n".join(lines))
    expected = ['"G I G G L E" painted on a wall', 'the word "PEACE"', 'a "red" cat', "'BUY MILK'"]
    assert load_prompts(str(tmp_path / "a.tsv")) == expected
    (tmp_path / "a.tsv").write_text('Prompt\tNote\na cat\tx\n"5 inch nails\tx\na dog\tx\n')
    with pytest.raises(PromptError, match=r"a.tsv row 2 \(line 3\)"):
        load_prompts(str(tmp_path / "a.tsv"))


def test_texts_that_look_like_something_else_stay_texts(tmp_path: Path) -> None:
    said = ["None", "NA", "nan", "2024-01-31", "1e3", "7.10", "true"]
    pd.DataFrame({"prompt": said}).to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps({"prompt": p}) for p in said))
    assert load_prompts(str(tmp_path / "a.csv")) == load_prompts(str(tmp_path / "b.jsonl")) == said


def test_rows_that_are_no_text_are_refused_by_number(tmp_path: Path) -> None:
    captions = [["a cat", "a kitten"], ["a dog"]]
    pd.DataFrame({"caption": captions}).to_parquet(tmp_path / "coco.parquet")
    pd.DataFrame({"caption": captions}).to_json(tmp_path / "coco.jsonl", orient="records", lines=True)
    for kind in ("parquet", "jsonl"):
        with pytest.raises(PromptError, match=r"coco.*row 1, column 'caption': .*a cat.* is of type list, and not one text"):
            load_prompts(str(tmp_path / f"coco.{kind}"))
    (tmp_path / "by id.json").write_text('{\n "0": "a cat",\n "1": "a dog"\n}')
    with pytest.raises(PromptError, match=r"has no column prompt or prompts or text or caption; it has \['0', '1'\]"):
        load_prompts(str(tmp_path / "by id.json"))
    (tmp_path / "one.json").write_text('{"tag": "x", "include": ["bench"], "prompt": "a bench"}')
    assert load_prompts(str(tmp_path / "one.json")) == ["a bench"]
    (tmp_path / "numbers.jsonl").write_text('{"prompt": "a"}\n{"prompt": 7}\n')
    with pytest.raises(PromptError, match="row 2, column 'prompt': '7' is of type int"):
        load_prompts(str(tmp_path / "numbers.jsonl"))
    (tmp_path / "half.json").write_text(r'["a cat", "a \ud83d cat"]')
    with pytest.raises(PromptError, match="row 2: .* is of type str, and not one text of whole characters"):
        load_prompts(str(tmp_path / "half.json"))
    (tmp_path / "loose.csv").write_text("prompt,kind\na cat,x\na cat, red, asleep,x\n")
    with pytest.raises(PromptError, match=r"loose.csv row 2 \(line 3\) has 4 fields"):
        load_prompts(str(tmp_path / "loose.csv"))
    (tmp_path / "no header.csv").write_text("1,a cat\n2,a dog\n")
    with pytest.raises(PromptError, match=r"no column prompt or prompts or text or caption; it has \['1', 'a cat'\]"):
        load_prompts(str(tmp_path / "no header.csv"))


def test_sources_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(
        PromptError, match=r"there is no such file or folder; give a .txt, .csv, .tsv, .json, .jsonl, .ndjson, .parquet file"
    ):
        load_prompts(str(tmp_path / "nowhere.txt"))
    with pytest.raises(PromptError, match="is not understood"):
        load_prompts(str(tmp_path))
    for kind in ("txt", "jsonl", "csv", "tsv", "json"):
        for text in ("", "\ufeff\n"):
            (tmp_path / f"empty.{kind}").write_text(text, encoding="utf-8")
            with pytest.raises(PromptError, match="holds no prompt; give at least one a line|has no rows"):
                load_prompts(str(tmp_path / f"empty.{kind}"))
    (tmp_path / "broken.jsonl").write_text("{nonsense\n")
    with pytest.raises(PromptError, match="broken.jsonl row 1 holds a line that is no JSON"):
        load_prompts(str(tmp_path / "broken.jsonl"))


def test_a_datasets_id_sends_one_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    (tmp_path / "parquet").mkdir()
    pd.DataFrame({"n": range(4), "text": TEXTS, "image": [b"x"] * 4}).to_parquet(tmp_path / "parquet" / "train.parquet")
    (tmp_path / "lines").mkdir()
    pd.DataFrame({"Prompt": TEXTS}).to_json(tmp_path / "lines" / "train.jsonl", orient="records", lines=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    load, asked = datasets.load_dataset, []

    def local(name: str, **options: object) -> object:
        asked.append(options)
        return load(str(tmp_path / name.partition("/")[2]), cache_dir=str(tmp_path / "cache"), **options)

    monkeypatch.setattr(datasets, "load_dataset", local)
    assert load_prompts("someone/parquet") == load_prompts("someone/parquet#TEXT") == load_prompts("someone/lines") == TEXTS
    assert all(options["streaming"] for options in asked)
    assert asked[1]["columns"] == ["text"]
    with pytest.raises(PromptError, match=r"'someone/parquet', row 1, column 'image': .* is of type bytes"):
        load_prompts("someone/parquet#image")
    with pytest.raises(PromptError, match=r"has no column nothing; it has \['n', 'text', 'image'\]"):
        load_prompts("someone/parquet", "nothing")

    def absent(name: str, **options: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(datasets, "load_dataset", absent)
    with pytest.raises(PromptError, match=r"no data set could be had \(ConnectionError\); give a file"):
        load_prompts("someone/prompts")


def test_a_slip_in_a_path_is_not_sought_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule is that of models and of data."""
    import datasets

    asked = list[str]()
    monkeypatch.setattr(datasets, "load_dataset", lambda name, **_: asked.append(name))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "mine.txt").write_text("a cat")
    with pytest.raises(
        PromptError, match=r"prompts='texts/mine': there is no such file or folder, but 'texts/mine.txt'; .* write hub:texts/mine"
    ):
        load_prompts("texts/mine")
    with pytest.raises(
        DataError, match=r"data='texts/mine': there is no such file or folder, but 'texts/mine.txt'; .* write hub:texts/mine"
    ):
        load_data("texts/mine", 1, 1, 1, (16, 16), 0)
    for name in ("a b/c", "a/b/c", "./a", "/a/b", "~/a", "hub:a", "a\\b"):
        with pytest.raises(PromptError, match="there is no such"):
            load_prompts(name)
        with pytest.raises(DataError, match="there is no such"):
            load_data(name, 1, 1, 1, (16, 16), 0)
    with pytest.raises(PromptError, match="is not understood"):
        load_prompts("texts")
    assert not asked
    for name in ("someone/prompts", "hub:texts/mine"):
        with pytest.raises(PromptError, match="no data set could be had"):
            load_prompts(name)
    assert asked == ["someone/prompts", "texts/mine"]


def test_duplicates_and_near_duplicates() -> None:
    kept, reports = drop_duplicates(["A red star", "a  red star ", "a red star, please", "", "a star, red", "Ａ red star", "!!", "the"])
    assert kept == ["A red star", "a star, red", "!!", "the"]
    assert [(r.before, r.after) for r in reports] == [(8, 6), (6, 4)]
    assert "near-duplicate: 6 -> 4, dropped 2; such as 'a red star' | 'a red star, please'" in str(reports[1])


def test_rules_of_the_shapes_world() -> None:
    judge = ShapesRules()
    cases = {  # prompt: (clear, specific)
        "a small red star on a white background": (True, True),
        "a tiny plus sign, sand background, red": (True, True),
        "a red star": (True, False),
        "something nice": (False, False),
        "a red blue star on a white background": (False, True),
        "a star that is a moon on a white background": (False, False),
        "a photo of a hoop": (True, False),
    }
    for prompt, expected in cases.items():
        assert (judge("clarity", [prompt])[0], judge("specificity", [prompt])[0]) == expected, prompt


def test_preparation_reports_what_it_drops_and_spreads_out(tmp_path: Path) -> None:
    collection = collect(collected_prompts(1500, 0), 10, 0)
    made = prepare(collection, ShapesRules(), letters, clusters=12, keep=60, seed=0, cache=tmp_path / "judged")
    assert len(made.prompts) == len(set(made.prompts)) == 60
    assert not set(made.prompts) & set(collection.held_out)
    assert [r.name for r in made.reports] == ["empty or repeated", "near-duplicate", "clarity", "specificity", "diversity"]
    assert all(r.after < r.before for r in made.reports)
    assert [a.after for a in made.reports[:-2]] != [a.before for a in made.reports[:-2]]
    assert made.of_round(2, 40) == made.prompts[40:] + made.prompts[:20]  # fresh ones first, then over again
    again = prepare(collection, ShapesRules(), letters, clusters=12, keep=60, seed=0, cache=tmp_path / "judged")
    assert again == made


def test_spread_takes_the_nearest_of_each_cluster_in_proportion_to_its_size() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]])
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    points = centres[labels] + rng.normal(size=(100, 2))
    rows = spread(points.astype(np.float32), 3, 10, seed=0)
    assert np.bincount(labels[rows]).tolist() == [6, 3, 1]
    for k, count in enumerate([6, 3, 1]):
        members = np.flatnonzero(labels == k)
        apart = np.linalg.norm(points[members] - points[members].mean(0), axis=1)
        assert set(rows[labels[rows] == k]) == set(members[np.argsort(apart)[:count]])
    assert len(spread(points.astype(np.float32), 3, 7, seed=0)) == 7  # the remainder is shared out
    assert (spread(points.astype(np.float32), 3, 10, seed=0) == rows).all()


def test_many_prompts_use_mini_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfimprove.recursion.prompts.MINI_BATCH_ABOVE", 50)
    points = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    rows = spread(points, 5, 40, seed=0)
    assert len(rows) == len(set(rows.tolist())) == 40


def test_split_is_by_prompt_and_seeded() -> None:
    prompts = [f"prompt {i}" for i in range(20)] * 2
    first = collect(prompts, 5, 0)
    assert len(first.held_out) == 5
    assert not set(first.held_out) & set(first.prompts)
    assert set(first.held_out) | set(first.prompts) == set(prompts)
    other = collect(prompts, 5, 1)
    assert other.held_out == first.held_out  # all seeds are judged on the same prompts
    assert other.prompts != first.prompts
    assert sorted(other.prompts) == sorted(first.prompts)
    assert len(collect(prompts[:4], 50, 0).held_out) == 2  # half stays for training
    assert templates(["cat", "owl", "cat"]) == ["a photo of a cat", "a photo of an owl"]


def test_bad_input() -> None:
    with pytest.raises(PromptError, match="no prompt is left"):
        collect(["", " "], 0, 0)
    vague = Collection(["something nice", "an object"], [], [])
    with pytest.raises(PromptError, match=r"every prompt was dropped: clarity: 2 -> 0.*check the judge"):
        prepare(vague, ShapesRules(), letters, 0, 0, 0)
    few = collect([f"prompt {i}" for i in range(5)], 0, 0)
    with pytest.raises(PromptError, match="clusters=6 is more than the 5 prompts that are left"):
        prepare(few, None, letters, clusters=6, keep=3, seed=0)
    for clusters in (0, 2):
        with pytest.raises(PromptError, match="kept=9 is more than the 5 prompts"):
            prepare(few, None, letters, clusters, keep=9, seed=0)
    assert isinstance(prepare(few, None, letters, 0, 0, 0), PromptSet)


def test_answers_are_read_strictly() -> None:
    assert [read_answer(t) for t in ("Yes", " yes.", "**No**", "no, because")] == [True, True, False, False]
    assert [read_answer(t) for t in ("", "Yesterday", "The prompt is clear: yes", "maybe", "yes\n")] == [None, None, None, None, True]


class Counting:
    """Unsure of every third prompt; counts how often it is asked."""

    name = "counting"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, question: str, prompts: Sequence[str]) -> list[bool | None]:
        self.asked += prompts
        return [None if p.endswith("3") else True for p in prompts]


def test_unknown_is_never_a_pass_and_is_reported(tmp_path: Path) -> None:
    made = prepare(collect([f"prompt {i}" for i in range(5)], 0, 0), Counting(), letters, 0, 0, 0)
    assert "prompt 3" not in made.prompts
    assert "clarity: 5 -> 4, dropped 1 (1 without a readable answer); such as 'prompt 3'" in str(made.reports[2])


def test_answers_survive_a_killed_process(tmp_path: Path) -> None:
    cache, judge, prompts = tmp_path / "judged", Counting(), [f"prompt {i}" for i in range(SHARD + 5)]
    expected = [None if i % 10 == 3 else True for i in range(len(prompts))]
    assert judged(judge, "clarity", prompts, cache) == expected
    assert judged(judge, "clarity", prompts, cache) == expected
    assert judge.asked == prompts
    (cache / "clarity" / "00001.safetensors").unlink()  # killed before it was written
    assert judged(judge, "clarity", prompts, cache) == expected
    assert judge.asked == prompts + prompts[SHARD:]
    assert judged(judge, "specificity", prompts[:1], cache) == [True]  # another question, other prompts, another judge: asked anew
    assert judged(judge, "clarity", prompts[1:3], cache) == [True, True]
    judge.name = "other"
    assert judged(judge, "clarity", prompts[1:3], cache) == [True, True]
    assert len(judge.asked) == len(prompts) + 5 + 1 + 2 + 2


def test_a_language_model_that_says_yes(tmp_path: Path) -> None:
    judge = LanguageModelJudge(str(tiny_language_model(tmp_path / "yes", says="yes")), "cpu", 2)
    assert judge("clarity", TEXTS) == [True] * 4


def test_a_language_model_that_answers_nonsense(tmp_path: Path) -> None:
    folder = tiny_language_model(tmp_path / "nonsense", says="star")
    judge = LanguageModelJudge(str(folder), "cpu", 2)
    assert judge("clarity", TEXTS[:2]) == [None, None]
    with pytest.raises(PromptError, match=r"every prompt was dropped: clarity: 4 -> 0, dropped 4 \(4 without a readable answer\)"):
        prepare(collect(TEXTS, 0, 0), judge, letters, 0, 0, 0)


def test_a_language_model_that_is_not_there(tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(JudgeError, match="cannot be loaded .*; give the id or folder of an instruction-following"):
        LanguageModelJudge(str(tmp_path / "nowhere"))
    folder = tiny_language_model(tmp_path / "mute", says="yes")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(JudgeError, match="has no chat template"):
        LanguageModelJudge(str(folder))
