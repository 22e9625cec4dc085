"""What bad input or a bad environment raises; `FaceAttrError` catches all of it.

Each class is also the built-in exception that a caller of Python would expect there.
"""


def how_to_install(extra: str) -> str:
    """The command that installs an extra; by path, since the package is on no index."""
    return f"pip install '.[{extra}]' in a checkout of faceattr"


class FaceAttrError(Exception):
    """Base class of this package's errors; the message is safe to show to a user."""


class ArgumentError(FaceAttrError, ValueError):
    """An argument has a value that it cannot have; the message names both."""


class ArgumentTypeError(ArgumentError, TypeError):
    """An argument is of a type that it cannot be of; the message names both."""


class ImageDecodeError(FaceAttrError, ValueError):
    """The input is not an image this package reads, or it exceeds a limit."""


class ImageTypeError(ImageDecodeError, TypeError):
    """The input is nothing that can hold an image."""


class ImageNotFoundError(ImageDecodeError, FileNotFoundError):
    """There is no file of that name."""


class WeightsError(FaceAttrError):
    """Weights, their config or the model repository are missing, damaged or do not fit."""


class DetectorError(FaceAttrError):
    """A face detector was asked for that is unknown or whose model file cannot be had."""


class CropWarning(UserWarning):
    """A crop that was handed in shows its face otherwise than the network was trained on."""


class LabelError(FaceAttrError, ValueError):
    """A class or task name is not one of those in `faceattr.labels`."""


class AuditError(FaceAttrError):
    """A collection, an option of an audit or a table that it reads cannot be used."""


class MissingPackageError(FaceAttrError, ImportError):
    """Something needs a package that is not installed; the message says how to get it."""


def said_of(error: Exception) -> str:
    """What an error of the system or of a library says, without number and without path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
