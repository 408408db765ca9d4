"""Networks from a depth image to joint heat maps, by name."""

import functools
from collections.abc import Callable

from cmbjax.models import ablations, recurrent
from cmbjax.models.cmb import CMB, ConvolutionalMemoryBlock
from cmbjax.models.compared.cnn3d import CNN3D
from cmbjax.models.compared.cpm import ConvolutionalPoseMachine
from cmbjax.models.compared.hourglass import StackedHourglass
from cmbjax.models.compared.ief import IEF
from cmbjax.models.compared.ieml import IEML
from cmbjax.models.compared.phr import PartHeatmapRegression
from cmbjax.models.compared.vi import ViewpointInvariant
from cmbjax.models.network import Network, Outputs
from cmbjax.models.posenet import PoseNet

__all__ = ["CMB", "MODELS", "ConvolutionalMemoryBlock", "Network", "Outputs", "PoseNet"]

MODELS: dict[str, Callable[..., Network]] = {
    "cmb": PoseNet,
    # Table 6 and Sec. 5.3.
    "cmb_none": ablations.WithoutBlocks,
    "cmb_half": functools.partial(PoseNet, block=ablations.HalfMemory),
    "cmb_double": functools.partial(PoseNet, block=ablations.DoubleMemory),
    "cmb_sequence": ablations.InOrder,
    "convgru": functools.partial(
        recurrent.RecurrentPoseNet, recurrence=recurrent.ConvGRU
    ),
    "convlstm": functools.partial(
        recurrent.RecurrentPoseNet, recurrence=recurrent.ConvLSTM
    ),
    "cmb_convs": functools.partial(PoseNet, block=ablations.InputForMemory),
    "cmb_convs_literal": functools.partial(PoseNet, block=ablations.InputForAll),
    # Controls that the paper lacks: what does state across samples add?
    "memory_constant": functools.partial(PoseNet, block=ablations.ConstantMemory),
    "memory_ema": functools.partial(PoseNet, block=ablations.RunningMean),
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
