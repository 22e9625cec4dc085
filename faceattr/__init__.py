"""Perceived gender, age group and race of faces, with confidence; see README.md."""

__version__ = "0.1.0"
