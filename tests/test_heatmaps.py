import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmbjax import heatmaps
from cmbjax.evaluate.predictions import quantise
from cmbjax.models.losses import joints_to_heatmaps
from cmbjax.skeletons import BODY15


def gaussian(x, y, *, height, width, sigma):
    """One map [1, height, width, 1] with its peak at the cell coordinates x, y."""
    rows = np.arange(height)[:, None] + 0.5
    columns = np.arange(width)[None] + 0.5
    squared = (columns - x) ** 2 + (rows - y) ** 2
    return jnp.asarray(np.exp(-squared / (2 * sigma**2))[None, :, :, None], jnp.float32)


def random_peaks(count, low, high, seed=0):
    return np.random.default_rng(seed).uniform(low, high, (count, 2))


def test_a_joint_at_a_cells_centre_has_height_one_there():
    # stride 4: cell (row 1, column 2) has its centre at x = 10, y = 6
    joints_px = jnp.array([[[10.0, 6.0], [2.0, 14.0], [10.0, 6.0]]])
    visible = jnp.array([[True, True, False]])
    maps = joints_to_heatmaps(joints_px, visible, side=5, stride=4, sigma=0.5)
    assert maps.shape == (1, 5, 5, 3)
    assert maps[0, 1, 2, 0] == 1
    assert maps[0, 3, 0, 1] == 1
    # one cell away: exp(-1 / (2 * 0.25)); two columns and one row: exp(-5 / 0.5)
    np.testing.assert_allclose(maps[0, 1, 3, 0], np.exp(-2), rtol=1e-6)
    np.testing.assert_allclose(maps[0, 2, 4, 0], np.exp(-10), rtol=1e-5)
    np.testing.assert_array_equal(maps[..., 2], 0)


def test_an_invisible_joint_may_have_no_position():
    joints_px = jnp.full((2, 1, 2), jnp.nan)
    maps = joints_to_heatmaps(
        joints_px, jnp.zeros((2, 1), bool), side=3, stride=2, sigma=1.0
    )
    np.testing.assert_array_equal(maps, 0)


def test_a_joint_outside_the_image_leaves_only_its_flank():
    maps = joints_to_heatmaps(
        jnp.array([[[-1.0, 3.0]]]), jnp.ones((1, 1), bool), side=4, stride=2, sigma=1.0
    )
    # the joint is one cell left of the centre of (row 1, column 0)
    np.testing.assert_allclose(maps.max(), np.exp(-0.5), rtol=1e-6)
    assert maps[0, 1, 0, 0] == maps.max()


def test_argmax_gives_the_centre_of_the_peaks_cell():
    maps = np.zeros((2, 3, 5, 2), np.float32)  # 3 rows, 5 columns
    maps[0, 2, 4, 0] = 0.7
    maps[0, 1, 0, 1] = -0.5
    maps[0, 1, 1, 1] = 0.2
    maps[1, 0, 3, 0] = 3.0
    joints_px, scores = heatmaps.heatmaps_to_joints(maps, stride=4)
    expected = [[[18, 10], [6, 6]], [[14, 2], [2, 2]]]  # an empty map: its first cell
    np.testing.assert_array_equal(joints_px, expected)
    np.testing.assert_array_equal(scores, np.float32([[0.7, 0.2], [3.0, 0.0]]))


def test_quarter_moves_towards_the_larger_neighbour_and_not_at_a_tie():
    maps = np.zeros((1, 4, 6, 2), np.float32)
    maps[0, 1, 3, 0] = 1.0
    maps[0, 1, 2, 0], maps[0, 1, 4, 0] = 0.6, 0.5  # left; above and below are equal
    maps[0, 2, 2, 1] = 1.0
    maps[0, 3, 2, 1] = 0.1  # down; left and right are equal
    joints_px, _ = heatmaps.heatmaps_to_joints(maps, stride=2, decode="quarter")
    np.testing.assert_array_equal(joints_px, [[[6.5, 3.0], [5.0, 5.5]]])


@pytest.mark.parametrize("sigma", [0.8, 1.5, 3.0])
def test_dark_is_exact_for_a_gaussian(sigma):
    for x, y in random_peaks(20, 3.0, 6.0):
        maps = gaussian(x, y, height=9, width=11, sigma=sigma)
        joints_px, _ = heatmaps.heatmaps_to_joints(maps, stride=1, decode="dark")
        np.testing.assert_allclose(joints_px[0, 0], [x, y], atol=1e-3)


def test_quarter_halves_the_error_of_argmax():
    peaks = random_peaks(500, 4.0, 12.0)
    maps = jnp.concatenate(
        [gaussian(x, y, height=16, width=16, sigma=1.0) for x, y in peaks]
    )

    def mean_error(decode):
        joints, _ = heatmaps.heatmaps_to_joints(maps, stride=1, decode=decode)
        return np.linalg.norm(joints[:, 0] - peaks, axis=-1).mean()

    # uniform in a unit cell, the mean distance to its centre is 0.3826
    assert mean_error("argmax") == pytest.approx(0.3826, abs=0.02)
    assert mean_error("quarter") == pytest.approx(0.3826 / 2, abs=0.01)


def test_dark_falls_back_to_the_peaks_cell():
    border = np.full((4, 5), 0.3, np.float32)
    singular = np.full((4, 5), 0.01, np.float32)  # dxx = dyy = -1, dxy = 1
    singular[1:, 1:4] = np.exp([[-1, -0.5, -2.5], [-0.5, 0, -0.5], [-2.5, -0.5, 0]])
    empty = np.zeros((4, 5), np.float32)
    broken = np.full((4, 5), np.nan, np.float32)
    below_zero = np.full((4, 5), -2.0, np.float32)
    below_zero[1, 2] = -1.0
    maps = np.stack([border, singular, empty, broken, below_zero], axis=-1)[None]
    argmax = heatmaps.heatmaps_to_joints(maps, stride=2)[0]
    dark = heatmaps.heatmaps_to_joints(maps, stride=2, decode="dark")[0]
    np.testing.assert_array_equal(dark, argmax)
    np.testing.assert_array_equal(dark[0, 1], [5, 5])
    np.testing.assert_array_equal(dark[0, 4], [5, 3])


def test_dark_moves_at_most_one_cell():
    # slope 0.3 in x and y, curvature -0.1 along the diagonal: 3 cells each way
    log = [[-1.6, -0.8, -2.6], [-0.8, 0.0, -0.2], [-2.6, -0.2, -1e-4]]
    maps = np.exp(log).astype(np.float32)[None, :, :, None]
    joints_px, _ = heatmaps.heatmaps_to_joints(maps, stride=1, decode="dark")
    np.testing.assert_array_equal(joints_px, [[[2.5, 2.5]]])


def test_smoothed_takes_where_most_of_a_low_map_lies_and_dark_its_highest_cell():
    """A single cell on the left, a square of six by six cells on the right."""
    low = np.zeros((24, 24), np.float32)
    low[4, 4] = 0.3
    low[11:17, 15:21] = 0.2  # middle: (18, 14)
    maps = np.stack([low, 3 * low, np.zeros_like(low)], axis=-1)[None]
    for decode, first in (("dark", [4.5, 4.5]), ("smoothed", [18, 14])):
        joints_px, scores = heatmaps.heatmaps_to_joints(maps, stride=1, decode=decode)
        # The second map is high: that is where the joint is. The third is empty.
        np.testing.assert_allclose(
            joints_px[0], [first, [4.5, 4.5], [0.5, 0.5]], atol=0.02
        )
        np.testing.assert_allclose(scores, [[0.3, 0.9, 0]], rtol=1e-6)
    depth_maps = np.broadcast_to(np.arange(24, dtype=np.float32), (3, 24, 24))
    decoded = heatmaps.decode_maps(
        maps,
        depth_maps=np.moveaxis(depth_maps, 0, 2)[None],
        side=24,
        stride=1,
        decode="smoothed",
    )
    # Depth grows by 1 a column, and is that of the place.
    np.testing.assert_allclose(decoded.joints[0, :2, 2], [17.5, 4], atol=0.51)
    pixels, _ = heatmaps.heatmaps_to_joints(maps, stride=1, decode="smoothed")
    np.testing.assert_array_equal(decoded.joints_px, pixels)


def test_what_is_seen_in_a_mirror_is_told_of_the_image():
    right, left = BODY15.mirror_pairs[0]
    maps = np.zeros((1, 4, 6, 15), np.float32)
    maps[0, 2, 1, left] = 0.7
    joints = np.zeros((1, 15, 3), np.float32)
    joints[0, left] = 0.1, 0.2, 0.3
    told = heatmaps.mirrored({"heatmaps": maps, "joints": joints}, BODY15.mirror)
    assert told["heatmaps"][0, 2, 4, right] == np.float32(0.7)
    np.testing.assert_allclose(told["joints"][0, right], [-0.1, 0.2, 0.3])
    assert [np.count_nonzero(values) for values in told.values()] == [1, 3]


def test_hands_are_smoothed_by_a_sixteenth_of_a_map_and_people_by_a_twelfth():
    low = np.zeros((1, 48, 48, 1), np.float32)
    low[0, 20, 30] = 0.5
    for name, cells in (("smoothed", 4), ("smoothed_less", 3)):
        maps = heatmaps.smoothed(low, heatmaps.SMOOTHED[name])
        one_off = 0.5 * np.exp(-0.5 / cells**2)
        np.testing.assert_allclose(maps[0, [20, 21], [30, 30], 0], [0.5, one_off])


def test_what_the_edge_cuts_off_is_unknown_in_an_open_map_and_empty_in_a_smoothed_one():
    """As high all over the last four rows, from 20 to 24: their middle is 22."""
    maps = np.zeros((1, 24, 24, 1), np.float32)
    maps[0, 20:, 10:13] = 0.2
    places = {
        decode: heatmaps.heatmaps_to_joints(maps, stride=1, decode=decode)[0][0, 0]
        for decode in ("smoothed", "smoothed_open")
    }
    np.testing.assert_allclose(places["smoothed"], [11.5, 22], atol=0.01)
    # The last row's window has the least that is empty in it.
    np.testing.assert_allclose(places["smoothed_open"], [11.5, 23.5], atol=0.01)
    # Far from the edges both are one.
    middle = np.roll(maps, -10, axis=1)
    one, other = (
        heatmaps.heatmaps_to_joints(middle, stride=1, decode=decode)[0]
        for decode in places
    )
    np.testing.assert_allclose(one, other, atol=0.01)


@pytest.mark.parametrize(
    "decode", sorted(set(heatmaps.DECODES) - set(heatmaps.SMOOTHED))
)
def test_decoding_ignores_the_maps_scale(decode):
    maps = jax.random.uniform(jax.random.key(0), (2, 6, 9, 3))
    joints_px, scores = heatmaps.heatmaps_to_joints(maps, stride=4, decode=decode)
    scaled_px, scaled_scores = heatmaps.heatmaps_to_joints(
        8 * maps, stride=4, decode=decode
    )
    np.testing.assert_allclose(scaled_px, joints_px, atol=1e-3)
    np.testing.assert_array_equal(scaled_scores, 8 * scores)


@pytest.mark.parametrize("height", [0.4, 1.0])  # low enough to be smoothed, and not
@pytest.mark.parametrize("decode", heatmaps.DECODES)
def test_decoding_under_jit_and_by_numpy_is_the_same(decode, height):
    maps = height * jax.random.uniform(jax.random.key(0), (2, 6, 9, 3))
    decoded = jax.jit(
        lambda maps: heatmaps.heatmaps_to_joints(maps, stride=4, decode=decode)
    )
    joints_px, scores = decoded(maps)
    of_numpy, scores_of_numpy = heatmaps.heatmaps_to_joints(
        np.asarray(maps), stride=4, decode=decode
    )
    assert isinstance(of_numpy, np.ndarray)
    np.testing.assert_allclose(of_numpy, joints_px, atol=1e-3)
    np.testing.assert_allclose(scores_of_numpy, scores, rtol=1e-5)


def test_upsampling_is_that_of_jax_among_the_lowest_value():
    # jax.image.resize of JAX 0.10: Keys' cubic, which reaches two cells.
    maps = jax.random.uniform(jax.random.key(0), (2, 5, 7, 3))
    lowest = maps.min((1, 2), keepdims=True)
    among = jnp.pad(maps - lowest, ((0, 0), (2, 2), (2, 2), (0, 0)))
    expected = jax.image.resize(among, (2, 27, 33, 3), "cubic")[:, 6:-6, 6:-6] + lowest
    np.testing.assert_allclose(heatmaps.upsample(maps, 3), expected, atol=1e-5)


@pytest.mark.parametrize("place", [4.0, 6.5, 20.0, 57.5, 60.0])
def test_what_peaks_beside_the_border_is_read_there(place):
    """Of 8 cells, as CPM has them at 64 pixels: feet and heads lie there."""
    joints_px = np.array([[[place, 64 - place]]], np.float32)
    visible = np.ones((1, 1), bool)
    maps = joints_to_heatmaps(joints_px, visible, side=8, stride=8, sigma=0.875)
    for shifted in (maps, maps - 3):
        read, _ = heatmaps.heatmaps_to_joints(shifted, stride=8, decode="upsampled")
        np.testing.assert_allclose(read, joints_px, atol=1.5)


def test_maps_are_read_where_the_heat_maps_peak():
    heat = np.zeros((1, 4, 5, 3), np.float32)
    values = np.full((1, 4, 5, 3), 7.0, np.float32)
    heat[0, 1, 2, 0], heat[0, 1, 3, 0], heat[0, 2, 2, 0] = 0.6, 0.3, -0.5
    values[0, 1, 2, 0], values[0, 1, 3, 0], values[0, 2, 2, 0] = 1.0, 4.0, -9.0
    heat[0, 0, 4, 1], values[0, 0, 4, 1] = 0.5, 2.0  # in a corner
    read = heatmaps.read_maps(values, heat)
    # (0.6 * 1 + 0.3 * 4) / 0.9; a map without a peak gives what its first cells say.
    np.testing.assert_allclose(read, [[2.0, 2.0, 7.0]], rtol=1e-4)


def test_quantise_moves_every_joint_to_the_centre_of_its_cell():
    joints_px = np.array([[[0.1, 7.9], [5.0, 2.1], [3.0, 3.0]]], np.float32)
    visible = np.array([[True, True, False]])
    grid = {"side": 4, "stride": 2, "sigma": 1.0, "drawn": lambda maps: maps}
    cells = quantise(joints_px, visible, decodes=["argmax"], **grid)["argmax"]
    np.testing.assert_array_equal(cells[0, :2], [[1, 7], [5, 3]])


def test_an_unknown_decode_names_those_there_are():
    with pytest.raises(ValueError, match="'mean'; choose from: argmax, dark, quarter"):
        heatmaps.heatmaps_to_joints(jnp.zeros((1, 2, 2, 1)), stride=2, decode="mean")
