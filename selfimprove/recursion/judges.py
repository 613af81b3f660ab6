"""Judge prompts: answer a question about clarity or specificity with yes, no, or unknown."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from selfimprove.config import LANGUAGE_MODEL
from selfimprove.data.latents import build_store
from selfimprove.errors import SelfImproveError
from selfimprove.shapes.captions import SYNONYMS
from selfimprove.shapes.render import ATTRIBUTES

Question = Literal["clarity", "specificity"]
QUESTIONS: tuple[Question, ...] = ("clarity", "specificity")
_NUMBERS = {True: 1, False: 0, None: -1}  # how answers are stored
_ANSWERS = {number: answer for answer, number in _NUMBERS.items()}

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
        rules: dict[Question, Callable[[dict[str, set[str]]], bool]] = {
            "clarity": lambda stated: bool(stated["shape"]) and all(len(values) <= 1 for values in stated.values()),
            "specificity": lambda stated: sum(bool(values) for values in stated.values()) >= 3,
        }
        return [rules[question](self.stated(prompt)) for prompt in prompts]


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
    """Return the judge's answers. With the folder `cache`, the processes share the prompts out, and a killed run keeps what is judged.

    A prompt is judged in the same batch however many processes there are, so that its answer is the same (see `latents.build_store`).
    """
    if cache is None or not prompts:
        return judge(question, prompts)

    def make(rows: range) -> dict[str, Tensor]:
        return {"answer": torch.tensor([[_NUMBERS[answer]] for answer in judge(question, prompts[rows.start : rows.stop])])}

    made_from = {"judge": judge.name, "question": question}
    store = build_store(cache / question, len(prompts), make, f"judging {question}", torch.int8, made_from, prompts, remake=True)
    return [_ANSWERS[int(number)] for number in store.take("answer", range(len(prompts)))[:, 0]]
