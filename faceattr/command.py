"""`faceattr predict`: classify the faces of images from the command line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from faceattr.drawing import annotate
from faceattr.errors import FaceAttrError
from faceattr.images import Picture, open_image
from faceattr.pipeline import FacePipeline
from faceattr.results import FaceResult

DESCRIPTION = (
    "Find every face in images and print its perceived gender, age group and race with "
    "probabilities, unsure ones with a question mark. Labels are how FairFace's annotators "
    "perceived faces, not who people are."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `faceattr predict`."""
    parser.description = DESCRIPTION
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="picture files")
    parser.add_argument("--json", action="store_true", help="one JSON object a line and picture")
    parser.add_argument(
        "--detector",
        choices=["auto", "yunet", "haar", "none"],
        default="auto",
        help="none: each picture already is one face chip (default: %(default)s)",
    )
    parser.add_argument("--model", help="weights folder, Hub id or name of bundled weights")
    parser.add_argument("--revision", help="commit of the Hub repository")
    parser.add_argument("--device", help="cpu (default) or cuda; PyTorch only")
    parser.add_argument(
        "--backend",
        choices=["auto", "torch", "onnx"],
        default="auto",
        help="what runs the network; auto: ONNX Runtime, which starts faster, where it is "
        "installed and no device is given; answers agree within 0.00001 (default: %(default)s)",
    )
    parser.add_argument(
        "--mirror",
        action="store_true",
        help="answer with the mean over each face and its mirror image; slower, see README",
    )
    parser.add_argument(
        "--save-annotated", type=Path, metavar="DIR", help="write pictures with numbered boxes"
    )


def _table(name: str, faces: Sequence[FaceResult]) -> str:
    lines = [f"{name}: {len(faces)} face{'' if len(faces) == 1 else 's'}"]
    for number, face in enumerate(faces, start=1):
        box = face.box
        place = f"{box.x:.0f},{box.y:.0f} {box.width:.0f}×{box.height:.0f}"
        answers = " ".join(
            f"{a.display_label:<15} {a.probability:>4.0%}{'?' if a.unsure else ' '}"
            for a in face.attributes
        ).rstrip()
        lines.append(f"  {number:>3}  {place:<20} {answers}")
    return "\n".join(lines)


def _save_annotated(picture: Picture, path: Path, faces: Sequence[FaceResult]) -> None:
    Image.fromarray(annotate(picture, [face.box for face in faces])).save(path)


def run(args: argparse.Namespace) -> int:
    """Carry out `faceattr predict`.

    Returns:
        0 when every image was read, 1 when at least one was not, 2 when nothing could start.
    """
    is_chip = args.detector == "none"
    try:
        pipeline = FacePipeline.from_pretrained(
            args.model,
            args.revision,
            "haar" if is_chip else args.detector,
            args.device,
            backend=args.backend,
            mirror=args.mirror,
        )
        if args.save_annotated:
            args.save_annotated.mkdir(parents=True, exist_ok=True)
    except (FaceAttrError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    failed = 0
    for number, photo in enumerate(args.photos, start=1):
        try:
            picture = open_image(photo)
            faces = pipeline.classify_crops([picture]) if is_chip else pipeline(picture)
            if args.save_annotated:
                # The number keeps equal names from different folders apart.
                name = f"{number:03d}-{Path(photo).stem}.png"
                _save_annotated(picture, args.save_annotated / name, faces)
        except (FaceAttrError, OSError) as error:
            failed += 1
            print(f"error: {photo}: {error}", file=sys.stderr)
            if args.json:
                print(json.dumps({"photo": photo, "error": str(error)}), flush=True)
            continue
        if args.json:
            record = {"photo": photo, "faces": [face.to_dict() for face in faces]}
            print(json.dumps(record, ensure_ascii=False), flush=True)
        else:
            print(_table(photo, faces), flush=True)
    return 1 if failed else 0
