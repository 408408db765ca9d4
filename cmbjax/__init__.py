"""Convolutional memory blocks for depth data, in JAX and Flax linen."""

__version__ = "0.1.0"
