"""What every report says beside its numbers: method, limits, law."""

from __future__ import annotations

from typing import Any

WORTH_FACES = 100
"""Faces from which an interval is worth something: a half is then known to ±10 %."""

NO_FACE = "No face was found, so there are no shares."

_OPENINGS = {
    ("collection", True): "The corrected shares estimate what these faces are perceived as; their "
    "intervals hold the classifier's errors. A counted share is what the classifier answered, and "
    "has no interval.",
    ("collection", False): "Counted shares are what the classifier answered, and have no interval.",
    ("population", True): "The shares estimate those of the population that these images were "
    "drawn from at random; their intervals hold the chance of the draw as well as the classifier's "
    "errors.",
    ("population", False): "Counted shares are what the classifier answers of the population that "
    "these images were drawn from at random; their intervals hold the chance of the draw alone.",
}


_LABELLED = (
    " Shares with labels by hand assume nothing of how the classifier errs; their intervals hold "
    "the chance of what was drawn."
)


def opening(question: str, faces: int, *, is_corrected: bool, is_labelled: bool) -> str:
    """What the shares of a report are, in a sentence or two.

    Args:
        question: "collection" or "population".
        faces: how many there are.
        is_corrected: whether there is a calibration.
        is_labelled: whether there are labels by hand.
    """
    if not faces:
        return NO_FACE
    return _OPENINGS[question, is_corrected] + (_LABELLED if is_labelled else "")


def few_faces(faces: int) -> dict[str, str] | None:
    """What a reader has to know of the intervals of a few faces; None for enough of them."""
    if not 0 < faces < WORTH_FACES:
        return None
    return {
        "title": f"With {counted(faces, 'face')} the intervals are wide:",
        "text": "0 to 100 % says that nothing is known; they are worth something from about "
        f"{WORTH_FACES} faces on.",
    }


def cell(value: Any) -> Any:
    """A value for CSV: an apostrophe stands before what a spreadsheet would take for a formula."""
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if is_formula else value


def counted(number: int, noun: str) -> str:
    """A number and what it counts, such as "1 image" or "2,000 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


_FOUND = (
    "Each image is decoded, its faces are found, cut out as FairFace's training chips are, and "
    "classified."
)
_WHOLE = "Each image is decoded, taken for one face as it is, and classified."
_COUNTED = " A face counts for the class with the highest probability; unsure answers count too."
_BIASED = (
    "Counted shares are biased, because a classifier takes one class for another more often than "
    "the other way round."
)
_CORRECTED = (
    f"{_BIASED} The corrected shares undo this with the answers that the same weights "
    "gave for labelled faces they were not trained on: by the matrix of these answers, or by "
    "maximum likelihood (Saerens and others, 2002). Intervals come from resampling the images, "
    "faces of one image together, and the labelled faces.",
    "The correction assumes that faces of a class look to the classifier as they do in FairFace. A "
    "test says whether the answers can be a mixture of FairFace's classes at all; where not, only "
    "labels by hand help (--label-sample, --labels): prediction-powered estimates assume nothing "
    "about FairFace.",
)


def method(*, crops: bool, is_corrected: bool) -> list[str]:
    """How the shares of a report came about, in paragraphs.

    Args:
        crops: whether every image was taken for a face.
        is_corrected: whether there is a calibration.
    """
    seen = (_WHOLE if crops else _FOUND) + _COUNTED
    return [seen, *(_CORRECTED if is_corrected else (f"{_BIASED} Nothing corrects them here.",))]


LIMITS = (
    "Labels are what FairFace's annotators perceived. They are not anybody's gender identity, date "
    "of birth, ancestry or nationality. Two genders and seven groups leave people out.",
    "Shares are of faces, not of people: one person in ten images counts ten times.",
    "Faces that are small, turned away or covered are found less often. Who is missed is in no "
    "share.",
    "A share says nothing about one face. Do not pick out people by their answers.",
    "An interval of 95 % is made to miss the true share in one of twenty cases; measured, those of "
    "age miss it more often (docs/audit.md). Of many intervals some miss.",
)

LAW = (
    "Describing a collection in sum is what this tool is for. In the European Union the AI Act "
    "(Regulation 2024/1689, Article 5(1)(g)) forbids biometric categorisation systems that "
    "categorise individual people to deduce or infer their race, with an exception for labelling "
    "or filtering lawfully acquired data sets. The General Data Protection Regulation covers "
    "images of people; perceived race is among the special categories of Article 9. Check your "
    "ground for processing before you start, keep the tables of faces only as long as you need "
    "them, and publish sums.",
    "This is no legal advice.",
)
