"""The only home of the class names and their order.

The classes are FairFace's (Kärkkäinen and Joo, WACV 2021, section 3): labels that human
annotators gave to pictures, that is *perceived* attributes, never a person's identity.
Data sets and mirrors order the classes differently, so labels are always mapped by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from faceattr.errors import LabelError


def _key(name: str) -> str:
    """Fold spelling differences: case, spaces, underscores and slashes."""
    return "".join(c for c in name.casefold() if c not in " _/")


@dataclass(frozen=True)
class Task:
    """One attribute to predict.

    Attributes:
        name: field name in results and data sets.
        classes: canonical class names in the order of the logits.
        display: names for people where they differ from the canonical ones.
        aliases: other spellings met in data sets, by canonical name.
        ordinal: whether the order of the classes means something (age groups).
    """

    name: str
    classes: tuple[str, ...]
    display: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    ordinal: bool = False

    def index(self, name: str) -> int:
        """Position of a class in the logits; accepts every known spelling.

        Raises:
            LabelError: for a name that is no class of this task.
        """
        wanted = _key(name)
        for position, label in enumerate(self.classes):
            spellings = (label, self.display.get(label, label), *self.aliases.get(label, ()))
            if wanted in map(_key, spellings):
                return position
        raise LabelError(
            f"{name!r} is not a class of {self.name!r}; expected one of {', '.join(self.classes)}"
        )

    def indices(self, names: Sequence[str]) -> tuple[int, ...]:
        """Map a data set's class list to ours: `result[their index] == our index`.

        Raises:
            LabelError: for an unknown name, or when two names mean the same class.
        """
        mapped = tuple(self.index(name) for name in names)
        if len(set(mapped)) != len(mapped):
            raise LabelError(f"two of the class names {list(names)} of {self.name!r} mean the same")
        return mapped

    def display_name(self, label: str) -> str:
        """The name to show to people, e.g. "70+" for "more than 70"."""
        return self.display.get(label, label)


GENDER = Task("gender", ("Male", "Female"))
AGE = Task(
    "age",
    ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70"),
    display=MappingProxyType({"more than 70": "70+"}),
    ordinal=True,
)
RACE = Task(
    "race",
    (
        "White",
        "Black",
        "Latino_Hispanic",
        "East Asian",
        "Southeast Asian",
        "Indian",
        "Middle Eastern",
    ),
    display=MappingProxyType({"Latino_Hispanic": "Latino/Hispanic"}),
    aliases=MappingProxyType({"Latino_Hispanic": ("Latino", "Latino Hispanic")}),
)

TASKS: tuple[Task, ...] = (GENDER, AGE, RACE)
"""All tasks in the order the report gives its heads: gender, age, ethnicity."""


def task(name: str) -> Task:
    """The task of that name.

    Raises:
        LabelError: for a name that is not a task.
    """
    for candidate in TASKS:
        if candidate.name == name:
            return candidate
    raise LabelError(f"{name!r} is not a task; expected one of {[t.name for t in TASKS]}")
