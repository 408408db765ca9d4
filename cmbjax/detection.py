"""People in one depth image: metric size, no background model, nothing learned.

Pixels: the centre of the top-left pixel is (0.5, 0.5). Camera frame: x right, y
down, z forward, metres; the camera looks roughly level (floors tilted by more than
`MAX_TILT` are not looked for), so this is for side views, not for views from above.
"""

import dataclasses

import cv2
import numpy as np

DEFAULT_FOCAL = 0.8  # of the width: between Kinect v1 (0.89) and v2 (0.71)
WORK_SIDE = 320  # pixels; larger images are subsampled, a body is still 100 pixels tall
SENSOR_STEP = 2.85e-3  # 1/m: structured light resolves steps of this times z^2
SAMPLE = 2000  # points that vote for a plane
MAX_TILT = 20  # degrees between the floor and the camera's horizontal plane
FLOOR_MIN, FLOOR_MAX = 0.4, 2.4  # metres of the floor below the camera
PLANE_BIN = 0.03  # metres
FLOOR_CUT = 0.04  # metres above the floor that count as floor: the soles of the feet
WALL_AREA = 1.8
WALL_CUT = 0.06
LINK = 0.06  # metres, with the sensor's step: neighbours further apart are not linked


@dataclasses.dataclass(frozen=True, eq=False)
class Person:
    """One person found in a depth image.

    Attributes:
        box: float32 [x0, y0, x1, y1], pixels.
        depth_mm: Median over the mask, millimetres (raw units if not metric).
        mask: bool [height, width], the person's pixels.
    """

    box: np.ndarray
    depth_mm: float
    mask: np.ndarray


DEBUG = []
TIMES = {}
import time as _t
def _tick(name, t0):
    TIMES.setdefault(name, []).append((_t.perf_counter() - t0) * 1e3)
    return _t.perf_counter()


def find_people(depth_mm, camera=None, *, metric=True):
    t0 = _t.perf_counter()
    h, w = depth_mm.shape
    if camera is None or not np.all(np.isfinite(camera)):
        camera = [DEFAULT_FOCAL * w, DEFAULT_FOCAL * w, w / 2, h / 2]
    stride = -(-max(h, w) // WORK_SIDE)
    small = depth_mm[::stride, ::stride]
    z = small / np.float32(1000)
    rx = (np.arange(0, w, stride, dtype=np.float32) + 0.5 - camera[2]) / camera[0]
    ry = (np.arange(0, h, stride, dtype=np.float32) + 0.5 - camera[3]) / camera[1]
    p = np.stack([z * rx.astype("f4"), z * ry[:, None].astype("f4"), z], -1)
    pix = stride**2 / (camera[0] * camera[1])
    t0 = _tick("project", t0)
    floor = _find_floor(p)
    t0 = _tick("floor", t0)
    fg = z > 0
    n, d = floor if floor is not None else (np.array([0, 1, 0], "f4"), 0.0)
    up = d - p @ n
    step = SENSOR_STEP * z * z
    if floor is not None:
        fg &= up > FLOOR_CUT + 0.3 * step
    area = z * z * np.float32(pix)
    fg = _cut_walls(p, area, fg, n, step)
    t0 = _tick("walls", t0)
    labels, stats = _components(z, fg)
    areas = np.bincount(labels.ravel(), area.ravel(), len(stats))
    areas[0] = 0
    parts = []
    for i in np.flatnonzero((areas > 0.004) & (stats[:, 4] > 8)):
        x0, y0, bw, bh = stats[i, :4] // 2
        sl = slice(y0, y0 + bh + 1), slice(x0, x0 + bw + 1)
        m = labels[sl] == i
        pts = p[sl][m]
        q = np.percentile(pts, [1, 50, 99], axis=0)
        parts.append((i, areas[i], sl, m, q))
    t0 = _tick("comps", t0)
    DEBUG.clear()
    DEBUG.append((floor, labels))
    people = []
    used = set()
    room = [c for c in parts if c[1] < 1.6 and np.all((c[4][2] - c[4][0])[[0, 2]] < (2.3, 1.5))]
    for c in sorted(room, key=lambda c: -c[1]):
        if c[0] in used or c[1] < 0.1:
            continue
        mask = labels == c[0]
        zc = c[4][1, 2]
        changed = True
        mine = {c[0]}
        while changed:
            changed = False
            k = 2 * max(1, len(z) // 100) + 1
            around = cv2.dilate(mask.astype(np.uint8), np.ones((k, k), np.uint8)) > 0
            for f in room:
                if f[0] in mine or f[0] in used or f[1] > c[1]:
                    continue
                sl, m = f[2:4]
                touch = (m & around[sl]).sum()
                if touch < 3 or touch < 0.3 * np.sqrt(m.sum()):
                    continue
                dz = f[4][1, 2] - zc
                if not (-0.7 < dz < 0.35):
                    continue
                if abs(dz) > 0.15 and f[1] > 0.15:
                    continue
                mine.add(f[0])
                mask[sl] |= m
                changed = True
        pts = p[mask]
        q = np.percentile(pts, [1, 99], axis=0)
        W, H, Dp = q[1] - q[0]
        upm = up[mask]
        U = np.percentile(upm, [1, 99])
        A = areas[list(mine)].sum()
        near = pts[:: max(1, len(pts) // 500)]
        inv = 1 / near[:, 2]
        M = np.c_[near[:, :2] * inv[:, None], np.ones(len(near))]
        sol = np.linalg.lstsq(M, inv, rcond=None)[0]
        R = np.median(np.abs(1 / (M @ sol) - near[:, 2]))
        top = upm > U[1] - 0.2
        feats = dict(A=A, W=W, H=H, D=Dp, lo=U[0], hi=U[1], R=R, fill=A / (W * H), top=area[mask][top].sum() / .2 / W,
          z=float(np.median(pts[:, 2])), n=len(mine))
        DEBUG.append((feats, mask))
        ok = 0.12 < A < 1.6 and 0.5 < H < 2.5 and 0.15 < W < 2.2 and Dp < 1.5 and feats["fill"] < 0.88
        if floor is not None:
            ok &= U[0] < 0.7 and 0.9 < U[1] < 2.6
        step = SENSOR_STEP * feats["z"] ** 2
        ok &= R > 0.008 + step / 3
        feats["ok"] = ok
        if not ok:
            continue
        used |= mine
        ys, xs = np.nonzero(mask)
        box = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], np.float32)
        if floor is not None and U[0] < 0.2:
            low = pts[upm < U[0] + 0.1]
            ground = low + (d - low @ n)[:, None] * n
            v = ground[:, 1] / ground[:, 2] * camera[1] + camera[3]
            box[3] = np.clip(np.percentile(v, 95) / stride, box[3], len(z))
        mm = np.median(small[mask])
        full = np.repeat(np.repeat(mask, stride, 0), stride, 1)[:h, :w]
        box = np.minimum(box * stride, [w, h, w, h]).astype(np.float32)
        people.append(Person(box, float(mm), full))
    t0 = _tick("people", t0)
    return sorted(people, key=lambda a: a.depth_mm)


def _sample(a):
    return a[:: -(-len(a) // SAMPLE) or 1]


def _votes(points, directions, bins, weights=None):
    index = np.clip(points @ directions.T / PLANE_BIN, 0, bins - 1).astype(np.int32)
    index += bins * np.arange(len(directions), dtype=np.int32)
    if weights is not None:
        weights = np.repeat(weights, len(directions))
    n = bins * len(directions)
    return np.bincount(index.ravel(), weights, n).reshape(-1, bins)


def _find_floor(p):
    z = p[..., 2]
    k = max(1, len(z) // 80)
    a, b = p[:-k], p[k:]
    dz = a[..., 2] - b[..., 2]
    dy = np.abs(a[..., 1] - b[..., 1])
    sure = (a[..., 2] > 0) & (b[..., 2] > 0) & (dz > 2 * dy) & (dz < 0.6)
    level = b[sure]
    enough = 0.003 * z.size + 10
    if len(level) < enough:
        return None
    everything = p[z > 0]
    tilts = np.radians(np.arange(-MAX_TILT, MAX_TILT + 1))
    normals = np.stack([0 * tilts, np.cos(tilts), np.sin(tilts)], 1).astype(np.float32)
    bins = round(FLOOR_MAX / PLANE_BIN) + 3
    few, many = _sample(level), _sample(everything)
    on = _votes(few, normals, bins) * (len(level) / len(few))
    allv = _votes(many, normals, bins) * (len(everything) / len(many))
    below = allv[:, ::-1].cumsum(1)[:, ::-1]
    score = on[:, :-3] + on[:, 1:-2] - below[:, 3:]
    score[:, : round(FLOOR_MIN / PLANE_BIN)] = 0
    i, j = np.unravel_index(score.argmax(), score.shape)
    if score[i, j] < enough:
        return None
    n, d = normals[i], (j + 1) * PLANE_BIN
    for _ in range(2):
        near = level[np.abs(level @ n - d) < 0.05]
        if len(near) < 10:
            break
        # y = a x + b z + c
        A = np.c_[near[:, 0], near[:, 2], np.ones(len(near), "f4")]
        sol = np.linalg.lstsq(A, near[:, 1], rcond=None)[0]
        m = np.array([-sol[0], 1, -sol[1]], "f4")
        l = np.linalg.norm(m)
        n, d = m / l, sol[2] / l
    return n, d


def _cut_walls(p, area, fg, down, step):
    fg = fg.copy()
    forward = np.cross([1, 0, 0], down)
    forward /= np.linalg.norm(forward)
    right = np.cross(down, forward)
    ang = np.radians(np.arange(-90, 90, 3))
    directions = (np.sin(ang)[:, None] * right + np.cos(ang)[:, None] * forward).astype("f4")
    shift = np.float32(6.0)
    bins = round(14.0 / PLANE_BIN)
    for _ in range(3):
        pts, w = p[fg], area[fg]
        k = -(-len(pts) // SAMPLE) or 1
        pts, w = pts[::k], w[::k] * k
        if w.sum() < WALL_AREA:
            break
        v = _votes(pts, directions, bins, w) if False else _votes_shift(pts, directions, bins, w, shift)
        s = v[:, :-3] + v[:, 1:-2] + v[:, 2:-1] + v[:, 3:]
        s[:, -4:] = 0
        i, j = np.unravel_index(s.argmax(), s.shape)
        if s[i, j] < WALL_AREA:
            break
        nn, dd = directions[i], (j + 2) * PLANE_BIN - shift
        for _ in range(2):
            near = np.abs(pts @ nn - dd) < 0.08
            a2 = pts[near] @ np.stack([right, forward], 1).astype("f4")
            mean = np.average(a2, axis=0, weights=w[near])
            cov = np.cov(a2.T, aweights=w[near])
            ev = np.linalg.eigh(cov)[1][:, 0]
            nn = (ev[0] * right + ev[1] * forward).astype("f4")
            dd = float(ev @ mean)
        fg &= np.abs(p @ nn - np.float32(dd)) > WALL_CUT + step
    return fg


def _votes_shift(points, directions, bins, weights, shift):
    index = np.clip((points @ directions.T + shift) / PLANE_BIN, 0, bins - 1).astype(np.int32)
    index += bins * np.arange(len(directions), dtype=np.int32)
    n = bins * len(directions)
    return np.bincount(index.ravel(), np.repeat(weights, len(directions)), n).reshape(-1, bins)


def _components(z, fg):
    h, w = z.shape
    grid = np.zeros((2 * h - 1, 2 * w - 1), np.uint8)
    tol = LINK + 1.5 * SENSOR_STEP * z * z
    grid[::2, ::2] = fg
    grid[1::2, ::2] = fg[1:] & fg[:-1] & (np.abs(z[1:] - z[:-1]) < tol[1:])
    grid[::2, 1::2] = fg[:, 1:] & fg[:, :-1] & (np.abs(z[:, 1:] - z[:, :-1]) < tol[:, 1:])
    n, lab, stats, _ = cv2.connectedComponentsWithStats(grid, connectivity=4, ltype=cv2.CV_32S)
    lab = lab[::2, ::2]
    return lab, stats
