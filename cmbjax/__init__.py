"""Convolutional memory blocks for depth data, in JAX and Flax linen."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Loads `Predictor` when it is asked for: blocks alone need JAX and Flax alone."""
    if name == "Predictor":
        from cmbjax.predictor import Predictor

        return Predictor
    raise AttributeError(f"module 'cmbjax' has no attribute {name!r}")
