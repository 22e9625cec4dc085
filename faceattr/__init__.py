"""Perceived gender, age group and race of faces, with confidence; see README.md."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faceattr import audit as audit
    from faceattr.ages import AgeRange as AgeRange
    from faceattr.detection import load_detector as load_detector
    from faceattr.drawing import annotate as annotate
    from faceattr.errors import ArgumentError as ArgumentError
    from faceattr.errors import ArgumentTypeError as ArgumentTypeError
    from faceattr.errors import AuditError as AuditError
    from faceattr.errors import CropWarning as CropWarning
    from faceattr.errors import DetectorError as DetectorError
    from faceattr.errors import FaceAttrError as FaceAttrError
    from faceattr.errors import ImageDecodeError as ImageDecodeError
    from faceattr.errors import ImageNotFoundError as ImageNotFoundError
    from faceattr.errors import ImageTypeError as ImageTypeError
    from faceattr.errors import LabelError as LabelError
    from faceattr.errors import MissingPackageError as MissingPackageError
    from faceattr.errors import WeightsError as WeightsError
    from faceattr.images import decode_image as decode_image
    from faceattr.model import FaceAttributeModel as FaceAttributeModel
    from faceattr.model import FaceAttrNet as FaceAttrNet
    from faceattr.model import FaceAttrNetLarge as FaceAttrNetLarge
    from faceattr.model import LightweightMTLNet224 as LightweightMTLNet224
    from faceattr.model import load_model as load_model
    from faceattr.pipeline import FacePipeline as FacePipeline
    from faceattr.pipeline import PipelineInfo as PipelineInfo
    from faceattr.publishing import PublishError as PublishError
    from faceattr.publishing import PublishResult as PublishResult
    from faceattr.results import Attribute as Attribute
    from faceattr.results import Detection as Detection
    from faceattr.results import FaceBox as FaceBox
    from faceattr.results import FaceResult as FaceResult
    from faceattr.results import to_pandas as to_pandas

__version__ = "0.1.0"

_HOMES = {
    "faceattr.ages": ("AgeRange",),
    "faceattr.detection": ("load_detector",),
    "faceattr.drawing": ("annotate",),
    "faceattr.errors": (
        "ArgumentError",
        "ArgumentTypeError",
        "AuditError",
        "CropWarning",
        "DetectorError",
        "FaceAttrError",
        "ImageDecodeError",
        "ImageNotFoundError",
        "ImageTypeError",
        "LabelError",
        "MissingPackageError",
        "WeightsError",
    ),
    "faceattr.images": ("decode_image",),
    "faceattr.model": (
        "FaceAttrNet",
        "FaceAttrNetLarge",
        "FaceAttributeModel",
        "LightweightMTLNet224",
        "load_model",
    ),
    "faceattr.pipeline": ("FacePipeline", "PipelineInfo"),
    "faceattr.publishing": ("PublishError", "PublishResult"),
    "faceattr.results": ("Attribute", "Detection", "FaceBox", "FaceResult", "to_pandas"),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}
"""Where each exported name is defined; imported when it is asked for, and PyTorch with it."""

# Without the networks' own names: `import *` must not need PyTorch.
__all__ = ["__version__", "audit"]
__all__ += [name for name, module in _MODULES.items() if module != "faceattr.model"]


def __getattr__(name: str) -> Any:
    """Import what is asked for, and no sooner."""
    if name == "audit":
        return import_module("faceattr.audit")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(_MODULES[name])
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        from faceattr.errors import MissingPackageError, how_to_install

        raise MissingPackageError(
            f"faceattr.{name} needs PyTorch; run {how_to_install('torch')}"
        ) from error
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """What can be had here: the networks only where PyTorch is."""
    from importlib.util import find_spec

    names = __all__ if find_spec("torch") is None else _MODULES
    return sorted({*globals(), *names, "audit"})
