"""Open an image file of any kind in one way: upright, in sRGB, on white, in 8 bits. Folders, shards, pairs and studies all use it."""

import hashlib
from io import BytesIO
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from selfimprove.errors import DataError
from selfimprove.scorers.images import to_rgb

Image.init()  # loads Pillow's formats before threads ask for them
# the formats of photographs and drawings; not those that Pillow hands to another program, such as EPS to Ghostscript
_KNOWN = "JPEG PNG WEBP AVIF GIF BMP DIB TIFF JPEG2000 PPM TGA ICO PCX PSD QOI DDS"
FORMATS = tuple(name for name in _KNOWN.split() if name in Image.OPEN)
_ENDINGS = "jpg jpeg jfif png webp avif gif bmp tif tiff jp2 ppm pgm tga heic heif"
SUFFIXES = tuple(f".{ending}" for ending in _ENDINGS.split())
ORIENTATION = 0x0112  # the EXIF tag
LOOK = 64  # pixels a side of the image by which two files are found to show the same
THUMB = 8  # pixels a side of the image by which they are found to show nearly the same
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


class ImageError(DataError):
    """The bytes cannot be read as an image; the message is the reason alone, to stand behind the name of a file or a row."""


def kind_of(encoded: bytes) -> str:
    """Return in words what a file is that is no image, as far as its first bytes tell, and what to do; else an empty text."""
    start = encoded[:512].lstrip().lower()
    if not encoded:
        return "an empty file"
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of git-lfs, not the file itself: run git lfs pull"
    if start.startswith((b"<!doctype html", b"<html", b"<head")):
        return "an HTML page: download the file again"
    if encoded[4:8] == b"ftyp" and encoded[8:12] in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"):
        return "a HEIC image, which is not read: convert it to JPEG or PNG"
    if start.startswith((b"<svg", b"<?xml")):
        return "an SVG drawing, which is not read: convert it to PNG"
    return ""


def open_image(encoded: bytes, size: tuple[int, int] | None = None) -> Image.Image:
    """Return an image as 8-bit RGB: upright by its EXIF orientation, its colour profile converted to sRGB, alpha on white.

    With `size` (height, width) the image is scaled to cover it and cropped to its centre; a JPEG is decoded no larger than that needs.
    Values of 16 bits are scaled to 8. A colour profile that cannot be used is left out, as browsers do.

    Raises:
        ImageError: the bytes are no image, are cut off, or hold too many pixels to be decoded safely (about 179 million).
    """
    try:
        with Image.open(BytesIO(encoded), formats=FORMATS) as opened:
            if size:  # twice the size, as decoding at less than the full size is coarser than scaling down
                opened.draft(None, (2 * max(size),) * 2)
            profile = opened.info.get("icc_profile")
            image = ImageOps.exif_transpose(opened)
            image.load()
        image = _on_white(image, profile)
        return ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BICUBIC) if size else image
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises many unrelated types for broken files
        said = "no image of a known format" if isinstance(error, UnidentifiedImageError) else str(error)
        if isinstance(error, Image.DecompressionBombError):
            said = f"too many pixels to be decoded safely ({said}): make it smaller"
        raise ImageError(kind_of(encoded) or said or type(error).__name__) from error


def _on_white(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return the image in sRGB, its transparent parts white."""
    if image.mode.startswith(("I", "F")):  # 16 bits or more: Pillow would clip the values at 255
        image = to_rgb(image).convert("L")
    clear = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    alpha = image.convert("RGBA").getchannel("A") if clear else None
    image = _in_srgb(image, profile) if profile else image.convert("RGB")
    if alpha is None:
        return image
    return Image.composite(image, Image.new("RGB", image.size, "white"), alpha)


def _in_srgb(image: Image.Image, encoded: bytes) -> Image.Image:
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(encoded))
        mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(profile.profile.xcolor_space.strip(), "")
        of_another = mode != "RGB" and image.mode != mode  # the profile describes other channels than there are
        if not of_another and not ImageCms.getProfileDescription(profile).startswith("sRGB"):
            return ImageCms.profileToProfile(image.convert(mode), profile, SRGB, outputMode="RGB") or image.convert("RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        pass
    return image.convert("RGB")


def fitted(encoded: bytes, size: tuple[int, int]) -> Float[Tensor, "3 h w"]:
    """Return an image in [0, 1] that covers `size` (height, width); see `open_image`."""
    return torch.from_numpy(np.asarray(open_image(encoded, size)).copy()).permute(2, 0, 1).float() / 255


class Look(NamedTuple):
    """What one look at an image tells. `problem`: why it cannot be read, or an empty text; the other fields are empty or 0 then.

    `digest`: of the bytes. `pixels`: of the opened image in 64 x 64. `thumb`: the opened image in 8 x 8 pixels, RGB. `height` and `width`
    are those of the upright image.
    """

    digest: str
    problem: str = ""
    pixels: str = ""
    thumb: bytes = b""
    height: int = 0
    width: int = 0


def digest_of(content: bytes) -> str:
    """Return the digest by which a `Look` knows the bytes of a file, and the pixels of an image."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def look(encoded: bytes) -> Look:
    """Decode an image far enough to know whether it can be read, and what it shows."""
    digest = digest_of(encoded)
    try:
        image = open_image(encoded, (LOOK, LOOK))
    except ImageError as error:
        return Look(digest, str(error))
    with Image.open(BytesIO(encoded), formats=FORMATS) as opened:
        width, height = opened.size[::-1] if opened.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8) else opened.size
    pixels = digest_of(image.tobytes())
    return Look(digest, "", pixels, image.resize((THUMB, THUMB), Image.Resampling.BOX).tobytes(), height, width)
