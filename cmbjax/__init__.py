"""Convolutional memory blocks for depth data, in JAX and Flax linen."""

import importlib
from typing import Any

__version__ = "0.2.0"

# Loaded when they are asked for: blocks need JAX and Flax alone, prediction neither.
_DOORS = {"Predictor": "cmbjax.predict.predictor", "load": "cmbjax.loading"}


def __getattr__(name: str) -> Any:
    """Returns `Predictor` or `load`."""
    if name in _DOORS:
        return getattr(importlib.import_module(_DOORS[name]), name)
    raise AttributeError(f"module 'cmbjax' has no attribute {name!r}")
