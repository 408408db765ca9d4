"""The rasteriser against rays that are cut with every triangle one by one."""

import numpy as np
import pytest

from datasets.simulation.rasterizer import NEAR, rasterize

WIDTH, HEIGHT, FOCAL, CENTRE = 40, 30, 35.0, (17.3, 16.1)


def draw(corners, codes):
    faces = np.arange(3 * len(corners)).reshape(-1, 3)
    return rasterize(
        np.reshape(corners, (-1, 3)),
        faces,
        np.asarray(codes, np.int32),
        width=WIDTH,
        height=HEIGHT,
        focal=FOCAL,
        centre=CENTRE,
    )


def by_rays(corners, codes):
    """Cuts the ray of each pixel with each plane, and keeps the nearest inside."""
    x, y = np.meshgrid(
        (np.arange(WIDTH) + 0.5 - CENTRE[0]) / FOCAL,
        (np.arange(HEIGHT) + 0.5 - CENTRE[1]) / FOCAL,
    )
    rays = np.stack([x, y, np.ones_like(x)], axis=-1)
    depth = np.full((HEIGHT, WIDTH), np.inf)
    found = np.full((HEIGHT, WIDTH), -1)
    for (a, b, c), code in zip(corners, codes, strict=True):
        edges = np.broadcast_to(np.stack([a - b, a - c], -1), (*rays.shape, 2))
        system = np.concatenate([edges, rays[..., None]], axis=-1)
        start = np.broadcast_to(a, rays.shape)[..., None]
        solved = np.linalg.solve(system, start)[..., 0]
        u, v, z = np.moveaxis(solved, -1, 0)
        hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (z > NEAR) & (z < depth)
        depth = np.where(hit, z, depth)
        found = np.where(hit, code, found)
    return depth, found


def agree(corners, codes):
    (depth, found), (true_depth, true_found) = (
        make(corners, codes) for make in (draw, by_rays)
    )
    same = found == true_found  # a pixel whose middle is on an edge may be either's
    assert same.mean() > 0.99
    np.testing.assert_allclose(depth[same], true_depth[same], rtol=2e-3)
    return true_found


def test_a_wall_by_hand():
    corners = np.array([[[-9, -9, 2], [9, -9, 2], [0, 9, 2.0]]])
    depth, found = draw(corners, [7])
    np.testing.assert_allclose(depth[16, 17], 2.0, rtol=1e-5)
    assert found[16, 17] == 7


def test_nothing_is_infinitely_far():
    depth, found = draw(np.array([[[0, 0, -1], [1, 0, -2], [0, 1, -1.0]]]), [3])
    assert np.isinf(depth).all() and (found == -1).all()


@pytest.mark.parametrize("seed", range(4))
def test_random_triangles(seed):
    rng = np.random.default_rng(seed)
    corners = rng.normal(0, 1, (30, 3, 3)) + [0, 0, 4]
    found = agree(corners, rng.permutation(30))
    assert len(np.unique(found)) > 8


@pytest.mark.parametrize("seed", range(4))
def test_triangles_that_pass_the_camera(seed):
    """One and two corners behind it: floors and walls of the room around."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-3, 3, (12, 3, 3))
    behind = (corners[..., 2] < NEAR).sum(axis=1)
    assert {1, 2} <= set(behind)
    found = agree(corners, np.arange(12))
    assert np.isin(np.unique(found), np.flatnonzero(np.isin(behind, (1, 2)))).any()
