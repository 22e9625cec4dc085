"""Training, evaluation and publishing of faceattr's networks: `python -m train --help`."""
