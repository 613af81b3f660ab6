from pathlib import Path

import pytest

from selfimprove.data import prompt_sets
from selfimprove.data.prompt_files import PromptError
from selfimprove.data.prompt_sets import judged_prompts
from selfimprove.shapes.captions import HELD_OUT, SCENES


def test_shapes_sets_are_apart_and_know_their_scenes() -> None:
    held_in, held_out = judged_prompts("shapes-held-in", 40), judged_prompts("shapes-held-out", 40)
    assert len(set(held_in.prompts)) == len(set(held_out.prompts)) == 40
    never_trained_on = {tuple(s) for s in SCENES[HELD_OUT].tolist()}
    assert held_in.scenes is not None
    assert held_out.scenes is not None
    assert all(tuple(c.scene) in never_trained_on for c in held_out.scenes)
    assert not any(tuple(c.scene) in never_trained_on for c in held_in.scenes)
    assert [c.text for c in held_out.scenes] == held_out.prompts
    assert held_in.hash != held_out.hash


def test_a_file_is_cleaned_and_a_part_of_it_does_not_depend_on_its_order(tmp_path: Path) -> None:
    lines = [f"a photo of {thing}" for thing in ("one", "two", "three", "four", "one")]
    (tmp_path / "a.txt").write_text("\n".join([*lines, "  "]))
    (tmp_path / "b.txt").write_text("\n".join(reversed(lines)))
    assert judged_prompts(str(tmp_path / "a.txt")).prompts == lines[:4]
    assert judged_prompts(str(tmp_path / "a.txt"), 2).prompts == judged_prompts(str(tmp_path / "b.txt"), 2).prompts
    assert judged_prompts(str(tmp_path / "a.txt")).scenes is None


@pytest.mark.parametrize(("text", "count", "message"), [("a\nb", 3, "count=3"), ("a", -1, "count=-1"), ("\n", 0, "holds no prompt")])
def test_too_few_prompts(tmp_path: Path, text: str, count: int, message: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(PromptError, match=message):
        judged_prompts(str(tmp_path / "a.txt"), count)


@pytest.mark.parametrize(("name", "column"), [("pickapic-test", "caption"), ("partiprompts", "Prompt")])
def test_of_a_published_set_the_prompts_alone_are_streamed(monkeypatch: pytest.MonkeyPatch, name: str, column: str) -> None:
    import datasets

    asked: list[dict[str, object]] = []

    def stream(source: str, **options: object) -> datasets.IterableDataset:
        asked.append(options)
        return datasets.Dataset.from_dict({column: ["a cat", "a dog"], "jpg_0": [b"x"] * 2}).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", stream)
    assert judged_prompts(name).prompts == ["a cat", "a dog"]
    assert all(options["streaming"] for options in asked)
    assert asked[-1]["columns"] == [column]


def test_what_is_not_known_lists_what_is() -> None:
    with pytest.raises(PromptError, match=r"partiprompts.*shapes-held-out"):
        judged_prompts("parti")


def test_a_set_that_the_hub_does_not_give(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[str]:
        raise ConnectionError

    monkeypatch.setitem(prompt_sets.PUBLISHED_SETS, "partiprompts", fail)
    with pytest.raises(PromptError, match="save its prompts as a text file"):
        judged_prompts("partiprompts")
    monkeypatch.setitem(prompt_sets.PUBLISHED_SETS, "partiprompts", lambda: ["a cat", "a cat", "a dog"])
    assert judged_prompts("partiprompts").prompts == ["a cat", "a dog"]
