"""The network that finds people, or hands; see `cmbjax.depth.detector`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from cmbjax.models.layers import EPSILON, repeat
from cmbjax.models.losses import AnyArray

# As `depth.detector` reads them: the centre; four sides of what is seen and four of the
# body, a depth and a direction.
CENTRE, UP, CHANNELS = 0, slice(10, 12), 12

Maps = Float[Array, "batch cells cells channels"]


class Layer(NamedTuple):
    """A 3x3 convolution with BN and ReLU.

    Attributes:
        name: Of the layer.
        inputs: Names of layers; a plus at the end has one upsampled by two.
        features: Channels.
        stride: Of the convolution.
        dilation: Of the filter.
    """

    name: str
    inputs: tuple[str, ...]
    features: int
    stride: int = 1
    dilation: int = 1


LAYERS = (
    Layer("conv1", ("input",), 16, stride=2),
    Layer("conv2", ("conv1",), 24, stride=2),
    Layer("conv3", ("conv2",), 32),
    Layer("conv4", ("conv3",), 64, stride=2),
    Layer("conv5", ("conv4",), 64),
    Layer("conv6", ("conv5",), 96, stride=2),
    Layer("conv7", ("conv6",), 96, dilation=2),
    Layer("conv8", ("conv7",), 96),
    Layer("conv9", ("conv8",), 96, dilation=3),
    Layer("conv10", ("conv9+", "conv5"), 64),
    Layer("conv11", ("conv10+", "conv3"), 40),
    Layer("conv12", ("conv11",), 40),
)
HEAD = "head"


class Detector(nn.Module, kw_only=True):
    """Maps of centres, boxes, depths and directions of people; `LAYERS` in order."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, image: Float[AnyArray, "batch side side 3"], *, train: bool
    ) -> Maps:
        """Returns the maps that `depth.detector.decode` reads."""
        maps = {"input": jnp.asarray(image, self.dtype)}
        for layer in LAYERS:
            parts = [
                repeat(maps[name[:-1]]) if name[-1] == "+" else maps[name]
                for name in layer.inputs
            ]
            x = nn.Conv(
                layer.features,
                (3, 3),
                strides=layer.stride,
                padding=layer.dilation,
                kernel_dilation=layer.dilation,
                use_bias=False,
                kernel_init=nn.initializers.he_normal(),
                dtype=self.dtype,
                name=layer.name,
            )(jnp.concatenate(parts, axis=-1))
            norm = nn.BatchNorm(
                use_running_average=not train,
                momentum=0.97,
                dtype=self.dtype,
                name=f"{layer.name}_norm",
            )
            maps[layer.name] = nn.relu(norm(x))
        bias = np.zeros(CHANNELS, np.float32)
        bias[CENTRE] = -4.0  # nearly nowhere is the centre of anybody
        spread = np.full((1, 1, 1, CHANNELS), 0.01, np.float32)
        # Left and right are as frequent: from nearly nothing their direction never
        # grows, as no feature tells them apart unless it is asked for.
        spread[..., UP] = 0.3
        head = nn.Conv(
            CHANNELS,
            (1, 1),
            kernel_init=lambda *like: spread * nn.initializers.normal(1.0)(*like),
            bias_init=lambda *_: jnp.asarray(bias),
            name=HEAD,
        )
        return head(maps[LAYERS[-1].name].astype(jnp.float32))


def folded(variables: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns filters and bias of each layer, BN's running statistics in them."""
    params, stats = variables["params"], variables["batch_stats"]
    layers = {}
    for layer in LAYERS:
        norm, running = params[f"{layer.name}_norm"], stats[f"{layer.name}_norm"]
        scale = np.asarray(norm["scale"]) / np.sqrt(
            np.asarray(running["var"]) + EPSILON
        )
        bias = np.asarray(norm["bias"]) - scale * np.asarray(running["mean"])
        layers[layer.name] = (np.asarray(params[layer.name]["kernel"]) * scale, bias)
    head = params[HEAD]
    layers[HEAD] = (np.asarray(head["kernel"]), np.asarray(head["bias"]))
    return layers


def loss(maps: Maps, targets: dict[str, Array]) -> Float[Array, ""]:
    """Returns the loss of a batch.

    The centres' is the focal loss of CenterNet (Zhou et al., "Objects as Points",
    2019, Eq. 1); boxes, depths and directions count where a centre is near.

    Args:
        maps: Of the network.
        targets: centre [batch, cells, cells] Gaussians, 1 at a person's centre; values
            [batch, cells, cells, CHANNELS - 1] and weight [batch, cells, cells]; of
            the centres, cells that are `unclear` [batch, cells, cells] do not count.
    """
    logits, centre = maps[..., CENTRE], targets["centre"]
    p = jnp.clip(jax.nn.sigmoid(logits), 1e-5, 1 - 1e-5)
    hit = (centre >= 1) * (1 - p) ** 2 * jnp.log(p)
    counts = (centre < 1) & ~targets["unclear"]
    miss = counts * (1 - centre) ** 4 * p**2 * jnp.log(1 - p)
    focal = -jnp.sum(hit + miss) / jnp.maximum(jnp.sum(centre >= 1), 1)
    off = maps[..., 1:] - targets["values"]
    # Squares of the direction: most people are upright, so that the least absolute
    # error across the image is that of a network that always says none.
    off = jnp.concatenate([jnp.abs(off[..., :-2]), 2 * off[..., -2:] ** 2], axis=-1)
    off *= targets["weight"][..., None]
    count = jnp.maximum(jnp.sum(targets["weight"]), 1)
    per_channel = jnp.sum(off, axis=(0, 1, 2)) / count
    return focal + 0.4 * jnp.sum(per_channel)
