"""Crowd: whole frames of any room, with no person in them or several."""
