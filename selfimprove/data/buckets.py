"""Give images of different shapes sizes of about the same area: aspect-ratio buckets, as sd-scripts has them. One size is one bucket."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from selfimprove.data.items import Item

Size = tuple[int, int]  # height and width, in pixels
WIDEST = 2  # a side is at most so many times the side of the square of the same area, and at least its half
STEPS = 16  # a side of that square holds at most so many steps, so that buckets stay few
CUT = 0.5  # share of an image that the crop of its centre should leave


class Frame(NamedTuple):
    """How an image is shown: scaled to cover `size`, and cut to it at the centre. `original`: its upright size in the file.

    `original`, `crop` and `size` are what Stable Diffusion XL calls its size and crop conditioning.
    """

    original: Size
    size: Size

    @property
    def scale(self) -> float:
        """Return by what the image's sides are multiplied."""
        return max(self.size[0] / self.original[0], self.size[1] / self.original[1])

    @property
    def crop(self) -> Size:
        """Return (top, left) of the cut in the scaled image, in pixels."""
        top, left = (round((self.scale * there - here) / 2) for there, here in zip(self.original, self.size, strict=True))
        return top, left

    @property
    def left(self) -> float:
        """Return the share of the image that is shown."""
        return math.prod(self.size) / (self.scale**2 * math.prod(self.original))


def frame(original: Size, sizes: Sequence[Size]) -> Frame:
    """Return the frame of an image in the one of `sizes` whose aspect ratio is nearest to its own, by the ratio of the two ratios."""
    ratio = math.log(original[0] / original[1])
    return Frame(original, min(sizes, key=lambda s: (round(abs(math.log(s[0] / s[1]) - ratio), 9), -math.prod(s))))


def bucket_sizes(size: Size, least: int) -> list[Size]:
    """Return `size`, then all further buckets: of each length of the longer side the one of the largest area that is not above `size`'s.

    Sides are multiples of `least` pixels and of a sixteenth of the side of the square of the same area, from half to twice that side.
    """
    side = math.isqrt(math.prod(size))
    step = least * max(1, -(-side // (STEPS * least)))
    found = [size]
    for long in range(step * (side // step), WIDEST * side + 1, step):
        short = min(math.prod(size) // long // step * step, long)
        if WIDEST * short >= side and short > 0:
            found += [(short, long), (long, short)]
    return list(dict.fromkeys(found))


def account(frames: Sequence[Frame], sizes: Sequence[Size]) -> list[str]:
    """Return a line on how many of these images are in each bucket; none if there is one bucket alone."""
    named = ", ".join(f"{count} of {width} x {height}" for (height, width), count in sorted(Counter(each.size for each in frames).items()))
    left = sum(each.left for each in frames) / max(len(frames), 1)
    said = f"images to train on by aspect-ratio bucket, width x height: {named}; the crop leaves {left:.0%} of an image on average"
    return [said] * (len(sizes) > 1)


def fit(items: Sequence[Item], frames: Sequence[Frame]) -> list[str]:
    """Return notes on images that are enlarged, and on those of which the crop of the centre leaves little."""
    shown = [(item.name, frame) for item, frame in zip(items, frames, strict=True)]
    small = [f"{name} ({frame.original[1]} x {frame.original[0]})" for name, frame in shown if frame.scale > 1]
    cut = [name for name, frame in shown if frame.left < CUT]
    named = " or ".join(f"{width} x {height}" for height, width in sorted({frame.size for frame in frames if frame.scale > 1}))
    notes = [f"{len(small)} images are smaller than {named} pixels, and enlarged: {', '.join(small[:3])}"] if small else []
    return notes + ([f"{len(cut)} images lose more than half to the crop of their centre: {', '.join(cut[:3])}"] if cut else [])
