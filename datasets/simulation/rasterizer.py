"""Which triangle a pixel sees, and how far away it is, by OpenCV's rasteriser."""

import cv2
import numpy as np
from jaxtyping import Float, Int

NEAR, FAR = 0.05, 100.0  # metres along the optical axis; nothing else is seen
CODES = 4096  # colours of float32 that rounding tells apart with room to spare


def rasterize(
    vertices: Float[np.ndarray, "vertices xyz=3"],
    faces: Int[np.ndarray, "faces corners=3"],
    codes: Int[np.ndarray, " faces"],
    *,
    width: int,
    height: int,
    focal: float,
    centre: tuple[float, float],
) -> tuple[Float[np.ndarray, "height width"], Int[np.ndarray, "height width"]]:
    """Returns what the middle of each pixel sees of triangles, from either side.

    Args:
        vertices: In the camera frame (x right, y down, z forward), metres.
        faces: Three vertices each.
        codes: Of the faces, from 0 to below `CODES`.
        width: Of the picture.
        height: Of the picture.
        focal: Pixels.
        centre: Principal point, pixels, where the middle of the first pixel is 0.5.

    Returns:
        Depth along the optical axis, infinity where nothing is; the nearest face's
        code, or -1.
    """
    is_behind = (vertices[:, 2] < NEAR)[faces].sum(axis=1)
    front, crosses = is_behind == 0, (is_behind > 0) & (is_behind < 3)
    cut, cut_of = _before_camera(vertices[faces[crosses]])
    cut_codes = codes[crosses][cut_of]
    faces, codes = faces[front], codes[front]
    # Flat shading gives a triangle the colour of its first corner; one whose corner has
    # another's colour gets corners of its own.
    colour = np.zeros(len(vertices), np.int32)
    colour[faces[:, 0]] = codes
    odd = colour[faces[:, 0]] != codes
    own = np.concatenate([vertices[faces[odd]], cut]).reshape(-1, 3)
    own_faces = len(vertices) + np.arange(len(own)).reshape(-1, 3)
    x, y, z = np.concatenate([vertices, own]).T
    colours = np.zeros((len(x), 3), np.float32)
    own_codes = np.repeat(np.concatenate([codes[odd], cut_codes]), 3)
    colours[:, 0] = (np.concatenate([colour, own_codes]) + 1) / CODES
    # OpenCV knows no principal point: what is there is sheared into the middle.
    x = x + (centre[0] - width / 2) / focal * z
    y = y + (centre[1] - height / 2) / focal * z
    triangles = np.concatenate([faces[~odd], own_faces]).astype(np.int32)
    depth = np.full((height, width), FAR, np.float32)
    image = np.zeros((height, width, 3), np.float32)
    settings = cv2.TriangleRasterizeSettings()
    settings.setCullingMode(cv2.RASTERIZE_CULLING_NONE)
    settings.setShadingType(cv2.RASTERIZE_SHADING_FLAT)
    settings.setGlCompatibleMode(cv2.RASTERIZE_COMPAT_DISABLED)
    if len(triangles):
        cv2.triangleRasterize(
            np.stack([x, -y, -z], axis=1).astype(np.float32),
            triangles,
            colours,
            image,
            depth,
            np.eye(4, dtype=np.float32),
            2 * float(np.arctan(height / 2 / focal)),
            NEAR,
            FAR,
            settings,
        )
    found = np.rint(image[..., 0] * CODES).astype(np.int32) - 1
    return np.where(found >= 0, depth, np.inf), found


def _before_camera(
    corners: Float[np.ndarray, "cut corners=3 xyz=3"],
) -> tuple[Float[np.ndarray, "parts corners=3 xyz=3"], Int[np.ndarray, " parts"]]:
    """Returns the parts beyond `NEAR` of triangles that cross it, and of which."""
    behind = corners[..., 2] < NEAR
    is_quad = behind.sum(axis=1) == 1
    # The corner that is alone on its side comes first.
    alone = np.argmax(behind == is_quad[:, None], axis=1)
    order = (alone[:, None] + np.arange(3)) % 3
    a, b, c = np.take_along_axis(corners, order[..., None], axis=1).swapaxes(0, 1)

    def crossing(end: np.ndarray) -> np.ndarray:
        share = (NEAR - a[:, 2]) / (end[:, 2] - a[:, 2])
        return np.asarray(a + share[:, None] * (end - a))

    ab, ac = crossing(b), crossing(c)
    tips = np.stack([a, ab, ac], axis=1)[~is_quad]
    quads = [np.stack(x, axis=1)[is_quad] for x in ((ab, b, c), (ab, c, ac))]
    number = np.arange(len(corners))
    owners = [number[~is_quad], number[is_quad], number[is_quad]]
    return np.concatenate([tips, *quads]), np.concatenate(owners)
