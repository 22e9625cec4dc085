"""What was found in a collection, as arrays: what the statistics work on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

FLAGS = ("small", "blurred", "cut")
NONE_GROUP = "(none)"
"""Name of the group of images without a value."""


@dataclass(frozen=True, eq=False)
class Collected:
    """Everything that was found in M images with N faces.

    Attributes:
        images: M.
        failed: images that could not be read, by kind of error.
        messages: an example of each kind: id and message.
        faces_of: faces of each image, shape (M,); -1 for an image that could not be read.
        image: number of each face's image, 0 to M-1, shape (N,), ascending.
        probabilities: by task, float32 (N, classes).
        unsure: by task, shape (N,).
        flags: by name of `FLAGS`, shape (N,).
        groups: names of the groups by which the collection is split; empty without a split.
        group: number of each image's group, shape (M,).
        columns: of the source, text by face, N values each.
        has_images: whether images without a face are known.
    """

    images: int
    failed: Mapping[str, int]
    messages: Mapping[str, tuple[str, str]]
    faces_of: NDArray[np.int64]
    image: NDArray[np.int64]
    probabilities: Mapping[str, NDArray[np.float32]]
    unsure: Mapping[str, NDArray[np.bool_]]
    flags: Mapping[str, NDArray[np.bool_]]
    groups: tuple[str, ...] = ()
    group: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    columns: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    has_images: bool = True

    @property
    def faces(self) -> int:
        """N."""
        return len(self.image)

    @property
    def without_face(self) -> int:
        """Images that were read and in which no face was found."""
        return int((self.faces_of == 0).sum())

    def face_group(self) -> NDArray[np.int64]:
        """Number of each face's group, shape (N,)."""
        return self.group[self.image]


def grouped(values: Sequence[str | None]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Sorted names of the groups, and each value's place among them."""
    named = [NONE_GROUP if value is None or value == "" else value for value in values]
    groups = tuple(sorted(set(named)))
    place = {name: number for number, name in enumerate(groups)}
    return groups, np.array([place[name] for name in named], np.int64)
