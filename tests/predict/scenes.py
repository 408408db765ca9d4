"""Frames with a person, and what is installed."""

import functools
import importlib.util

from cmbjax.export.formats import ONNX_PACKAGES
from datasets.mannequin.frames import make_frame

HAS_ONNX = all(importlib.util.find_spec(name) for name in ONNX_PACKAGES)


@functools.cache
def person(index):
    """A synthetic frame: its person stands free and is found."""
    return make_frame(0, "test", index)
