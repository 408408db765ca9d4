"""Dressed human meshes in rooms, before depth cameras of several kinds."""
