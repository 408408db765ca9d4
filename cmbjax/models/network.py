"""What train.py, evaluate.py and export.py ask of every network in MODELS."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from cmbjax.heatmaps import Decoded, decode_maps, mirrored
from cmbjax.models.losses import (
    DEPTH_WEIGHT,
    AnyArray,
    Batch,
    depth_maps_loss,
    heatmap_loss,
    joints_loss,
)
from cmbjax.models.memory import Bound


class Outputs(NamedTuple):
    """What a network gives for a batch; None is what it does not have.

    Attributes:
        heatmaps: [batch, cells, cells, joints], a peak where each joint is.
        depth_maps: [batch, cells, cells, joints] each joint's normalised depth, to be
            read at the peak of its heat map.
        joints: [batch, joints, 2 or 3] x and y as fractions of the input from its
            centre, z in normalised depth.
        scores: [batch, joints] how sure the network is of `joints`.
    """

    heatmaps: Any = None
    depth_maps: Any = None
    joints: Any = None
    scores: Any = None

    def mirrored(self, mirror: tuple[int, ...]) -> "Outputs":
        """Returns what was said of the mirrored image, told of the image itself.

        Args:
            mirror: For each joint, the one that takes its place in a mirrored image.
        """
        there = {name: x for name, x in self._asdict().items() if x is not None}
        return Outputs(**mirrored(there, mirror))


class Network(nn.Module, kw_only=True):
    """A network from depth to joints; by default by way of heat maps.

    A class implements `outputs`, in `nn.compact`. What is the same for all is here.

    Attributes:
        num_joints: Joints K.
        width: Multiplies every channel count.
        head3d: What gives the joints' depth: a name in `heads3d`.
        dtype: Of the computation; outputs, parameters, memory and statistics are
            float32.

    Class attributes:
        heads3d: Names that `head3d` may have.
        stride: Input pixels per heat-map cell; None where there are no heat maps.
        divisor: The input's side must be a multiple of it.
        num_frames: Frames that are seen at once, the last axis of the input; odd.
        sequential: Whether frames come in the order of their recording, not shuffled.
        resets_memory: Whether the memory, one a sample, starts from zero with a
            recording.
        averages_mirrored: Whether the method averages its predictions with those of
            the mirrored image.
        chooses: Whether its joints are places that were chosen among others: of the
            image's and the mirrored image's there is no mean.
        default_decode: The decode that the method has, a name in `heatmaps.DECODES`.
        sigma: Deviation of the method's own target heat maps, in cells.
    """

    num_joints: int
    width: float = 1.0
    head3d: str = "none"
    dtype: Any = jnp.float32

    heads3d: ClassVar[tuple[str, ...]] = ("none",)
    stride: ClassVar[int | None] = 2
    divisor: ClassVar[int] = 8
    num_frames: ClassVar[int] = 1
    sequential: ClassVar[bool] = False
    resets_memory: ClassVar[bool] = False
    averages_mirrored: ClassVar[bool] = False
    chooses: ClassVar[bool] = False
    default_decode: ClassVar[str] = "dark"
    sigma: ClassVar[float] = 1.5

    @property
    def remembers(self) -> bool:
        """Whether there is a memory of earlier batches."""
        return False

    def __call__(
        self,
        depth: Float[AnyArray, "batch side side frames"],
        *,
        train: bool,
        r: Bound = 1.0,
    ) -> Float[Array, "batch cells cells joints"] | Outputs:
        """Returns the heat maps; all `Outputs` where there is more than these.

        Args:
            depth: Normalised depth, in [-1, 1].
            train: Whether BN uses and updates with the statistics of the batch.
            r: Bound of Eq. 2, at least 1; networks without memory ignore it.

        Raises:
            ValueError: See `check`.
        """
        outputs = self.outputs(depth, train=train, r=r)
        heatmaps, *others = outputs
        return heatmaps if all(output is None for output in others) else outputs

    def outputs(
        self,
        depth: Float[AnyArray, "batch side side frames"],
        *,
        train: bool,
        r: Bound,
    ) -> Outputs:
        """Returns what the network gives; the arguments are those of a call."""
        raise NotImplementedError

    def drawn(self, maps: np.ndarray) -> np.ndarray:
        """Returns heat maps [batch, cells, cells, joints] as the network can draw them.

        A last layer that can draw anything leaves them as they are.
        """
        return maps

    def check(self, depth: AnyArray) -> Array:
        """Returns the input as JAX has it, or refuses it, or the head.

        Raises:
            ValueError: The side is not a multiple of `divisor`, or there is no such
                head, or no such number of frames.
        """
        if self.head3d not in self.heads3d:
            heads = ", ".join(self.heads3d)
            raise ValueError(f"head3d must be one of {heads}, got {self.head3d!r}")
        side, frames = depth.shape[1], depth.shape[3]
        if side % self.divisor or depth.shape[1] != depth.shape[2]:
            raise ValueError(
                f"depth must be square with a side that is a multiple of "
                f"{self.divisor}, got {list(depth.shape)}"
            )
        if frames not in {1, self.num_frames}:
            raise ValueError(
                f"depth must have {self.num_frames} frames, got {list(depth.shape)}"
            )
        return jnp.asarray(depth)

    def scaled(self, features: int) -> int:
        """Returns a channel count, multiplied by the width."""
        return scaled(features, self.width)

    def loss(self, batch: Batch, *, r: Bound, sigma: float) -> Float[Array, ""]:
        """Returns the loss of a batch; called by `apply` with method="loss".

        Args:
            batch: See `data.views.training_view`.
            r: Of Eq. 2.
            sigma: Of the target heat maps' Gaussians, in cells.
        """
        outputs, stride = self.outputs(batch["depth"], train=True, r=r), self.stride
        assert stride is not None, "a network without heat maps has its own loss"
        loss = heatmap_loss(
            outputs.heatmaps,
            batch["joints_px"],
            batch["visible"],
            stride=stride,
            sigma=sigma,
        )
        if outputs.depth_maps is not None:
            depth_loss = depth_maps_loss(
                outputs.depth_maps, batch, stride=stride, sigma=sigma
            )
            loss += DEPTH_WEIGHT * depth_loss
        if outputs.joints is not None:
            loss += joints_loss(outputs.joints, batch)
        return loss

    def decode(self, outputs: Outputs, *, side: int, decode: str) -> Decoded:
        """Returns the joints in what the network gave.

        Args:
            outputs: Of `outputs`, as arrays of JAX or NumPy.
            side: Of the network's input, pixels.
            decode: A name in `heatmaps.DECODES`.
        """
        heatmaps, depth_maps, joints, scores = jax.tree.map(np.asarray, outputs)
        if heatmaps is None:
            if scores is None:
                scores = np.ones(joints.shape[:2], np.float32)
            joints_px = (joints[..., :2] + 0.5) * side
            return Decoded(joints_px, scores, joints if joints.shape[2] == 3 else None)
        assert self.stride is not None, "there are heat maps"
        return decode_maps(
            heatmaps,
            depth_maps=depth_maps,
            joints=joints,
            side=side,
            stride=self.stride,
            decode=decode,
        )


def scaled(features: int, width: float) -> int:
    """Returns a channel count, multiplied by a network's width; at least 1."""
    return max(1, round(features * width))
