"""3-D convolutions over a clip (Grinciunaite et al., ECCV workshops 2016; Table 3).

Approximate: no code of the authors is known, and of the paper little more than that it
regresses the joints of five frames, 128 x 128, by convolutions whose third dimension is
time, of which the first are 3 x 5 x 5; that LeakyReLUs follow them; that pooling is in
space alone; and that the loss is the mean distance. Channels, kernels of the later
layers and fully connected layers are assumptions. The authors' joints are relative to
the pelvis; for metrics in the image, here they are relative to the crop.
"""

import functools

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from cmbjax.models.fast.cpu import eigen_convolution
from cmbjax.models.layers import BatchNorm
from cmbjax.models.losses import AnyArray, Batch, joint_targets
from cmbjax.models.memory import Bound
from cmbjax.models.network import Network, Outputs

# Kernel over time, rows and columns; channels.
LAYERS = (((3, 5, 5), 32), ((3, 5, 5), 64), *(((3, 3, 3), c) for c in (128, 128, 256)))
HIDDEN = 1024  # of both fully connected layers
NEAREST = 1e-6  # a distance below has no gradient


class CNN3D(Network, kw_only=True):
    """Five convolutions over time and space, two hidden layers, the joints of all.

    Behind each convolution BN, LeakyReLU, and pooling by 2 in space; behind each hidden
    layer LeakyReLU and dropout. The hidden layers' weights grow with the square of the
    side. A single frame, a still, is a clip that stands still. The loss is the mean
    distance between predicted and labelled joints of all the clip's frames; what is
    decoded is the frame in the middle.

    Attributes:
        norm: BN, an assumption: made for training from scratch.
        dropout: Share dropped behind each hidden layer. A half, as is usual, kept the
            network at the mean pose where none let it learn sixteen frames by heart.
    """

    norm: bool = True
    dropout: float = 0.0

    heads3d = ("none", "dense")
    stride = None
    divisor = 32
    num_frames = 5

    def outputs(
        self,
        depth: Float[AnyArray, "batch side side frames"],
        *,
        train: bool,
        r: Bound,
    ) -> Outputs:
        """Returns the joints of the frame in the middle."""
        joints = self.joints_of_frames(depth, train=train)
        return Outputs(joints=joints[:, self.num_frames // 2])

    @nn.compact
    def joints_of_frames(
        self, depth: Float[AnyArray, "batch side side _"], *, train: bool
    ) -> Float[Array, "batch frames joints coordinates"]:
        """Returns each frame's joints; a single frame stands still.

        x and y as fractions of the crop from its centre; z, in normalised depth, with
        the head "dense" alone.
        """
        depth = self.check(depth)
        leaky = functools.partial(nn.leaky_relu, negative_slope=0.01)
        whole = not train or self.is_initializing()
        dropout = nn.Dropout(self.dropout, deterministic=whole)
        frames = jnp.repeat(depth, self.num_frames // depth.shape[3], axis=3)
        x = jnp.moveaxis(frames, 3, 1)[..., None]
        for kernel_size, features in LAYERS:
            x = nn.Conv(
                self.scaled(features),
                kernel_size,
                kernel_init=nn.initializers.he_normal(),
                dtype=self.dtype,
                conv_general_dilated_cls=eigen_convolution,
            )(x)
            if self.norm:
                x = BatchNorm(use_running_average=not train, dtype=self.dtype)(x)
            x = nn.max_pool(leaky(x), (1, 2, 2), (1, 2, 2))
        x = x.reshape(len(x), -1)
        for _ in range(2):
            x = dropout(leaky(nn.Dense(self.scaled(HIDDEN), dtype=self.dtype)(x)))
        shape = (self.num_frames, self.num_joints, 3 if self.head3d == "dense" else 2)
        output = nn.Dense(int(np.prod(shape)), dtype=self.dtype, name="joints")(x)
        return output.astype(jnp.float32).reshape(-1, *shape)

    def loss(self, batch: Batch, *, r: Bound, sigma: float) -> Float[Array, ""]:
        """Returns the mean distance over frames and joints; see `Network`.

        Joints without a label do not count, nor does depth where it is not known. The
        labels of a still stand for each of its frames.
        """
        joints = self.joints_of_frames(batch["depth"], train=True)
        names = ("joints_px", "joints_z", "visible")
        labels = [
            batch[f"frames_{name}"]
            if f"frames_{name}" in batch
            else jnp.repeat(batch[name][:, None], self.num_frames, axis=1)
            for name in names
        ]
        targets, is_known = joint_targets(*labels, side=batch["depth"].shape[1])
        coordinates = joints.shape[-1]
        missed = joints - targets[..., :coordinates]
        squares = jnp.sum(
            jnp.where(is_known[..., :coordinates], missed, 0) ** 2, axis=-1
        )
        distances = jnp.sqrt(jnp.maximum(squares, NEAREST**2))
        labelled = is_known[..., 0]
        return jnp.sum(distances * labelled) / jnp.maximum(jnp.sum(labelled), 1)
