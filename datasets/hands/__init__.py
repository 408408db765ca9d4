"""Synthetic hands before depth cameras."""
