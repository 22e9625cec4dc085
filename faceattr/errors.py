"""What bad input or a bad environment raises; `FaceAttrError` catches all of it."""


class FaceAttrError(Exception):
    """Base class of this package's errors; the message is safe to show to a user."""


class ImageDecodeError(FaceAttrError):
    """The input is not a picture this package reads, or it exceeds a documented limit."""


class WeightsError(FaceAttrError):
    """Weights, their config or the model repository are missing, damaged or do not fit."""


class DetectorError(FaceAttrError):
    """A face detector was asked for that is unknown or whose model file cannot be had."""


class LabelError(FaceAttrError, ValueError):
    """A class or task name is not one of those in `faceattr.labels`."""


class AuditError(FaceAttrError):
    """A collection, an option of an audit or a table that it reads cannot be used."""
