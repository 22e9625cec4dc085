"""Rows of FairFace to batches."""
