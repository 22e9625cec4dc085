"""Perceived gender, age group and race of faces, with confidence; see README.md."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faceattr import audit as audit
    from faceattr.pipeline import FacePipeline

__version__ = "0.1.0"
__all__ = ["FacePipeline", "__version__", "audit"]


def __getattr__(name: str) -> Any:
    """Import `FacePipeline` or the package `audit` only when it is asked for."""
    if name == "audit":
        import faceattr.audit

        return faceattr.audit
    if name == "FacePipeline":
        from faceattr.pipeline import FacePipeline

        return FacePipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
