"""From nine probabilities of age groups to a range of years that people can use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from faceattr.labels import AGE

RANGE_LEVEL = 0.8
"""Least probability that a range holds.

Chosen on holdout rows, `scripts/measure_age_range.py`: from here on every age group that is not
rare is held in three of four faces, 10-19 as well, whose single group is right in one of three.
"""

UNDER_20 = ("0-2", "3-9", "10-19")
"""The groups of children and teenagers."""

UNDER_20_LEVEL = 0.08
"""Probability of `UNDER_20` from which a face is flagged as possibly of one of them.

Chosen by the same command: from here on down, 95 % of the faces labelled younger than 20 are
flagged with each of the bundled networks.
"""


def _years(group: str) -> tuple[int, int | None]:
    """First and last year of a group; None where it has no end."""
    if group.startswith("more than "):
        return int(group.removeprefix("more than ")), None
    first, _, last = group.partition("-")
    return int(first), int(last)


@dataclass(frozen=True)
class AgeRange:
    """Neighbouring age groups that together are likely.

    Attributes:
        groups: canonical names of the groups, youngest first, at least one.
        probability: of all of them together, 0 to 1.
        may_be_under_20: whether the face is likely enough to have been labelled younger than 20
            that it must not be taken for an adult's, whatever the likeliest group is.
    """

    groups: tuple[str, ...]
    probability: float
    may_be_under_20: bool

    @property
    def first_year(self) -> int:
        """Youngest age in the range."""
        return _years(self.groups[0])[0]

    @property
    def last_year(self) -> int | None:
        """Oldest age in the range; None where it has no end."""
        return _years(self.groups[-1])[1]

    @property
    def label(self) -> str:
        """The range as people write it: "20-39", or "60+"."""
        last = self.last_year
        return f"{self.first_year}+" if last is None else f"{self.first_year}-{last}"

    def to_dict(self) -> dict[str, Any]:
        """`label`, `first_year`, `last_year`, `groups`, `probability`, `may_be_under_20`."""
        return {
            "label": self.label,
            "first_year": self.first_year,
            "last_year": self.last_year,
            "groups": list(self.groups),
            "probability": round(self.probability, 6),
            "may_be_under_20": self.may_be_under_20,
        }


def likeliest_range(probabilities: Mapping[str, float], *, level: float = RANGE_LEVEL) -> AgeRange:
    """The fewest neighbouring age groups that hold `level`; of as few, the likeliest.

    Args:
        probabilities: of every age group by its name; they sum to 1.
        level: least probability of the range, 0 to 1.
    """
    values = [probabilities[name] for name in AGE.classes]
    for length in range(1, len(values) + 1):
        sums = [sum(values[i : i + length]) for i in range(len(values) - length + 1)]
        best = max(range(len(sums)), key=sums.__getitem__)
        # The whole holds everything, whatever rounding says.
        if sums[best] >= level or length == len(values):
            break
    young = sum(probabilities[name] for name in UNDER_20)
    groups = AGE.classes[best : best + length]
    return AgeRange(groups, min(1.0, sums[best]), young >= UNDER_20_LEVEL)
