"""HPSv3 against a computation written from its authors' description, on a small random instance; its preprocessing; what is refused."""

import hashlib
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import Qwen2Tokenizer, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from selfimprove.scorers import ScorerError, hpsv3
from selfimprove.scorers.hpsv3 import DIALOGUE, IMAGE, REWARD, WORDS_FILE, Hpsv3Scorer, read_hpsv3, read_words

CPU = torch.device("cpu")
CONTROL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    IMAGE,
]  # tokens 256 to 261; bytes come first
IDS = {token: 256 + index for index, token in enumerate([*CONTROL, REWARD])}
CONFIG = Qwen2VLConfig(
    text_config={
        "vocab_size": 263, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
    },
    vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2, "num_heads": 2, "patch_size": 14},
    image_token_id=IDS[IMAGE],
)  # fmt: skip
WORDS = "\nHow good is it?  \nTextual prompt - {prompt}\n\nIn all:"  # in place of the authors', which are no part of this repository
TAIL = "\n\nEND\n<|im_end|>\n<|im_start|>assistant\n"  # what the authors' text goes on with
SIZES = {
    (512, 512): (448, 448),
    (300, 200): (560, 392),
    (90, 400): (224, 952),
    (1024, 576): (588, 336),
}  # width and height, before and after
PROMPTS = ["a red star", "", "синий круг {0} “on” sand, " * 6, "a ring"]


def pictures() -> list[Image.Image]:
    draws = torch.Generator().manual_seed(1)
    return [Image.fromarray((torch.rand(h, w, 3, generator=draws) * 255).byte().numpy()) for w, h in SIZES]


def published_state() -> dict[str, Tensor]:
    """Random weights under the published names: bfloat16, the head in float32. They are large enough for every part to matter."""
    torch.manual_seed(0)
    head = torch.nn.Sequential(torch.nn.Linear(32, 1024), *map(torch.nn.Identity, range(2)), torch.nn.Linear(1024, 16), torch.nn.Identity())
    head.append(torch.nn.Linear(16, 2))
    names = {"model.visual.": "visual.", "model.language_model.": "model."}
    state = {}
    for key, value in Qwen2VLForConditionalGeneration(CONFIG).state_dict().items():
        old = next((new + key.removeprefix(name) for name, new in names.items() if key.startswith(name)), key)
        state[old] = (torch.randn(value.shape) * (value[0].numel() ** -0.5 if value.dim() > 1 else 0.3) + ("norm" in key)).bfloat16()
    return state | {f"rm_head.{key}": 2 * value for key, value in head.state_dict().items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hpsv3")
    save_file(published_state(), folder / "HPSv3.safetensors")
    tokenizer = Qwen2Tokenizer(vocab={letter: byte for byte, letter in bytes_to_unicode().items()}, merges=[])
    tokenizer.add_tokens(CONTROL, special_tokens=True)
    tokenizer.save_pretrained(folder)
    return folder


def scorer_of(folder: Path, batch_size: int = 4, tokenizer: Path | None = None) -> Hpsv3Scorer:
    read = partial(read_hpsv3, folder / "HPSv3.safetensors", CPU, CONFIG)
    return Hpsv3Scorer("hpsv3", "test", read, WORDS, tokenizer or folder, CPU, batch_size, CONFIG)


def patches(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """Patches of 14 x 14 in blocks of 2 x 2, each twice as two frames."""
    mean, std = torch.tensor(OPENAI_CLIP_MEAN)[:, None, None], torch.tensor(OPENAI_CLIP_STD)[:, None, None]
    resized = torch.tensor(list(image.resize(size, Image.Resampling.BICUBIC).tobytes())).view(size[1], size[0], 3).permute(2, 0, 1)
    pixels, rows, columns = (resized / 255 - mean) / std, range(0, size[1], 28), range(0, size[0], 28)
    corners = [(y + v, x + u) for y in rows for x in columns for v in (0, 14) for u in (0, 14)]
    return torch.stack([pixels[:, None, y : y + 14, x : x + 14].expand(3, 2, 14, 14).flatten() for y, x in corners])


def tokens_of(text: str) -> list[int]:
    for token, number in IDS.items():
        text = text.replace(token, chr(0xE000 + number))
    return [token for letter in text for token in ([ord(letter) - 0xE000] if "\ue000" <= letter < "\uf000" else letter.encode())]


@torch.no_grad()
def expected_score(state: dict[str, Tensor], image: Image.Image, prompt: str) -> Tensor:
    """One image with the whole text, without padding; the text model counts the positions itself, as in the authors' forward."""
    model = Qwen2VLForConditionalGeneration(CONFIG).eval()
    text_names = {k.replace("model.", "model.language_model."): v for k, v in state.items() if k.startswith("model.")}
    image_names = {f"model.{k}": v for k, v in state.items() if k.startswith("visual.")}
    model.load_state_dict(text_names | image_names | {"lm_head.weight": state["lm_head.weight"]})
    model.to(torch.bfloat16).float()  # as authors' train.py casts the network; here the arithmetic stays exact
    width, height = SIZES[image.size]
    seen = model.model.visual(patches(image, (width, height)), torch.tensor([[1, height // 14, width // 14]])).pooler_output
    words = WORDS.replace("{prompt}", prompt)
    text = DIALOGUE.replace("{image}", IMAGE * (width * height // 28**2)).replace("{words}", words) + TAIL
    ids = torch.tensor(tokens_of(text))
    embeddings = model.model.language_model.embed_tokens(ids)
    embeddings[ids == IDS[IMAGE]] = seen
    x = model.model.language_model(inputs_embeds=embeddings[None]).last_hidden_state[0, ids == IDS[REWARD]]
    for layer in (0, 3, 5):
        x = F.linear(x if layer == 0 else x.relu(), state[f"rm_head.{layer}.weight"], state[f"rm_head.{layer}.bias"])
    return x[0, 0]


def test_the_score_is_the_authors_computation(folder: Path) -> None:
    scorer = scorer_of(folder)
    scores = scorer(pictures(), PROMPTS)
    expected = torch.stack([expected_score(published_state(), *pair) for pair in zip(pictures(), PROMPTS, strict=True)])
    assert expected.std() > 0.02
    assert (scores - expected).abs().max() <= 1e-5
    assert (scores - scorer_of(folder, 1)(pictures(), PROMPTS)).abs().max() <= 1e-5
    assert (scores - scorer(pictures(), PROMPTS[::-1])).abs().max() > 1e-3  # the prompt is read
    assert not scores.requires_grad
    assert not any(w.requires_grad for w in scorer.model.parameters())
    assert not scorer.model.training
    assert {w.dtype for w in scorer.model.parameters()} == {torch.float32}


def test_a_large_network_is_kept_in_bfloat16_and_its_head_is_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = scorer_of(folder)(pictures(), PROMPTS)
    monkeypatch.setattr(hpsv3, "LARGE", 1)
    scorer = scorer_of(folder)
    assert {w.dtype for w in scorer.model.backbone.parameters()} == {torch.bfloat16}
    assert {w.dtype for w in scorer.model.head.parameters()} == {torch.float32}
    assert torch.equal(scorer.model.head[0].weight, published_state()["rm_head.0.weight"])
    assert 0 < (scorer(pictures(), PROMPTS) - exact).abs().max() < 0.1


def test_images_get_about_the_same_area(folder: Path) -> None:
    processor = scorer_of(folder).processor
    for picture, (width, height) in zip(pictures(), SIZES.values(), strict=True):
        read = processor([picture], return_tensors="pt")
        assert read.image_grid_thw.tolist() == [[1, height // 14, width // 14]]
        assert torch.allclose(read.pixel_values, patches(picture, (width, height)), atol=1e-5)


def test_the_authors_words_are_asked_for_to_the_letter(tmp_path: Path) -> None:
    """Editors strip blanks at a line's end, and the network was trained with them."""
    with pytest.raises(ScorerError, match=r"instruction.txt', the words that the network reads before the prompt, is missing; write the"):
        read_words(tmp_path)
    wanted = hashlib.sha256(WORDS.encode()).hexdigest()
    (tmp_path / WORDS_FILE).write_text(WORDS + "\n")
    assert read_words(tmp_path, wanted) == WORDS
    (tmp_path / WORDS_FILE).write_text(WORDS.replace("?  ", "?"))
    with pytest.raises(ScorerError, match="holds other words than those of the training"):
        read_words(tmp_path, wanted)


def test_other_checkpoints_and_tokenizers_are_refused(folder: Path, tmp_path: Path) -> None:
    state = published_state()
    wrong = {
        "keys missing": {k: v for k, v in state.items() if k != "rm_head.5.bias"},
        r"1 keys left over \(head.7.weight\)": state | {"rm_head.7.weight": torch.ones(1)},
        r"2 keys left over \(model_x.weight, other.weight\)": state | {"other.weight": torch.ones(1), "model_x.weight": torch.ones(1)},
        r"head.5.weight has shape \(4, 16\), not \(2, 16\)": state | {"rm_head.5.weight": torch.ones(4, 16)},
        r"embed_tokens.weight has shape \(262, 32\)": state | {"model.embed_tokens.weight": torch.ones(262, 32)},
    }
    for index, (message, changed) in enumerate(wrong.items()):
        save_file(changed, tmp_path / f"{index}.safetensors")
        with pytest.raises(ScorerError, match=f"of another architecture: .*{message}"):
            read_hpsv3(tmp_path / f"{index}.safetensors", CPU, CONFIG)
    tokenizer = Qwen2Tokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<|more|>"])
    tokenizer.save_pretrained(tmp_path)
    scorer = scorer_of(folder, tokenizer=tmp_path)
    scorer.read = partial(pytest.fail, "weights were read")
    with pytest.raises(ScorerError, match=r"<\|image_pad\|> and <\|Reward\|> are \[261, 263\]; Qwen2-VL's own tokenizer is needed"):
        scorer(pictures(), PROMPTS)


def test_images_and_prompts_that_the_network_cannot_read_are_refused(folder: Path) -> None:
    scorer = scorer_of(folder)
    with pytest.raises(ScorerError, match=r"an image has \(2010, 10\) pixels; a side may be at most 200 times the other"):
        scorer([Image.new("RGB", (2010, 10), "red")], ["a"])
    for token in (REWARD, IMAGE, "<|im_end|>"):
        with pytest.raises(ScorerError, match=r"the prompt 'a <\|.*\|> b' holds <\|.*, which steers the network; leave it out"):
            scorer(pictures()[:1], [f"a {token} b"])
