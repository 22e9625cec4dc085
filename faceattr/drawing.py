"""Faces for people to look at: numbered boxes on an image, and a face with its answers."""

from __future__ import annotations

import base64
import sys
from collections.abc import Sequence
from html import escape
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from faceattr.images import ImageSource, open_image
from faceattr.results import FaceBox, FaceResult

_COLOUR = (255, 213, 79)
_INK = (20, 20, 20)


def annotate(
    picture: ImageSource, boxes: Sequence[FaceBox], *, longest_side: int = 1280
) -> NDArray[np.uint8]:
    """Draw boxes numbered from 1 on a copy.

    Args:
        picture: see `decode_image`.
        boxes: in pixels of the picture.
        longest_side: larger pictures are shrunk to it, since encoding full size is slow.

    Returns:
        RGB uint8, at most `longest_side` pixels on its longer side.
    """
    opened = open_image(picture)
    image = Image.fromarray(opened.decode(opened.reduction(longest_side)))
    scale = min(1.0, longest_side / opened.longer_side)
    if max(image.size) > longest_side:
        width, height = (max(1, round(side * scale)) for side in opened.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    draw = ImageDraw.Draw(image)
    line = max(2, round(max(image.size) / 400))
    for number, box in enumerate(boxes, start=1):
        left, top, across, down = (side * scale for side in (box.x, box.y, box.width, box.height))
        right, bottom = left + across, top + down
        draw.rectangle((left, top, right, bottom), outline=_INK, width=line + 2)
        draw.rectangle((left, top, right, bottom), outline=_COLOUR, width=line)
        font = ImageFont.load_default(float(np.clip((right - left) * 0.3, 12, 28)))
        x, y = max(0.0, left), max(0.0, top)
        tag = draw.textbbox((x + 3, y + 1), str(number), font=font)
        draw.rectangle((x, y, tag[2] + 3, tag[3] + 3), fill=_COLOUR)
        draw.text((x + 3, y + 1), str(number), fill=_INK, font=font)
    return np.asarray(image, np.uint8)


def face_html(face: FaceResult, *, side: int = 112) -> str:
    """A face's crop and answers as a piece of HTML that needs nothing from elsewhere.

    Args:
        face: what to show.
        side: of the crop in pixels.
    """
    stream = BytesIO()
    Image.fromarray(face.crop).resize((side, side), Image.Resampling.LANCZOS).save(stream, "PNG")
    content = base64.b64encode(stream.getvalue()).decode()
    years = face.age_range
    rows = [(a.task, a.display_label, a.probability, a.unsure) for a in face.attributes]
    rows.insert(2, ("age range", years.label, years.probability, False))
    cells = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(label)}{' ?' if unsure else ''}</td>"
        f"<td>{probability:.0%}</td></tr>"
        for name, label, probability, unsure in rows
    )
    note = "<div>may be under 20</div>" if years.may_be_under_20 else ""
    return (
        f'<div style="display:flex;gap:12px"><img alt="face" width="{side}" height="{side}" '
        f'src="data:image/png;base64,{content}"><div><table>{cells}</table>{note}</div></div>'
    )


def show_face(face: FaceResult) -> None:
    """Show a face in the notebook that runs this; elsewhere print it and open its crop."""
    shell = sys.modules.get("IPython")
    if shell is not None and shell.get_ipython() is not None:
        from IPython.display import display

        display(face)
        return
    sys.stdout.write(f"{face!r}\n")
    Image.fromarray(face.crop).show()
