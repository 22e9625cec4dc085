"""Numbered boxes on a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from faceattr.results import FaceBox

LONGEST_SIDE = 1280
_COLOUR = (255, 213, 79)
_INK = (20, 20, 20)


def annotate(
    image: NDArray[np.uint8],
    boxes: Sequence[FaceBox],
    *,
    longest_side: int = LONGEST_SIDE,
    reduction: int = 1,
) -> NDArray[np.uint8]:
    """Draw boxes numbered from 1 on a copy.

    Args:
        image: RGB uint8 `(H, W, 3)`.
        boxes: in pixels of the picture.
        longest_side: larger pictures are shrunk to it, since encoding full size is slow.
        reduction: pixels of the picture for one of `image`, along each side.

    Returns:
        RGB uint8, at most `longest_side` pixels on its longer side.
    """
    picture = Image.fromarray(image)
    scale = min(1.0, longest_side / max(picture.size))
    if scale < 1:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    draw = ImageDraw.Draw(picture)
    line = max(2, round(max(picture.size) / 400))
    for number, box in enumerate(boxes, start=1):
        left, top, width, height = (
            side * scale / reduction for side in (box.x, box.y, box.width, box.height)
        )
        right, bottom = left + width, top + height
        draw.rectangle((left, top, right, bottom), outline=_INK, width=line + 2)
        draw.rectangle((left, top, right, bottom), outline=_COLOUR, width=line)
        font = ImageFont.load_default(float(np.clip((right - left) * 0.3, 12, 28)))
        x, y = max(0.0, left), max(0.0, top)
        tag = draw.textbbox((x + 3, y + 1), str(number), font=font)
        draw.rectangle((x, y, tag[2] + 3, tag[3] + 3), fill=_COLOUR)
        draw.text((x + 3, y + 1), str(number), fill=_INK, font=font)
    return np.asarray(picture, np.uint8)
