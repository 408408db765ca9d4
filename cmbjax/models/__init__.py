"""Networks from a depth image to joint heat maps, by name."""

import functools
from collections.abc import Callable

from cmbjax.models.cmb import CMB, ConvolutionalMemoryBlock
from cmbjax.models.cnn3d import CNN3D
from cmbjax.models.cpm import ConvolutionalPoseMachine
from cmbjax.models.hourglass import StackedHourglass
from cmbjax.models.ief import IEF
from cmbjax.models.ieml import IEML
from cmbjax.models.network import Network
from cmbjax.models.phr import PartHeatmapRegression
from cmbjax.models.posenet import PoseNet
from cmbjax.models.vi import ViewpointInvariant

__all__ = ["CMB", "MODELS", "ConvolutionalMemoryBlock", "PoseNet"]

MODELS: dict[str, Callable[..., Network]] = {
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
    # On frames in the order of their recording.
    "cmb_sequence": functools.partial(PoseNet, in_order=True),
    "convgru": functools.partial(PoseNet, recurrence="gru"),
    "convlstm": functools.partial(PoseNet, recurrence="lstm"),
    # Compared networks.
    "sh1": functools.partial(StackedHourglass, stacks=1),
    "sh2": functools.partial(StackedHourglass, stacks=2),
    "sh4": functools.partial(StackedHourglass, stacks=4),
    "sh8": StackedHourglass,
    "cpm": ConvolutionalPoseMachine,
    "cpm_vgg": functools.partial(ConvolutionalPoseMachine, variant="vgg"),
    "phr": PartHeatmapRegression,
    "ief": IEF,
    "vi": ViewpointInvariant,
    "cnn3d": CNN3D,
    "ieml": IEML,
}
