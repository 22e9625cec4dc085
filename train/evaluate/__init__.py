"""Weights to predictions, predictions to report.json."""
