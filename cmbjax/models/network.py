"""What train.py, evaluate.py and export.py ask of every network in MODELS."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from cmbjax import heatmaps
from cmbjax.losses import DEPTH_WEIGHT, depth_maps_loss, heatmap_loss, joints_loss

Batch = dict[str, Array]


class Decoded(NamedTuple):
    """What a network says of a batch.

    Attributes:
        joints_px: [batch, joints, 2] pixels of the input.
        scores: [batch, joints] how sure it is: of a heat map the height of its peak.
        joints: [batch, joints, 3] x and y as fractions of the input from its centre, z
            in normalised depth; None where the network gives no depth.
    """

    joints_px: np.ndarray
    scores: np.ndarray
    joints: np.ndarray | None


class Network(nn.Module, kw_only=True):
    """A network from depth to joints; by default by way of heat maps.

    It is called with normalised depth, [batch, side, side, clip], with `train` and with
    r of Eq. 2, which all but ours ignore; and returns what `decode` understands: heat
    maps, or heat maps and what gives the joints' depth, or joints.

    Attributes:
        num_joints: Joints K.
        width: Multiplies every channel count.
        head3d: What gives the joints' depth: a name in `heads3d`.
        dtype: Of the computation; outputs, parameters, memory and statistics are
            float32.

    What its class says:
        heads3d: Names that `head3d` may have.
        stride: Input pixels per heat-map cell; None where there are no heat maps.
        divisor: The input's side must be a multiple of it.
        clip: Frames that are seen at once, the last of the channels; odd.
        sequential: Whether frames come in the order of their recording, and not
            shuffled, in training and in evaluation.
        restarts: Whether the memory, one a sample, starts from zero with a sequence.
        flips: Whether predictions are averaged with those of the mirrored image.
        own_decode: The decode that the method itself has, a name in `DECODES`.
    """

    num_joints: int
    width: float = 1.0
    head3d: str = "none"
    dtype: Any = jnp.float32

    heads3d: ClassVar[tuple[str, ...]] = ("none",)
    stride: ClassVar[int | None] = 2
    divisor: ClassVar[int] = 8
    clip: ClassVar[int] = 1
    flips: ClassVar[bool] = False
    own_decode: ClassVar[str] = "dark"

    @property
    def sequential(self) -> bool:
        """See above."""
        return False

    @property
    def restarts(self) -> bool:
        """See above."""
        return False

    def sigma(self, side: int) -> float:
        """Returns the deviation of the method's own target heat maps, in cells."""
        return 1.5

    def check(self, depth: Array) -> None:
        """Refuses an input, or a head, that the network does not have.

        Raises:
            ValueError: The side is not a multiple of `divisor`, or there is no such
                head, or no such number of frames.
        """
        if self.head3d not in self.heads3d:
            known = ", ".join(self.heads3d)
            raise ValueError(f"head3d must be one of {known}, got {self.head3d!r}")
        side, frames = depth.shape[1], depth.shape[3]
        if side % self.divisor or depth.shape[1] != depth.shape[2]:
            raise ValueError(
                f"depth must be square with a side that is a multiple of "
                f"{self.divisor}, got {list(depth.shape)}"
            )
        if frames not in {1, self.clip}:
            raise ValueError(
                f"depth must have {self.clip} frames, got {list(depth.shape)}"
            )

    def scaled(self, features: int) -> int:
        """Returns a channel count, multiplied by the width."""
        return max(1, round(features * self.width))

    def loss(self, batch: Batch, *, r: float, sigma: float) -> Float[Array, ""]:
        """Returns the loss of a batch; called by `apply` with method="loss".

        Args:
            batch: See `pipeline.prepare_training`.
            r: Of Eq. 2.
            sigma: Of the target heat maps' Gaussians, in cells.
        """
        outputs = self(batch["depth"], train=True, r=r)
        maps, *heads = outputs if isinstance(outputs, tuple) else (outputs,)
        stride = self.stride
        assert stride is not None, "a network without heat maps has its own loss"
        loss = heatmap_loss(
            maps, batch["joints_px"], batch["visible"], stride=stride, sigma=sigma
        )
        for head in heads:
            if head.ndim == 4:
                depth_loss = depth_maps_loss(head, batch, stride=stride, sigma=sigma)
                loss += DEPTH_WEIGHT * depth_loss
            else:
                loss += joints_loss(head, batch)
        return loss

    def decode(self, outputs: Any, *, side: int, decode: str) -> Decoded:
        """Returns the joints in what the network returned.

        Args:
            outputs: Heat maps; with a 3-D head a sequence of them and what that gives.
            side: Of the network's input, pixels.
            decode: A name in `heatmaps.DECODES`.
        """
        maps, *heads = outputs if isinstance(outputs, tuple | list) else (outputs,)
        maps = jnp.asarray(maps)
        assert self.stride is not None, "a network without heat maps has its own decode"
        found = heatmaps.heatmaps_to_joints(maps, stride=self.stride, decode=decode)
        joints_px, scores = map(np.asarray, found)
        if not heads:
            return Decoded(joints_px, scores, None)
        if heads[0].ndim == 3:
            return Decoded(joints_px, scores, np.asarray(heads[0]))
        depths = np.asarray(heatmaps.read_maps(jnp.asarray(heads[0]), maps))
        joints = np.concatenate([joints_px / side - 0.5, depths[..., None]], axis=-1)
        return Decoded(joints_px, scores, joints)


def mirrored(outputs: Any, mirror: tuple[int, ...]) -> Any:
    """Returns what a network says of the mirrored image, told of the image itself.

    Args:
        outputs: Heat maps, depth maps, joints [batch, joints, xyz] or scores [batch,
            joints].
        mirror: For each joint, the one that takes its place in a mirrored image.
    """
    order = np.array(mirror)

    def back(value: Array) -> Array:
        if value.ndim == 4:
            return value[:, :, ::-1, order]
        if value.ndim == 2:
            return value[:, order]
        return value[:, order] * jnp.array([[[-1.0, *(1.0,) * (value.shape[2] - 1)]]])

    return jax.tree.map(back, outputs)
