"""Arguments that library, command line and API share, checked in one place.

Each function returns the value in the form that the code below works with, and refuses any other
with an error that names the argument, what was expected and what came.
"""

from __future__ import annotations

import math
import operator
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sized
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from faceattr.errors import ArgumentError, ArgumentTypeError

if TYPE_CHECKING:
    import torch


def _shown(value: object) -> str:
    """A value for a message: at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """A whole number from `least` on, to `most`; NumPy's count, booleans do not.

    Raises:
        ArgumentError: for another one.
        ArgumentTypeError: for anything else.
    """
    span = f"from {least} on" if most is None else f"from {least} to {most}"
    wanted = f"{name}: expected a whole number {span}, came {_shown(value)}"
    if isinstance(value, (bool, np.bool_)):
        raise ArgumentTypeError(wanted)
    try:
        number = operator.index(value)
    except TypeError:
        raise ArgumentTypeError(wanted) from None
    if number < least or (most is not None and number > most):
        raise ArgumentError(wanted)
    return number


def optional_whole_number(name: str, value: Any, least: int, most: int | None = None) -> int | None:
    """As `whole_number`, or None."""
    return None if value is None else whole_number(name, value, least, most)


def pixels(name: str, value: Any, least: float = 0.0) -> float:
    """A length in pixels: a finite number from `least` on.

    Raises:
        ArgumentError: for another number.
        ArgumentTypeError: for anything else.
    """
    wanted = f"{name}: expected a number of pixels from {least:g} on, came {_shown(value)}"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise ArgumentTypeError(wanted)
    number = float(value)
    if not (math.isfinite(number) and number >= least):
        raise ArgumentError(wanted)
    return number


def choice(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    """One of a few words.

    Raises:
        ArgumentError: for another one.
        ArgumentTypeError: for what is no text.
    """
    wanted = f"{name}: expected {' or '.join(map(repr, allowed))}, came {_shown(value)}"
    if not isinstance(value, str):
        raise ArgumentTypeError(wanted)
    if value not in allowed:
        raise ArgumentError(wanted)
    return value


def refuse_idle(given: Mapping[str, bool], reason: str) -> None:
    """Refuse options that would change nothing.

    Args:
        given: whether each option was given, by its name as the message has it.
        reason: with what it has no effect, and what to do.

    Raises:
        ArgumentError: naming the first that was given, and the reason.
    """
    for option, is_given in given.items():
        if is_given:
            raise ArgumentError(f"{option}: has no effect {reason}")


def device(value: str | int | torch.device | None) -> str | None:
    """Where PyTorch runs, as PyTorch writes it; a number means that CUDA device, as it does there.

    Whether it is there is for `require_device` to say, which needs PyTorch.

    Raises:
        ArgumentError: for what is no device's name or number.
        ArgumentTypeError: for anything else.
    """
    wanted = f"device: expected 'cpu', 'cuda', 'cuda:N' or N, came {_shown(value)}"
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise ArgumentError(wanted)
        return f"cuda:{value}"
    name = str(value)
    if not isinstance(value, str) and type(value).__name__ != "device":
        raise ArgumentTypeError(wanted)
    if not re.fullmatch(r"[a-z]+(:[0-9]+)?", name):
        raise ArgumentError(wanted)
    return name


def require_device(value: str | int | torch.device | None) -> torch.device:
    """PyTorch's device of that name, the CPU for None.

    Raises:
        ArgumentError: as `device`, and for one that is not there.
    """
    import torch

    name = device(value) or "cpu"
    try:
        there = torch.device(name)
        torch.empty(0, device=there)
    # PyTorch built without CUDA raises AssertionError, others RuntimeError or its subclasses.
    except (AssertionError, RuntimeError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise ArgumentError(
            f"device: {_shown(value)} is not to be had here ({reason}); use device='cpu'"
        ) from error
    return there


def images(name: str, value: Any) -> tuple[Iterator[Any], int | None]:
    """Several images, and how many there are where that is known beforehand.

    A list, tuple, generator or any other iterable of images, or an array `(N, H, W, C)`. What is
    one image by itself is refused: taken apart it would be nonsense.

    Raises:
        ArgumentTypeError: for one image, and for what cannot be iterated.
    """
    single = (str, bytes, bytearray, memoryview, os.PathLike, Image.Image, Mapping)
    flat = isinstance(value, np.ndarray) and value.dtype != object and value.ndim < 4
    if isinstance(value, single) or flat or hasattr(value, "read"):
        kind = f"an array of shape {value.shape}" if flat else type(value).__name__
        raise ArgumentTypeError(
            f"{name}: expected a list of images, came one ({kind}); put it into a list: [image]"
        )
    if not isinstance(value, Iterable):
        raise ArgumentTypeError(f"{name}: expected a list of images, came {_shown(value)}")
    return iter(value), len(value) if isinstance(value, Sized) else None
