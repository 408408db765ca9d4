"""Labelled frames as batches of what a network reads."""
