"""Judge prompts: answer a question about clarity or specificity with yes, no, or unknown."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from tqdm.auto import tqdm

from selfimprove.config import LANGUAGE_MODEL
from selfimprove.errors import SelfImproveError
from selfimprove.shapes.captions import SYNONYMS
from selfimprove.shapes.render import ATTRIBUTES

Question = Literal["clarity", "specificity"]
QUESTIONS: tuple[Question, ...] = ("clarity", "specificity")
CHUNK = 512  # prompts judged between two writes to the cache

INSTRUCTIONS: dict[Question, str] = {
    "clarity": (
        "You check prompts for a text-to-image model. A prompt is clear if it names what is to be seen, has one plausible reading "
        "and does not contradict itself. Is the prompt clear? Answer with one word, yes or no."
    ),
    "specificity": (
        "You check prompts for a text-to-image model. A prompt is specific if it gives several concrete visual details, such as "
        "attributes of the subject and its surroundings. Is the prompt specific? Answer with one word, yes or no."
    ),
}


class JudgeError(SelfImproveError):
    """The judge cannot be used; the message says why and what to do."""


@runtime_checkable
class Judge(Protocol):
    """A callable that answers a question about each prompt: True, False, or None if no answer can be read. Caches identify it by `name`."""

    name: str

    def __call__(self, question: Question, prompts: Sequence[str]) -> list[bool | None]: ...


class ShapesRules:
    """Judge of the embedded world: rules about the words of its captions.

    A prompt is clear if it names a shape and does not give two values to any attribute (size, colour, shape, background). A prompt is
    specific if it states at least three of the four attributes.
    """

    name = "rules"

    def __init__(self) -> None:
        self.values = {
            word: (attribute, value)
            for attribute, values in ATTRIBUTES.items()
            for value in values
            for word in SYNONYMS.get(value, (value,))
        }
        self.pattern = re.compile(rf"\b({'|'.join(map(re.escape, self.values))})\b")

    def stated(self, prompt: str) -> dict[str, set[str]]:
        """Return, per attribute, the set of values that the prompt names."""
        stated: dict[str, set[str]] = {attribute: set() for attribute in ATTRIBUTES}
        for word in self.pattern.findall(prompt.casefold()):
            attribute, value = self.values[word]
            stated[attribute].add(value)
        return stated

    def __call__(self, question: Question, prompts: Sequence[str]) -> list[bool | None]:
        answers: list[bool | None] = []
        for prompt in prompts:
            stated = self.stated(prompt)
            if question == "clarity":
                answers.append(bool(stated["shape"]) and all(len(values) <= 1 for values in stated.values()))
            else:
                answers.append(sum(bool(values) for values in stated.values()) >= 3)
        return answers


def read_answer(text: str) -> bool | None:
    """Return True if the text begins with "yes", False if it begins with "no", else None. Case does not matter."""
    word = re.match(r"\W*(yes|no)\b", text.strip(), flags=re.IGNORECASE)
    return None if word is None else word[1].lower() == "yes"


class LanguageModelJudge:
    """Judge that asks an instruction-following language model through transformers' chat pipeline, with greedy decoding.

    Raises:
        JudgeError: the model cannot be loaded, or has no chat template.
    """

    def __init__(self, model: str = LANGUAGE_MODEL, device: str = "cpu", batch_size: int = 16) -> None:
        from transformers import GenerationConfig, pipeline  # slow to import, and only needed here

        self.name, self.batch_size = model, batch_size
        try:
            self.pipeline: Any = pipeline("text-generation", model=model, device=device, model_kwargs={"use_safetensors": True})
        except Exception as error:  # the hub client and the loaders raise many unrelated types
            raise JudgeError(
                f"judge={model!r} cannot be loaded ({type(error).__name__}); give the id or folder of an instruction-following "
                "language model with safetensors weights, 'rules' for the shapes world, or use prompt_source='plain'"
            ) from error
        tokenizer = self.pipeline.tokenizer
        if not tokenizer.chat_template:
            raise JudgeError(f"judge={model!r} has no chat template; give an instruction-following model")
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "left"
        ends = self.pipeline.model.generation_config.eos_token_id
        self.decoding = GenerationConfig(do_sample=False, max_new_tokens=4, pad_token_id=tokenizer.pad_token_id, eos_token_id=ends)
        self.pipeline.model.generation_config = self.decoding

    def __call__(self, question: Question, prompts: Sequence[str]) -> list[bool | None]:
        chats = [[{"role": "system", "content": INSTRUCTIONS[question]}, {"role": "user", "content": f"Prompt: {p}"}] for p in prompts]
        answers = self.pipeline(chats, batch_size=self.batch_size, return_full_text=False)
        return [read_answer(a[0]["generated_text"]) for a in answers]


def load_judge(name: str, device: str) -> Judge:
    """Return the shapes world's rules if `name` is "rules", else load a language model by its id or folder."""
    return ShapesRules() if name == "rules" else LanguageModelJudge(name, device)


def judged(judge: Judge, question: Question, prompts: Sequence[str], cache: Path | None = None) -> list[bool | None]:
    """Return the judge's answers. The jsonl file `cache` keeps every answer as soon as its chunk is judged; known answers are reused."""
    known: dict[str, bool | None] = {}
    if cache is not None and cache.exists():
        known = {p: a for name, asked, p, a in _answers(cache) if (name, asked) == (judge.name, question)}
    missing = [p for p in dict.fromkeys(prompts) if p not in known]
    for start in tqdm(range(0, len(missing), CHUNK), desc=f"judging {question}", leave=False):
        chunk = missing[start : start + CHUNK]
        answers = judge(question, chunk)
        known |= dict(zip(chunk, answers, strict=True))
        if cache is not None:
            with cache.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps([judge.name, question, p, a]) + "\n" for p, a in zip(chunk, answers, strict=True))
    return [known[p] for p in prompts]


def _answers(cache: Path) -> Iterator[tuple[str, str, str, bool | None]]:
    for line in cache.read_text(encoding="utf-8").splitlines():
        try:
            name, question, prompt, answer = json.loads(line)
        except ValueError:
            continue  # the incomplete last line of a killed process
        yield name, question, prompt, answer
