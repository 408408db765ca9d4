"""Damaged files of every kind that is read here: `python -m tests.hostile`."""
