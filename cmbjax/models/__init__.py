"""Networks from a depth image to joint heat maps, by name."""

import functools
from collections.abc import Callable

from flax import linen as nn

from cmbjax.models.cmb import CMB, ConvolutionalMemoryBlock
from cmbjax.models.posenet import PoseNet

__all__ = ["CMB", "MODELS", "ConvolutionalMemoryBlock", "PoseNet"]

MODELS: dict[str, Callable[..., nn.Module]] = {
    "cmb": PoseNet,
    "cmb_none": functools.partial(PoseNet, blocks=False),
    # Sec. 5.3: x in place of M_{t-1}; Eqs. 3 and 4 stand, so every weight is used.
    "cmb_convs": functools.partial(PoseNet, duplicate_input=("input", "memory")),
    # To the letter: x also in place of M_t, which leaves two controllers without use.
    "cmb_convs_literal": functools.partial(
        PoseNet, duplicate_input=("input", "memory", "output")
    ),
    # Controls that the paper lacks: what does state across samples add?
    "memory_constant": functools.partial(PoseNet, memory_constant=True),
    "memory_ema": functools.partial(PoseNet, memory_rate=0.01),
    "cmb_half": functools.partial(PoseNet, capacity=0.5),
    "cmb_double": functools.partial(PoseNet, capacity=2.0),
}
