"""Every error that faceattr raises on purpose. Catch `FaceAttrError` to catch them all."""


class FaceAttrError(Exception):
    """Base class of this package's errors; the message is safe to show to a user."""


class ImageDecodeError(FaceAttrError):
    """The input is not a picture this package reads, or it exceeds a documented limit."""


class NoFaceError(FaceAttrError):
    """A face was required (`single=True` style calls) and none was found."""


class WeightsError(FaceAttrError):
    """Weights, their config or the model repository are missing, damaged or do not fit."""


class DetectorError(FaceAttrError):
    """A face detector was asked for that is unknown or whose model file cannot be had."""


class LabelError(FaceAttrError, ValueError):
    """A class or task name is not one of those in `faceattr.labels`."""
