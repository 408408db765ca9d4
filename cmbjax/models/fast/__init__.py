"""Networks computed with less work: the forms of ours, and layers for all on CPU."""

from cmbjax.models.fast.forms import FAST, LAYERS, WINOGRAD
from cmbjax.models.fast.inference import compile_for, fastest, freeze, in_form, roll

__all__ = [
    "FAST",
    "LAYERS",
    "WINOGRAD",
    "compile_for",
    "fastest",
    "freeze",
    "in_form",
    "roll",
]
