"""What the statistics of an audit work on: answers for N faces, and the axes of its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from faceattr.errors import AuditError
from faceattr.labels import AGE, GENDER, RACE, TASKS, Task, task

Floats: TypeAlias = NDArray[np.float64]
Codes: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Answers:
    """Calibrated probabilities for N faces.

    Attributes:
        probabilities: by task, shape `(N, classes)` in the order of `faceattr.labels`; float32
            or float64.
        image: number of the image that each face is in, shape `(N,)`; any integers.
    """

    probabilities: Mapping[str, NDArray[np.floating[Any]]]
    image: NDArray[np.int64]

    def __post_init__(self) -> None:
        for one in TASKS:
            expected = (len(self.image), len(one.classes))
            if (found := self.probabilities[one.name].shape) != expected:
                raise AuditError(f"answers of {one.name!r}: expected {expected}, came {found}")

    @property
    def faces(self) -> int:
        """N."""
        return len(self.image)

    def select(self, rows: NDArray[np.integer[Any]] | NDArray[np.bool_]) -> Answers:
        """The answers of some faces."""
        chosen = {name: values[rows] for name, values in self.probabilities.items()}
        return Answers(chosen, self.image[rows])

    @classmethod
    def of_faces(cls, probabilities: Mapping[str, NDArray[np.floating[Any]]]) -> Answers:
        """Answers where each image holds one face."""
        return cls(probabilities, np.arange(len(next(iter(probabilities.values())))))


@dataclass(frozen=True)
class Axis:
    """What a table has a line for each cell of: a task, a task with merged classes, or a pair.

    Attributes:
        name: for people and as a key, e.g. "gender × race".
        tasks: one or two task names.
        cells: names of the cells, e.g. "Female, Black".
        members: by task, the cell part of each of its classes: position among the parts.
    """

    name: str
    tasks: tuple[str, ...]
    cells: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]

    @property
    def parts(self) -> tuple[int, ...]:
        """Number of classes or bins that each task contributes."""
        return tuple(max(member) + 1 for member in self.members)

    def cell_of(self, codes: Mapping[str, NDArray[np.integer[Any]]]) -> Codes:
        """Cell of each face from its class positions by task, shape `(N,)`."""
        found = [
            np.asarray(m, np.int64)[codes[name]]
            for name, m in zip(self.tasks, self.members, strict=True)
        ]
        cells: Codes = found[0] if len(found) == 1 else found[0] * self.parts[1] + found[1]
        return cells

    def predicted(self, probabilities: Mapping[str, NDArray[np.floating[Any]]]) -> Codes:
        """Cell of each face's likeliest classes, shape `(N,)`."""
        return self.cell_of({name: probabilities[name].argmax(axis=1) for name in self.tasks})

    def soft(self, probabilities: Mapping[str, NDArray[np.floating[Any]]]) -> Floats:
        """Probabilities `(N, cells)`; two tasks count as independent given the face."""
        found = []
        for name, member, parts in zip(self.tasks, self.members, self.parts, strict=True):
            gather = np.eye(parts)[list(member)]
            found.append(np.asarray(probabilities[name], np.float64) @ gather)
        if len(found) == 1:
            return found[0]
        product = found[0][:, :, None] * found[1][:, None, :]
        cells: Floats = product.reshape(len(product), -1)
        return cells


def single(one: Task) -> Axis:
    """The axis of a task."""
    names = tuple(one.display_name(name) for name in one.classes)
    return Axis(one.name, (one.name,), names, (tuple(range(len(names))),))


def pair(first: Axis, second: Axis) -> Axis:
    """The axis of the cells of two axes of one task each."""
    return Axis(
        f"{first.name} × {second.name}",
        (*first.tasks, *second.tasks),
        tuple(f"{a}, {b}" for a in first.cells for b in second.cells),
        (*first.members, *second.members),
    )


DEFAULT_AXES: tuple[Axis, ...] = (
    single(GENDER),
    single(AGE),
    single(RACE),
    pair(single(GENDER), single(RACE)),
    pair(single(GENDER), single(AGE)),
)


def parse_merge(text: str) -> Axis:
    """Own bins such as `age:child=0-2,3-9,10-19;adult=20-29,30-39`; the rest keep their names.

    Raises:
        AuditError: for a task, class or form that is unknown, and a class that is named twice.
        LabelError: for an unknown task or class.
    """
    name, colon, rest = text.partition(":")
    if not colon:
        raise AuditError(f"expected TASK:BIN=CLASS,CLASS;BIN=..., came {text!r}")
    chosen = task(name.strip())
    bins: dict[str, Sequence[int]] = {}
    for part in filter(None, (piece.strip() for piece in rest.split(";"))):
        label, equals, classes = part.partition("=")
        label = label.strip()
        if not equals or not label or not classes.strip():
            raise AuditError(f"expected BIN=CLASS,CLASS in {text!r}, came {part!r}")
        if label in bins:
            raise AuditError(f"the bin {label!r} is given twice in {text!r}")
        bins[label] = [chosen.index(one.strip()) for one in classes.split(",")]
    return _merged(chosen, bins, text)


def parse_merges(texts: Sequence[str]) -> tuple[Axis, ...]:
    """Own bins of several tasks, each as `parse_merge` reads them.

    Raises:
        AuditError: as `parse_merge`, and for a second one of a task: tables go by its name.
        LabelError: as `parse_merge`.
    """
    axes: dict[str, Axis] = {}
    for text in texts:
        axis = parse_merge(text)
        if axis.tasks[0] in axes:
            raise AuditError(
                f"expected one --merge for each task, came a second one for {axis.tasks[0]!r}: "
                f"{text!r}; make another report of the same tables for it, in another --output"
            )
        axes[axis.tasks[0]] = axis
    return tuple(axes.values())


def _merged(chosen: Task, bins: Mapping[str, Sequence[int]], text: str) -> Axis:
    used = [index for classes in bins.values() for index in classes]
    if not bins or len(set(used)) != len(used):
        raise AuditError(f"each class belongs to one bin at most, came {text!r}")
    names = [chosen.display_name(name) for name in chosen.classes]
    label_of = {index: label for label, classes in bins.items() for index in classes}
    labels = [label_of.get(index, names[index]) for index in range(len(names))]
    cells = tuple(dict.fromkeys(labels))
    taken = {name for index, name in enumerate(names) if label_of.get(index) != name}
    if clash := sorted(taken & set(bins)):
        raise AuditError(f"the bins {clash} have the name of a class they do not hold")
    if len(cells) < 2:
        raise AuditError(f"at least two bins must remain, came {text!r}")
    members = tuple(cells.index(label) for label in labels)
    return Axis(f"{chosen.name} (own bins)", (chosen.name,), cells, (members,))
