"""Inference embedded multi-task learning (Wang et al., ACM MM 2016; Table 2: IEML).

Approximate: the abstract alone is public. It says that a fully convolutional network
proposes places for each joint, that a matching network measures how well they agree
with templates in appearance and kinematics, and that dynamic programming, as a layer,
chooses among them. All sizes are assumptions; those of the matching network's tower are
MatchNet's (Han et al., CVPR 2015). Places are fractions of the crop from its centre.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Bool, Float, Int

from cmbjax.heatmaps import Decoded, heatmaps_to_joints
from cmbjax.models.fast.pool import max_pool_3x3
from cmbjax.models.layers import BatchNorm
from cmbjax.models.losses import AnyArray, Batch, heatmap_loss
from cmbjax.models.memory import Bound
from cmbjax.models.network import Network, Outputs, scaled

Parents = tuple[int, ...]

# Channels of each group of 3x3 convolutions, behind all but the last of which there is
# pooling by 2; and of those with a dilation of 2.
GROUPS = ((64, 64), (128, 128), (256, 256, 256))
DILATED = (256, 256)
# Channels, kernel, and whether pooling follows, 3x3 by 2.
TOWER = ((24, 7, True), (64, 5, True), (96, 3, False), (96, 3, False), (64, 3, True))
FEATURES = 256  # of a patch, of a template, and of the metric network's layers
PATCH, LEAST_PATCH = 64, 24  # cells along a patch, and how few a narrow network has
PATCH_EXTENT = 1 / 3  # of the crop: 64 of 192 pixels
UNIT = 0.1  # of the crop: of offsets between joints, so that these are of weights' size
REACH = 0.05  # of the crop: a proposal this near to the label matches
FLOOR = 0.1  # lowest height with a gradient, which is that of the logarithm
BARRED = -1e9  # score of a state that must not be
PRECISION = -2.0  # at first, before the softplus: a deviation of 2 units


def leaves_first(parents: Parents) -> list[int]:
    """Returns all joints, each before its parent."""

    def depth(joint: int) -> int:
        return 0 if parents[joint] < 0 else 1 + depth(parents[joint])

    return sorted(range(len(parents)), key=depth, reverse=True)


class Proposals(NamedTuple):
    """Places where joints may be: the highest maxima of each map.

    Attributes:
        xy: [batch, joints, proposals, 2].
        heights: [batch, joints, proposals] of the map, in falling order.
        valid: [batch, joints, proposals] whether it is a maximum above 0; the first is
            the map's peak and always stands.
    """

    xy: Float[Array, "batch joints proposals xy=2"]
    heights: Float[Array, "batch joints proposals"]
    valid: Bool[Array, "batch joints proposals"]


def propose(maps: Float[Array, "batch cells cells joints"], number: int) -> Proposals:
    """Returns the highest cells that are the maximum of the 3x3 around them."""
    batch, cells, _, joints = maps.shape
    peak = maps == nn.max_pool(maps, (3, 3), padding="SAME")
    flat = jnp.moveaxis(maps, -1, 1).reshape(batch, joints, -1)
    peaks = jnp.moveaxis(peak, -1, 1).reshape(batch, joints, -1)
    heights, index = jax.lax.top_k(
        jnp.where(peaks, jax.lax.stop_gradient(flat), -jnp.inf), min(number, cells**2)
    )
    rows, columns = jnp.divmod(index, cells)
    return Proposals(
        xy=(jnp.stack([columns, rows], axis=-1) + 0.5) / cells - 0.5,
        heights=jnp.take_along_axis(flat, index, axis=-1),
        valid=(heights > 0).at[..., 0].set(True),
    )


def cut_patches(
    depth: Float[Array, "batch side side 1"],
    xy: Float[Array, "batch joints proposals xy=2"],
    size: int,
) -> Float[Array, "batch joints proposals {size} {size}"]:
    """Returns the depth around each place, relative to that in its middle.

    Patches are a third of the crop wide, which at a side of 192 and a size of 64 needs
    no interpolation. Their metric size is as constant as that of the crop around the
    body. Outside the crop all is far.
    """

    def sample(image: Array, x: Array, y: Array) -> Array:
        places = [(c + 0.5) * depth.shape[1] - 0.5 for c in (y, x)]
        return map_coordinates(image, places, order=1, mode="constant", cval=1.0)

    steps = PATCH_EXTENT * ((jnp.arange(size) + 0.5) / size - 0.5)
    shape = (*xy.shape[:3], size, size)
    x, y = xy[..., 0, None, None], xy[..., 1, None, None]
    grid = (
        jnp.broadcast_to(x + steps.reshape(1, 1, 1, 1, size), shape),
        jnp.broadcast_to(y + steps.reshape(1, 1, 1, size, 1), shape),
    )
    image = depth[..., 0]
    return jax.vmap(sample)(image, *grid) - jax.vmap(sample)(image, x, y)


class MatchNet(nn.Module, kw_only=True):
    """A tower of convolutions, and whether its features match a template's.

    Attributes:
        templates: Templates T of each joint.
        width: Multiplies every channel count.
        dtype: Of the computation.

    Variables:
        params/templates: [joints, templates, features]. Those of the medoids of a
            clustering would need the training data; here they start at random.
    """

    templates: int
    width: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, patches: Float[Array, "batch joints proposals size size"]
    ) -> Float[Array, "batch joints proposals templates match_or_not=2"]:
        """Returns log p(match), and log p(no match)."""
        init = nn.initializers.he_normal()

        wide = functools.partial(scaled, width=self.width)

        def dense(x: Array) -> Array:
            layer = nn.Dense(wide(FEATURES), kernel_init=init, dtype=self.dtype)
            return nn.relu(layer(x))

        x = patches.reshape(-1, *patches.shape[3:], 1)
        for features, size, pooled in TOWER:
            layer = nn.Conv(
                wide(features), (size, size), kernel_init=init, dtype=self.dtype
            )
            x = nn.relu(layer(x))
            if pooled:
                x = max_pool_3x3(x)
        x = dense(x.reshape(len(x), -1))
        joints, features = patches.shape[1], x.shape[-1]
        table = self.param(
            "templates",
            nn.initializers.normal(1.0),
            (joints, self.templates, features),
        )
        shape = (*patches.shape[:3], self.templates, features)
        patch = x.reshape(*patches.shape[:3], 1, features)
        template = table[None, :, None].astype(self.dtype)
        pairs = [jnp.broadcast_to(part, shape) for part in (patch, template)]
        x = dense(dense(jnp.concatenate(pairs, axis=-1)))
        logits = nn.Dense(2, dtype=self.dtype)(x)
        return nn.log_softmax(logits.astype(jnp.float32))


class Kinematics(nn.Module, kw_only=True):
    """How well a joint's place goes with its parent's, for each pair of templates.

        g = -(d - mu)^T diag(lambda) (d - mu) + b,   d = (x_n - x_m) / UNIT

    Attributes:
        parents: Of each joint; the root has -1.
        templates: Templates T of each joint.

    Variables:
        params/offsets: mu, [joints, templates, parent's templates, 2]. Not from a
            clustering of the training data, but drawn with a spread of one unit.
        params/precisions: lambda before the softplus, of the same shape.
        params/biases: b, [joints, templates, parent's templates].
        All rows of the root are without use.
    """

    parents: Parents
    templates: int

    @nn.compact
    def __call__(
        self, xy: Float[Array, "batch joints proposals xy=2"]
    ) -> tuple[
        Float[Array, "batch joints states parent_states"],
        Float[Array, "joints templates xy=2"],
    ]:
        """Returns g, and the mean offset of each template.

        A state is a proposal with a template; the template changes fastest.
        """
        batch, joints, proposals, _ = xy.shape
        table = (joints, self.templates, self.templates)

        def spread(key: Array, shape: tuple[int, ...]) -> Array:
            drawn = jax.random.normal(key, (*shape[:2], 1, 2))
            return jnp.broadcast_to(drawn, shape)

        offsets = self.param("offsets", spread, (*table, 2))
        raw = self.param("precisions", nn.initializers.constant(PRECISION), (*table, 2))
        biases = self.param("biases", nn.initializers.zeros, table)

        def of_templates(values: Array) -> Array:
            return values[None, :, None, :, None]

        parent = xy[:, jnp.array(self.parents)]
        d = (xy[:, :, :, None, None, None] - parent[:, :, None, None, :, None]) / UNIT
        squares = of_templates(nn.softplus(raw)) * (d - of_templates(offsets)) ** 2
        fit = of_templates(biases) - jnp.sum(squares, axis=-1)
        states = proposals * self.templates
        return fit.reshape(batch, joints, states, states), jnp.mean(offsets, axis=2)


def beliefs(
    unary: Float[Array, "batch joints states"],
    pairwise: Float[Array, "batch joints states parent_states"],
    parents: Parents,
    *,
    temperature: float,
) -> Float[Array, "batch joints states"]:
    """Returns each state's score together with the joints below, from the leaves up.

    Args:
        unary: Scores of states; the sum of all terms is what counts.
        pairwise: Scores of a state with the parent's; of no use for the root.
        parents: Of each joint; the root has -1.
        temperature: t of t log sum exp(score / t) over the states of joints below; at 0
            it is their maximum.
    """
    totals = list(jnp.moveaxis(unary, 1, 0))
    for joint in leaves_first(parents):
        if parents[joint] >= 0:
            scores = totals[joint][:, :, None] + pairwise[:, joint]
            totals[parents[joint]] += reduced(scores, temperature)
    return jnp.stack(totals, axis=1)


def reduced(
    scores: Float[Array, "batch states *others"], temperature: float
) -> Float[Array, "batch *others"]:
    """Returns the maximum over states, or the soft one; see `beliefs`."""
    if not temperature:
        return jnp.max(scores, axis=1)
    return temperature * jax.nn.logsumexp(scores / temperature, axis=1)


def best_states(
    unary: Float[Array, "batch joints states"],
    pairwise: Float[Array, "batch joints states parent_states"],
    parents: Parents,
) -> Int[Array, "batch joints"]:
    """Returns the states whose sum of scores is highest: max-sum, and back down."""
    totals = beliefs(unary, pairwise, parents, temperature=0.0)
    states: dict[int, Array] = {}
    for joint in reversed(leaves_first(parents)):
        scores = totals[:, joint]
        if parents[joint] >= 0:
            above = states[parents[joint]][:, None, None]
            scores += jnp.take_along_axis(pairwise[:, joint], above, axis=2)[..., 0]
        states[joint] = jnp.argmax(scores, axis=1)
    return jnp.stack([states[joint] for joint in range(len(parents))], axis=1)


def structured_loss(
    unary: Float[Array, "batch joints states"],
    pairwise: Float[Array, "batch joints states parent_states"],
    allowed: Bool[Array, "batch joints states"],
    parents: Parents,
    *,
    temperature: float,
) -> Float[Array, " batch"]:
    """Returns -log p(all joints are in states that are allowed)."""
    root = parents.index(-1)

    def total(scores: Array) -> Array:
        totals = beliefs(scores, pairwise, parents, temperature=temperature)
        return reduced(totals[:, root], temperature) / temperature

    return total(unary) - total(jnp.where(allowed, unary, BARRED))


def pairs_loss(
    matches: Float[Array, "batch joints proposals templates match_or_not=2"],
    near: Bool[Array, "batch joints proposals"],
    far: Bool[Array, "batch joints proposals"],
    fitting: Float[Array, "batch joints templates"],
) -> Float[Array, ""]:
    """Returns the mean of the cross-entropies of matching and other pairs.

    Args:
        matches: See `MatchNet`.
        near: Proposals that match the templates of their joint that fit.
        far: Proposals that match none.
        fitting: Weights of a joint's templates, 1 in sum.
    """
    weights = near[..., None] * fitting[:, :, None]
    of_near = -jnp.sum(weights * matches[..., 0]) / jnp.maximum(jnp.sum(near), 1)
    misses = jnp.mean(matches[..., 1], axis=-1)
    of_far = -jnp.sum(far * misses) / jnp.maximum(jnp.sum(far), 1)
    return (of_near + of_far) / 2


def fitting_templates(
    xy: Float[Array, "batch joints xy=2"],
    labelled: Bool[Array, "batch joints"],
    offsets: Float[Array, "joints templates xy=2"],
    parents: Parents,
) -> Float[Array, "batch joints templates"]:
    """Returns 1 for the template whose offset from the parent is the label's, else 0.

    Where that offset is not known, as of the root, all templates fit alike.
    """
    above = jnp.array(parents)
    has_offset = labelled & labelled[:, above] & (above >= 0)[None]
    d = (xy - xy[:, above]) / UNIT
    squares = jnp.sum((d[:, :, None] - offsets[None]) ** 2, axis=-1)
    nearest = jax.nn.one_hot(jnp.argmin(squares, axis=-1), offsets.shape[1])
    return jnp.where(has_offset[..., None], nearest, 1 / offsets.shape[1])


class Scored(NamedTuple):
    """All that the network says of an image.

    Attributes:
        maps: Heat maps.
        proposals: Of each joint.
        matches: See `MatchNet`.
        unary: log height + log p(match), of each proposal with each template.
        pairwise: See `Kinematics`.
        offsets: Mean offset of each template from the parent, in units.
    """

    maps: Float[Array, "batch cells cells joints"]
    proposals: Proposals
    matches: Float[Array, "batch joints proposals templates match_or_not=2"]
    unary: Float[Array, "batch joints states"]
    pairwise: Float[Array, "batch joints states parent_states"]
    offsets: Float[Array, "joints templates xy=2"]


class IEML(Network, kw_only=True):
    """Heat maps, proposals from them, and the choice of those that go together.

    The loss is the sum of three: the heat maps' squared error; the cross-entropy of
    pairs of a proposal and a template that match (within 0.05 of the crop's side of the
    label, with the template of the nearest offset) and that do not, of equal weight;
    and the negative log-likelihood of the proposals nearest to the labels, per joint
    that has one within 0.05. The likelihood is that of the tree with soft maxima.

    All parts train together from the start, where stages are likely in the original.
    The choice of cells as proposals has no gradient: what comes after them teaches the
    heat maps through the heights of proposals above 0.1 alone.

    Attributes:
        parents: Of each joint, the root has -1; by default those of a chain.
        proposals: Proposals N of a joint.
        templates: Templates T of a joint.
        temperature: Of the soft maxima in training.
    """

    parents: Parents | None = None
    proposals: int = 5
    templates: int = 8
    temperature: float = 1.0

    stride = 4
    chooses = True
    sigma = 1.75

    @property
    def tree(self) -> Parents:
        """The parent of each joint.

        Raises:
            ValueError: `parents` are those of another number of joints.
        """
        chain = tuple(range(-1, self.num_joints - 1))
        parents = chain if self.parents is None else self.parents
        if len(parents) != self.num_joints:
            raise ValueError(
                f"parents must name one of each of {self.num_joints} joints, "
                f"got {parents}"
            )
        return parents

    def outputs(
        self,
        depth: Float[AnyArray, "batch side side 1"],
        *,
        train: bool,
        r: Bound,
    ) -> Outputs:
        """Returns heat maps, the proposals chosen, and their height times p(match)."""
        scored = self.scored(depth, train=train)
        states = best_states(scored.unary, scored.pairwise, self.tree)[..., None]
        chosen = jnp.take_along_axis(
            scored.proposals.xy, (states // self.templates)[..., None], axis=2
        )
        scores = jnp.take_along_axis(scored.unary, states, axis=2)
        return Outputs(
            heatmaps=scored.maps,
            joints=chosen[:, :, 0],
            scores=jnp.exp(scores[..., 0]),
        )

    def loss(self, batch: Batch, *, r: Bound, sigma: float) -> Float[Array, ""]:
        """Returns the sum of the three losses; see above."""
        scored = self.scored(batch["depth"], train=True)
        places, visible = scored.proposals, batch["visible"]
        of_maps = heatmap_loss(
            scored.maps, batch["joints_px"], visible, stride=self.stride, sigma=sigma
        )
        xy = batch["joints_px"] / batch["depth"].shape[1] - 0.5
        xy = jnp.where(visible[..., None], xy, 0)
        squares = jnp.sum((places.xy - xy[:, :, None]) ** 2, axis=-1)
        squares = jnp.where(places.valid & visible[..., None], squares, jnp.inf)
        near = squares <= REACH**2
        far = jnp.isfinite(squares) & ~near
        offsets = jax.lax.stop_gradient(scored.offsets)
        fitting = fitting_templates(xy, visible, offsets, self.tree)
        reached = jnp.any(near, axis=-1, keepdims=True)
        nearest = jax.nn.one_hot(
            jnp.argmin(squares, axis=-1), squares.shape[2], dtype=bool
        )
        structured = structured_loss(
            scored.unary,
            scored.pairwise,
            jnp.repeat(nearest | ~reached, self.templates, axis=-1),
            self.tree,
            temperature=self.temperature,
        )
        of_choice = jnp.sum(structured) / jnp.maximum(jnp.sum(reached), 1)
        return of_maps + pairs_loss(scored.matches, near, far, fitting) + of_choice

    def decode(self, outputs: Outputs, *, side: int, decode: str) -> Decoded:
        """Returns the proposals chosen, placed within their cells; see `Network`.

        Nowhere else is a heat map left higher than around the proposal. Where none is
        above 0, the map's peak is chosen.
        """
        maps, joints = np.asarray(outputs.heatmaps), np.asarray(outputs.joints)
        cells = maps.shape[1]
        centres = (np.arange(cells, dtype=np.float32) + 0.5) / cells - 0.5
        offsets = centres.reshape(1, -1, 1, 1) - joints[:, None]
        columns, rows = np.moveaxis(np.abs(offsets) < 1.5 / cells, -1, 0)
        around = rows[:, :, None] & columns[:, None]
        lowest = np.min(maps, axis=(1, 2), keepdims=True, where=around, initial=np.inf)
        joints_px, _ = heatmaps_to_joints(
            np.where(around, maps, np.minimum(maps, lowest)),
            stride=self.stride,
            decode=decode,
        )
        return Decoded(joints_px, np.asarray(outputs.scores), None)

    @nn.compact
    def scored(
        self, depth: Float[AnyArray, "batch side side 1"], *, train: bool
    ) -> Scored:
        """Returns the scores of all proposals, with each template and each other."""
        depth = self.check(depth)
        maps = self.heatmaps_of(depth, train)
        places = propose(maps, self.proposals)
        size = max(LEAST_PATCH, round(PATCH * self.width))
        matches = MatchNet(
            templates=self.templates,
            width=self.width,
            dtype=self.dtype,
            name="matching",
        )(cut_patches(depth, places.xy, size))
        heights = jnp.log(jnp.maximum(places.heights, FLOOR))
        heights = jnp.where(places.valid, heights, BARRED)
        unary = heights[..., None] + matches[..., 0]
        pairwise, offsets = Kinematics(
            parents=self.tree, templates=self.templates, name="kinematics"
        )(places.xy)
        unary = unary.reshape(*unary.shape[:2], -1)
        return Scored(maps, places, matches, unary, pairwise, offsets)

    def heatmaps_of(
        self, depth: Float[Array, "batch side side 1"], train: bool
    ) -> Float[Array, "batch cells cells joints"]:
        """Returns the heat maps."""
        conv = functools.partial(
            nn.Conv, kernel_init=nn.initializers.he_normal(), dtype=self.dtype
        )

        def block(x: Array, features: int, dilation: int = 1) -> Array:
            x = conv(self.scaled(features), (3, 3), kernel_dilation=dilation)(x)
            norm = BatchNorm(use_running_average=not train, dtype=self.dtype)
            return nn.relu(norm(x))

        x = depth
        for number, group in enumerate(GROUPS):
            if number:
                x = nn.max_pool(x, (2, 2), (2, 2))
            for features in group:
                x = block(x, features)
        for features in DILATED:
            x = block(x, features, dilation=2)
        maps = nn.Conv(
            self.num_joints,
            (1, 1),
            kernel_init=nn.initializers.normal(0.01),
            dtype=self.dtype,
            name="heatmaps",
        )(x)
        return maps.astype(jnp.float32)
