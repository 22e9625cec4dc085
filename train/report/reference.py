"""Figures that others published, to set ours beside them; nothing here is measured by us.

Most are the report's: Utpalraj Kemprai, *Gender, Age, and Ethnicity Classification Using Multi-Task
Learning* (2024). Rows and columns of its tables follow the class order of `faceattr.labels`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

NAME = "Kemprai 2024"

PARAMETERS = 668_077
"""Of its network (section 3.4)."""

ARCHITECTURE = "LightweightMTLNet224"
"""What it calls its network."""

ACCURACY = {"gender": 0.8735, "age": 0.5083, "race": 0.5933}
"""Of its network (section 4)."""

VALIDATION_ROWS = 10_954
"""FairFace's whole validation split, on which it measured (section 3.4.1)."""

TABLE_3_2: dict[str, tuple[float, ...]] = {
    "age": (0.295098, 0.009707, 0.285391, 0.808729, 2.695531, 0.816217),
    "gender": (0.530135, 0.469865, 0.060269, 0.060269, 0.997378, 0.498184),
    "race": (0.190526, 0.106244, 0.084282, 0.169074, 2.787104, 0.853059),
}
"""Imbalance of the training labels; Table 3.3 prints the same digits for the validation labels."""

SUBGROUPS: dict[str, tuple[tuple[float, ...], ...]] = {
    "4.1": (
        (0.66, 0.68, 0.84, 0.76, 0.56, 0.61, 1.00),
        (0.73, 0.69, 0.70, 0.83, 0.84, 0.72, 0.72),
        (0.74, 0.68, 0.87, 0.84, 0.83, 0.75, 0.82),
        (0.92, 0.83, 0.93, 0.92, 0.90, 0.95, 0.95),
        (0.92, 0.87, 0.96, 0.89, 0.89, 0.93, 0.95),
        (0.93, 0.87, 0.93, 0.85, 0.89, 0.94, 0.95),
        (0.90, 0.79, 0.95, 0.90, 0.84, 0.90, 0.94),
        (0.84, 0.81, 0.91, 0.80, 0.77, 0.82, 0.95),
        (0.82, 0.80, 0.75, 0.86, 0.87, 0.76, 0.83),
    ),
    "4.2": (
        (0.48, 0.45, 0.51, 0.58, 0.54, 0.52, 0.53),
        (0.51, 0.43, 0.49, 0.59, 0.50, 0.48, 0.55),
    ),
    "4.3": (
        (0.61, 0.65, 0.62, 0.60, 0.58, 0.57, 0.50, 0.56, 0.57),
        (0.55, 0.58, 0.64, 0.59, 0.59, 0.58, 0.60, 0.61, 0.60),
    ),
}
"""Tables 4.1 (gender accuracy by age and race), 4.2 (age accuracy by gender and race) and 4.3
(race accuracy by gender and age), as printed: shares of 1, without counts."""

CONFUSED_RACES = (
    ("East Asian", "Southeast Asian"),
    ("Middle Eastern", "White"),
    ("Latino_Hispanic", "White"),
    ("Indian", "Latino_Hispanic"),
)
"""The pairs that section 4 calls the most confused."""


@dataclass(frozen=True)
class Published:
    """Another system's figures on FairFace's validation rows.

    Attributes:
        name: of the system.
        source: where the figures stand.
        parameters: as text.
        accuracy: by task, shares of 1; None where it has none.
        timed_as: network and input side under which `scripts.benchmark` times its shape, or None.
    """

    name: str
    source: str
    parameters: str
    accuracy: Mapping[str, float | None]
    timed_as: tuple[str, int] | None


OTHERS = (
    Published(NAME, "the report", f"{PARAMETERS:,}", ACCURACY, (ARCHITECTURE, 224)),
    Published(
        "FairFace's ResNet-34",
        "approximate: dchen236/FairFace#7; CLIP paper, tables 3-4",
        "21.3 M",
        {"gender": 0.944, "race": 0.714, "age": 0.605},
        ("ResNet-34", 224),
    ),
    Published(
        "DeepFace off the shelf, 6 races",
        "ajosr.org vol. 4 no. 2",
        "over 100 M each",
        {"gender": 0.721, "race": 0.595, "age": 0.284},
        None,
    ),
)
