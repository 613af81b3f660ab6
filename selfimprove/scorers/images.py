"""Turn an image of any kind into what a network sees: 8-bit RGB, resized as each scorer's published code does it."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from selfimprove.errors import SelfImproveError

Images = Float[Tensor, "b 3 h w"] | Sequence[Image.Image]  # tensors in [0, 1]; PIL images of any size and mode
DEEPEST = 65535  # the largest value of a 16-bit image


class ScorerError(SelfImproveError):
    """A scorer cannot be loaded, or returned something that is no score; the message says why and what to do."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to 8-bit RGB. Alpha is dropped, without a background, as in the published scorers' code. 16-bit values are scaled to 8 bits.

    Raises:
        ScorerError: the image has mode F, whose range is unknown.
    """
    if image.mode == "F":
        raise ScorerError("an image of mode F (floats) has no known range; convert it to 8 bits, or give a tensor in [0, 1]")
    if image.mode.startswith("I"):  # PIL would clip the values at 255
        values = np.asarray(image).astype(np.float64).clip(0, DEEPEST) / DEEPEST
        image = Image.fromarray((values * 255).round().astype(np.uint8))
    return image.convert("RGB")


def eight_bit(images: Images, rounding: Callable[[Tensor], Tensor] = torch.round) -> list[Image.Image]:
    """Convert images to 8-bit RGB. With the default rounding, a tensor becomes what a saved PNG would hold.

    Raises:
        ScorerError: a tensor has values outside [0, 1], or an image has mode F.
    """
    if not isinstance(images, Tensor):
        return [to_rgb(image) for image in images]
    if not bool(((images >= 0) & (images <= 1)).all()):  # NaN counts as outside
        raise ScorerError(f"images have values from {float(images.min()):g} to {float(images.max()):g}; give images in [0, 1]")
    values = rounding(images.float() * 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(value) for value in values]


def black_images(images: Images) -> list[int]:
    """Return the rows of images that are 0 in 8 bits at every pixel and channel. A safety checker may have blanked them."""
    if isinstance(images, Tensor):
        return ((images * 255).abs() < 0.5).flatten(1).all(1).nonzero()[:, 0].tolist()
    return [row for row, image in enumerate(images) if to_rgb(image).getbbox() is None]


def to_tensor(image: Image.Image) -> Float[Tensor, "3 h w"]:
    """Convert an RGB image to a tensor in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def crop_square(image: Image.Image, size: int) -> Float[Tensor, "3 h w"]:
    """Resize the shorter side of the PIL image to `size` (bicubic) and crop the centre, as OpenAI's CLIP, LAION and ImageReward do.

    The crop's offset is rounded, halves to even, as torchvision does. transformers' CLIP processor rounds it down.
    """
    width, height = image.size
    short = min(width, height)
    width, height = (size if side == short else int(size * side / short) for side in (width, height))
    left, top = (round((side - size) / 2) for side in (width, height))
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return to_tensor(resized.crop((left, top, left + size, top + size)))


def fit_square(image: Image.Image, size: int) -> Float[Tensor, "3 h w"]:
    """Resize the longer side of the tensor to `size` (bicubic, antialiased, not clamped) and pad with zeros: HPSv2's preprocessing.

    Antialiasing follows torchvision 0.17 and later, with which HPSv2's code runs today. If the shorter side would vanish, one pixel of it
    is kept here, where the original fails. The original does not pad an image whose longer side is already `size`.
    """
    pixels = to_tensor(image)
    scale = size / max(pixels.shape[1:])
    height, width = (max(1, round(side * scale)) for side in pixels.shape[1:])
    if scale != 1:
        pixels = F.interpolate(pixels[None], (height, width), mode="bicubic", align_corners=False, antialias=True)[0]
    left, top = (size - width) // 2, (size - height) // 2
    return F.pad(pixels, (left, size - width - left, top, size - height - top))


def normalise(pixels: Float[Tensor, "*b 3 h w"]) -> Float[Tensor, "*b 3 h w"]:
    """Subtract CLIP's mean and divide by its standard deviation, per channel."""
    mean, std = torch.tensor(OPENAI_CLIP_MEAN), torch.tensor(OPENAI_CLIP_STD)
    return (pixels - mean[:, None, None]) / std[:, None, None]


def squares(images: Images, fit: Callable[[Image.Image, int], Tensor], size: int) -> Float[Tensor, "b 3 h w"]:
    """Return the normalised pixels of a batch, with each image made square by `fit`."""
    return normalise(torch.stack([fit(image, size) for image in eight_bit(images)]))
