"""Evaluation: a trained network over a split, and what is reported of it."""
