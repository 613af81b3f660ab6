"""The embedded world: renderer, grammar, image sets, and the promises of the shipped models."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import CLIPTokenizer

from selfimprove.scorers import load_scorers
from selfimprove.shapes import ASSETS, PIPELINE
from selfimprove.shapes.captions import HELD_OUT, KIND_WEIGHTS, SCENES, TEMPLATES, canonical, caption, phrasings
from selfimprove.shapes.image_sets import base_set, confused, losers, pairs, utility, winners
from selfimprove.shapes.oracle import load_oracle
from selfimprove.shapes.render import FACTORS, Drawing, drawing, render

CARD = json.loads((ASSETS / "card.json").read_text())


def perfect(attributes: torch.Tensor) -> Drawing:
    batch = len(attributes)
    return Drawing(attributes, torch.ones(batch, len(FACTORS)), torch.full((batch, 3), 0.5))


def test_a_perfect_drawing_is_centred_and_of_its_colour() -> None:
    images, masks = render(perfect(SCENES))
    line = torch.linspace(-1, 1, 64)
    for axis in (2, 3):
        other = 5 - axis
        centre = (masks.sum((1, other)) * line).sum(1) / masks.sum((1, 2, 3))
        symmetric = torch.tensor([s[2] in (0, 1, 5, 6) for s in SCENES.tolist()])
        assert centre[symmetric].abs().max() < 0.02
    assert images.min() >= 0
    assert images.max() <= 1
    area = masks.mean((1, 2, 3))
    assert area[SCENES[:, 0] == 1].min() > 2 * area[SCENES[:, 0] == 0].min()


@pytest.mark.parametrize("factor", range(len(FACTORS)))
def test_each_factor_changes_the_image_and_only_by_itself(factor: int) -> None:
    drawn = perfect(SCENES[SCENES[:, 2] == 3][:16])
    worse = drawn.factors.clone()
    worse[:, factor] = 0.2
    difference = (render(drawn)[0] - render(drawn._replace(factors=worse))[0]).abs().mean((1, 2, 3))
    assert difference.min() > 1e-3
    assert torch.equal(render(drawn)[0], render(drawn)[0])


def test_quality_is_the_mean_of_the_factors() -> None:
    uniform = torch.rand(500, 8, generator=torch.Generator().manual_seed(0))
    drawn = drawing(SCENES[:500], torch.full((500,), 0.5), uniform)
    assert abs(float(drawn.quality.mean()) - 0.5) < 0.01
    assert torch.allclose(drawn.quality, drawn.factors.mean(1))


def test_the_grammar_is_large_and_says_what_it_states() -> None:
    assert len(set(phrasings("full"))) > 20_000
    for kind in TEMPLATES:
        assert len(set(phrasings(kind))) == len(list(phrasings(kind)))
    for i in range(300):
        made = caption(tuple(SCENES[(7 * i) % 512].tolist()), "test", i)
        assert made.kind in KIND_WEIGHTS
        assert all(made.stated) == (made.kind == "full")
    assert canonical((0, 1, 3, 0)) == "a small orange star on a white background"
    assert caption((0, 0, 0, 0), "k", 1) == caption((0, 0, 0, 0), "k", 1)


def test_captions_neither_collapse_nor_truncate() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(PIPELINE / "tokenizer")
    texts = list(phrasings("full"))[::97] + ["a handwritten seven", "a photo of an astronaut riding a horse on the moon", "日本の山"]
    tokens = [tuple(tokenizer(t).input_ids) for t in texts]
    assert len(set(tokens)) == len(texts)
    assert max(len(t) for t in tokens) <= tokenizer.model_max_length


def test_image_sets() -> None:
    held_out = {tuple(s) for s in SCENES[HELD_OUT].tolist()}
    base, won = base_set(400, 5), winners(400, 5)
    for captions, _ in (base, won):
        assert not held_out & {c.scene for c in captions}
    assert 0.2 < HELD_OUT.float().mean() + 0.01 < 0.22
    assert 0.65 < won.drawing.quality.mean() < 0.85
    assert base.drawing.quality.max() > won.drawing.quality.min()  # they overlap
    compared = pairs(400, 5)
    better = utility(compared.captions, compared.first) > utility(compared.captions, compared.second)
    agreement = (better == compared.first_wins).float().mean()
    assert 0.65 < agreement < 0.95  # a coin, not a rule
    again = winners(400, 5, copy=1)
    assert [c.text for c in again.captions] == [c.text for c in won.captions]
    assert not torch.equal(again.drawing.factors, won.drawing.factors)
    assert torch.equal(winners(10, 5).drawing.factors, won.drawing.factors[:10])  # each image by itself


def test_the_base_set_is_wrong_by_a_rule_that_guidance_cannot_undo() -> None:
    shown = confused(SCENES)
    wrong = shown != SCENES
    assert 0.2 < wrong.any(1).float().mean() < 0.3
    assert wrong.any(0).tolist() == [False, True, True, False]  # colours or shapes, and in no scene both
    assert wrong.sum(1).max() == 1
    captions, drawn = base_set(200, 5)
    assert torch.equal(drawn.attributes, confused(torch.tensor([c.scene for c in captions])))


def test_the_card_keeps_its_promises() -> None:
    vae, oracle, base = CARD["vae"], CARD["oracle"], CARD["base"]
    assert vae["psnr_image_db"] >= 30
    assert vae["psnr_shape_db"] >= 24
    assert vae["quality_spearman"] >= 0.95
    assert abs(vae["quality_bias_winners"]) <= 0.05
    for level in ("quality .3-.5", "winners"):
        assert oracle[level]["all_right"] >= 0.95
        assert oracle[level]["quality_error"] <= 0.05
    assert 0.6 <= base["held_in"]["all_right"] <= 0.9
    assert 0.3 <= base["held_in"]["quality"] <= 0.5


def test_everything_shipped_is_small() -> None:
    assert sum(p.stat().st_size for p in ASSETS.rglob("*") if p.is_file()) <= 20e6


def test_the_oracle_still_reads_as_the_card_says() -> None:
    _, drawn = winners(200, 99)
    images, _ = render(drawn)
    reading = load_oracle().read(images)
    right = reading.all_right(drawn.attributes, torch.ones_like(drawn.attributes, dtype=torch.bool))
    assert right.float().mean() >= 0.93
    assert (reading.quality - drawn.quality).abs().mean() <= 0.06
    noise = load_oracle().read(torch.rand(50, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert noise.is_scene.float().mean() < 0.1
    assert noise.quality.mean() < 0.1


def test_scorers_prefer_the_right_caption_and_disagree() -> None:
    captions, drawn = winners(128, 98)
    images, _ = render(drawn)
    prompts = [c.text for c in captions]
    scores = {n: s(images, prompts) for n, s in load_scorers(("clip", "saturation", "shading", "aesthetic"), torch.device("cpu")).items()}
    wrong = load_scorers(("clip",), torch.device("cpu"))["clip"](images, prompts[1:] + prompts[:1])
    assert (scores["clip"] > wrong).float().mean() > 0.9
    correlation = torch.corrcoef(torch.stack([scores["saturation"], scores["shading"]]))[0, 1]
    assert correlation < 0.95
    alone = load_scorers(("aesthetic",), torch.device("cpu"))["aesthetic"](images[:3], prompts[:3])
    assert torch.allclose(alone, scores["aesthetic"][:3], atol=1e-4)
    with pytest.raises(ValueError, match="scorers=\\['beauty'\\]"):
        load_scorers(("beauty",), torch.device("cpu"))


def test_the_pipeline_loads_and_samples_without_this_package() -> None:
    program = f"""
import sys, torch
from diffusers import StableDiffusionPipeline
pipeline = StableDiffusionPipeline.from_pretrained({str(PIPELINE)!r})
image = pipeline("a large red star on a white background", num_inference_steps=2, guidance_scale=3.0).images[0]
assert image.size == (64, 64) and not any(m.startswith("selfimprove") for m in sys.modules)
"""
    subprocess.run([sys.executable, "-I", "-c", program], check=True, capture_output=True, text=True)


def test_winners_and_losers_are_the_two_sides_of_each_pair() -> None:
    made, won, lost = pairs(300, 5), winners(300, 5), losers(300, 5)
    assert [c.text for c in won.captions] == [c.text for c in lost.captions] == [c.text for c in made.captions]
    first = made.first_wins[:, None]
    assert torch.equal(torch.where(first, won.drawing.factors, lost.drawing.factors), made.first.factors)
    assert torch.equal(torch.where(first, lost.drawing.factors, won.drawing.factors), made.second.factors)
    assert utility(won.captions, won.drawing).mean() > utility(lost.captions, lost.drawing).mean() + 0.05
