"""What the networks share that regress joints and begin with a mean pose."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float


class MeanPose(nn.Module, kw_only=True):
    """The mean of all labels seen in training: a statistic, as BN has.

    Attributes:
        num_joints: Joints K.

    Variables:
        batch_stats/mean, batch_stats/count: [K, 3]. Written where labels are given,
            never by `init`. Without a label the mean is 0, the middle of everything.
    """

    num_joints: int

    @nn.compact
    def __call__(
        self,
        pose: Float[Array, "batch joints xyz=3"] | None = None,
        is_known: Bool[Array, "batch joints xyz=3"] | None = None,
    ) -> Float[Array, "joints xyz=3"]:
        """Returns the mean, with the labels that are given."""
        shape = (self.num_joints, 3)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        count = self.variable("batch_stats", "count", jnp.zeros, shape)
        if pose is not None and is_known is not None and not self.is_initializing():
            number = jnp.sum(is_known, axis=0)
            off = jnp.sum(jnp.where(is_known, pose - mean.value[None], 0), axis=0)
            count.value = count.value + number
            mean.value = mean.value + off / jnp.maximum(count.value, 1)
        return jnp.asarray(mean.value)
