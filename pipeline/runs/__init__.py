"""Runs: their folders, journals and checkpoints; finding one and loading its model."""

from pipeline.runs.find import find_run
from pipeline.runs.load import load_model

__all__ = ["find_run", "load_model"]
