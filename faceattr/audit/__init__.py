"""Describe the make-up of an image collection, with intervals; see docs/audit.md.

The package is callable: `faceattr.audit(source, output)` is `faceattr.audit.run.audit`. Importing
it costs nothing but this file.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """A package that is also its main function."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """As `faceattr.audit.run.audit`."""
        return import_module(f"{__name__}.run").audit(*args, **options)


sys.modules[__name__].__class__ = _Callable
