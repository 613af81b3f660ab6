"""Train the embedded scorers, in the classes of the published ones: a contrastive CLIP, three preference CLIPs, an aesthetic head.

The labellers behind them disagree on purpose: `saturation` prefers large and saturated shapes, `shading` prefers shading, and
`alignment` weighs the caption most. All scorers are learned from noisy labels and make mistakes.
"""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, CLIPVisionConfig
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from selfimprove.draws import generator
from selfimprove.scorers import AestheticHead
from selfimprove.shapes.captions import Caption, caption
from selfimprove.shapes.image_sets import PREFERENCE_SLOPE
from selfimprove.shapes.render import COLOURS, FACTORS, IMAGE_SIZE, Drawing, render
from selfimprove_lab.pretrain.fit import Workshop, fit, random_drawing
from selfimprove_lab.pretrain.oracle import round_trip
from selfimprove_lab.pretrain.text import text_config

CONTRASTIVE_STEPS, PREFERENCE_STEPS, AESTHETIC_STEPS = 900, 200, 300
BATCH, LR = 128, 2e-3
POOL = 8_000
LABEL_KINDS = {"full": 0.7, "partial": 0.3}
SATURATION = torch.tensor([max(rgb) - min(rgb) for rgb in COLOURS.values()])


def _misses(captions: list[Caption], drawn: Drawing) -> Tensor:
    scenes = torch.tensor([c.scene for c in captions])
    stated = torch.tensor([c.stated for c in captions])
    return ((drawn.attributes != scenes) & stated).sum(1)


LABELLERS: dict[str, Callable[[list[Caption], Drawing], Tensor]] = {
    "saturation": lambda c, d: 0.8 * d.quality + 0.25 * d.attributes[:, 0] + 0.5 * SATURATION[d.attributes[:, 1]] - 0.3 * _misses(c, d),
    "shading": lambda c, d: d.factors[:, FACTORS.index("shading")] + 0.3 * d.quality - 0.3 * _misses(c, d),
    "alignment": lambda c, d: 0.4 * d.quality - 0.8 * _misses(c, d),
}


def build_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    text = text_config(tokenizer, layers=2)
    text.hidden_size, text.intermediate_size = 64, 128
    vision = CLIPVisionConfig(
        hidden_size=96, intermediate_size=192, projection_dim=64, num_hidden_layers=3, num_attention_heads=4,
        image_size=IMAGE_SIZE, patch_size=8,
    )  # fmt: skip
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=64))


class _Pool:
    """Drawings and their images, made once: half are fresh renders, half round trips through the autoencoder."""

    def __init__(self, workshop: Workshop, vae: AutoencoderKL) -> None:
        self.drawn = random_drawing(workshop.steps(POOL), generator(workshop.seed, "pretrain/scorers/pool"))
        images = render(self.drawn)[0]
        images[::2] = round_trip(vae, images[::2]).cpu()
        self.pixels = _normalise(images)

    def take(self, count: int, draws: torch.Generator) -> tuple[Drawing, Tensor]:
        rows = torch.randint(len(self.pixels), (count,), generator=draws)
        return Drawing(*(part[rows] for part in self.drawn)), self.pixels[rows]


def _normalise(images: Tensor) -> Tensor:
    mean, std = torch.tensor(OPENAI_CLIP_MEAN), torch.tensor(OPENAI_CLIP_STD)
    return (images - mean[:, None, None]) / std[:, None, None]


def _captions(drawn: Drawing, draws: torch.Generator) -> list[Caption]:
    keys = torch.randint(1 << 40, (len(drawn.attributes),), generator=draws).tolist()
    return [caption(tuple(s), "label", k, kinds=LABEL_KINDS) for s, k in zip(drawn.attributes.tolist(), keys, strict=True)]


def train_scorers(workshop: Workshop, vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> tuple[dict[str, CLIPModel], AestheticHead]:
    """Train the scorers. Return the CLIP models by name (`clip` and one per labeller) and the aesthetic head on the features of `clip`."""
    torch.manual_seed(workshop.seed)
    pool, device = _Pool(workshop, vae), workshop.device

    def tokens(captions: list[Caption]) -> dict[str, Tensor]:
        return dict(tokenizer([c.text for c in captions], padding=True, return_tensors="pt").to(device))

    clip = build_clip(tokenizer).to(device)

    def contrastive(draws: torch.Generator) -> Tensor:
        drawn, pixels = pool.take(BATCH, draws)
        out = clip(pixel_values=pixels.to(device), **tokens(_captions(drawn, draws)), return_loss=True)
        return out.loss.float()

    fit(workshop, "clip", clip, contrastive, workshop.steps(CONTRASTIVE_STEPS), LR)
    models = {"clip": clip}
    for name, taste in LABELLERS.items():
        model = copy.deepcopy(clip)
        model.logit_scale.requires_grad_(False)

        def preference(draws: torch.Generator, model: CLIPModel = model, taste: Callable = taste) -> Tensor:
            drawn, pixels = pool.take(BATCH // 2, draws)
            captions = _captions(drawn, draws)
            # the rival is the same scene at another quality or, in a third of the pairs, another scene
            rival_quality = torch.rand(len(captions), generator=draws)
            strangers, _ = pool.take(len(captions), draws)
            stranger = torch.rand(len(captions), 1, generator=draws) < 1 / 3
            same = drawn._replace(factors=(drawn.factors + rival_quality[:, None] - drawn.quality[:, None]).clamp(0, 1))
            rival = Drawing(*(torch.where(stranger, a, b) for a, b in zip(strangers, same, strict=True)))
            margin = PREFERENCE_SLOPE * (taste(captions, drawn) - taste(captions, rival))
            wins = torch.rand(len(captions), generator=draws) < torch.sigmoid(margin)
            both = torch.cat([pixels, _normalise(render(rival)[0])]).to(device)
            out = model(pixel_values=both, **tokens(captions))
            text = out.text_embeds.repeat(2, 1)
            first, second = (model.logit_scale.exp() * (out.image_embeds * text).sum(1)).float().chunk(2)
            return -F.logsigmoid(torch.where(wins.to(device), 1, -1) * (first - second)).mean()

        models[name] = fit(workshop, name, model, preference, workshop.steps(PREFERENCE_STEPS), LR / 4)

    head = AestheticHead(clip.config.projection_dim).to(device)

    def aesthetic(draws: torch.Generator) -> Tensor:
        drawn, pixels = pool.take(BATCH, draws)
        with torch.no_grad():
            features = F.normalize(clip.get_image_features(pixel_values=pixels.to(device)).pooler_output.float(), dim=1)
        rating = 1 + 9 * drawn.quality + 0.7 * torch.randn(BATCH, generator=draws)  # 1 to 10, as people rate
        return F.mse_loss(head(features).float(), rating.to(device))

    fit(workshop, "aesthetic", head, aesthetic, workshop.steps(AESTHETIC_STEPS), LR)
    return models, head
