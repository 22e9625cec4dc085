"""Training: a recipe and rows to a weights folder."""
