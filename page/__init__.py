"""The page and its API around `faceattr.FacePipeline`; `app.py` serves it."""

import os

# Read by Gradio while it is imported; it would tell its maker of starts and errors.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
