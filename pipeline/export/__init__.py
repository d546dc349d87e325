"""Trained models for where no Python is: one file, and what runs it."""
