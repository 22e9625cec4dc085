"""The page and its API around `faceattr.FacePipeline`; `app.py` serves it."""
