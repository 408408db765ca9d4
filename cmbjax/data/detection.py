"""Augmented views of whole frames, to train the detector on."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from cmbjax.data.examples import decode_depth
from cmbjax.depth import detector

CELLS = detector.SIDE // detector.STRIDE
LEAST_SIDE = 3.0  # pixels of the network's input: a smaller person is not there
LEFT_OVER = 0.25  # of a box: of whom less is in the picture is not there


class Frame(NamedTuple):
    """A frame and the people in it.

    Attributes:
        depth: uint16 [height, width] millimetres, 0 = no reading.
        boxes: float32 [people, 4] pixels.
        depths: float32 [people] millimetres.
        ups: float32 [people, 2] from hips to neck in the image, of length 1 where that
            is across the line of sight.
        heads: float32 [people, 2] pixels; NaN where not in front of the camera.
    """

    depth: np.ndarray
    boxes: np.ndarray
    depths: np.ndarray
    ups: np.ndarray
    heads: np.ndarray

    def only(self, kept: np.ndarray) -> "Frame":
        """Returns the frame with some of its people: a bool for each."""
        return Frame(self.depth, *(values[kept] for values in self[1:]))


def read_frame(example: Any, *, neck: int, hips: tuple[int, int]) -> Frame:
    """Returns an example of the data set crowd.

    Args:
        example: Its depth still a PNG.
        neck: Number of that joint.
        hips: Numbers of these joints.
    """
    depth = decode_depth(example)
    joints_m, joints_px = example["joints_m"], example["joints_px"]
    trunk = joints_m[:, neck] - joints_m[:, list(hips)].mean(axis=1)
    length = np.maximum(np.linalg.norm(trunk, axis=1, keepdims=True), 1e-6)
    return Frame(
        depth,
        example["boxes"],
        1000 * example["depths_m"],
        (trunk / length)[:, :2].astype(np.float32),
        joints_px[:, 0],
    )


def turned(frame: Frame, quarters: int, *, flip: bool) -> Frame:
    """Returns a frame turned anticlockwise by quarters, and mirrored after that."""
    depth, boxes, _, ups, heads = frame
    for _ in range(quarters):
        width = depth.shape[1]
        depth = np.rot90(depth)
        x0, y0, x1, y1 = boxes.T
        boxes = np.stack([y0, width - x1, y1, width - x0], axis=1)
        ups = np.stack([ups[:, 1], -ups[:, 0]], axis=1)
        heads = np.stack([heads[:, 1], width - heads[:, 0]], axis=1)
    if flip:
        width = depth.shape[1]
        depth = depth[:, ::-1]
        x0, y0, x1, y1 = boxes.T
        boxes = np.stack([width - x1, y0, width - x0, y1], axis=1)
        ups = ups * (-1, 1)
        heads = np.stack([width - heads[:, 0], heads[:, 1]], axis=1)
    return Frame(np.ascontiguousarray(depth), boxes, frame.depths, ups, heads)


def windowed(frame: Frame, window: tuple[int, int, int, int]) -> Frame:
    """Returns a part of a frame: x0, y0, x1, y1 in whole pixels."""
    x0, y0, x1, y1 = window
    shift = np.array([x0, y0])
    size = np.array([x1 - x0, y1 - y0])
    low = np.clip(frame.boxes[:, :2] - shift, 0, size)
    high = np.clip(frame.boxes[:, 2:] - shift, 0, size)
    before = np.prod(frame.boxes[:, 2:] - frame.boxes[:, :2], axis=1)
    kept = np.prod(high - low, axis=1) > LEFT_OVER * before
    part = frame._replace(
        depth=frame.depth[y0:y1, x0:x1],
        boxes=np.concatenate([low, high], axis=1),
        heads=frame.heads - shift,
    )
    return part.only(kept)


def damaged(rng: np.random.Generator, frame: Frame) -> np.ndarray:
    """Returns the depth as a worse camera gives it: readings missing here and there."""
    depth = frame.depth.copy()
    height, width = depth.shape
    if rng.random() < 0.15 and len(frame.boxes):  # a background that is cut out
        kept = np.zeros(depth.shape, bool)
        for box, middle in zip(frame.boxes, frame.depths, strict=True):
            x0, y0, x1, y1 = box.astype(int)
            inside = np.s_[y0:y1, x0:x1]
            kept[inside] |= np.abs(depth[inside] - middle) < rng.uniform(350, 700)
        depth[~kept] = 0
    if rng.random() < 0.25:
        depth[depth > rng.uniform(2500, 8000)] = 0
    if rng.random() < 0.25:
        depth[rng.random(depth.shape) < rng.uniform(0, 0.4)] = 0
    if rng.random() < 0.35:  # patches
        for _ in range(rng.integers(1, 12)):
            at = (int(rng.uniform(0, width)), int(rng.uniform(0, height)))
            axes = tuple(int(v) for v in rng.uniform(1, 0.12 * width, 2))
            cv2.ellipse(depth, at, axes, rng.uniform(0, 180), 0, 360, 0, cv2.FILLED)
    for head, box in zip(frame.heads, frame.boxes, strict=True):
        if rng.random() < 0.12 and np.isfinite(head).all():  # dark hair
            radius = int(0.09 * max(box[2:] - box[:2])) + 1
            x, y = np.clip(head, -1000, 1000).astype(int)
            cv2.circle(depth, (int(x), int(y)), radius, 0, cv2.FILLED)
    if rng.random() < 0.3:
        noise = rng.uniform(0, 0.006) * depth * rng.standard_normal(depth.shape)
        depth = np.where(depth > 0, np.clip(depth + noise, 1, 65535), 0)
    return depth.astype(np.uint16)


def hidden_below(rng: np.random.Generator, frame: Frame) -> Frame:
    """Returns a frame with something before the lower part of a person: a table."""
    person = int(rng.integers(len(frame.boxes)))
    x0, y0, x1, y1 = frame.boxes[person]
    edge = int(y0 + rng.uniform(0.35, 0.8) * (y1 - y0))
    wide = rng.uniform(0.6, 3) * (x1 - x0)
    middle = (x0 + x1) / 2 + rng.normal(0, 0.2) * wide
    left, right = int(max(0, middle - wide)), int(max(1, middle + wide))
    depth = frame.depth.copy()
    near = max(300.0, frame.depths[person] - rng.uniform(150, 900))
    table = depth[edge:, left:right]
    slope = np.linspace(0, rng.uniform(-0.3, 0.1), len(table))[:, None] * near
    depth[edge:, left:right] = np.where(
        (table == 0) | (table > near + slope), np.clip(near + slope, 200, 60000), table
    )
    boxes = frame.boxes.copy()
    covered = (boxes[:, 0] >= left) & (boxes[:, 2] <= right) & (frame.depths > near)
    covered |= np.arange(len(boxes)) == person
    boxes[covered, 3] = np.clip(boxes[covered, 3], None, edge)
    kept = boxes[:, 3] - boxes[:, 1] > LEFT_OVER * (
        frame.boxes[:, 3] - frame.boxes[:, 1]
    )
    return frame._replace(depth=depth, boxes=boxes).only(kept)


def training_image(
    rng: np.random.Generator, frame: Frame
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns a random view of a frame as the network sees it, and its targets."""
    quarters = int(rng.choice(4, p=(0.76, 0.08, 0.08, 0.08)))
    frame = turned(frame, quarters, flip=rng.random() < 0.5)
    height, width = frame.depth.shape
    if rng.random() < 0.35:  # a part of the picture; people are cut off by its edges
        part = rng.uniform(0.35, 1.0, 2) if rng.random() < 0.5 else rng.uniform(0.35, 1)
        tall, wide = (np.array([height, width]) * part).astype(int)
        x0, y0 = (
            int(rng.integers(width - wide + 1)),
            int(rng.integers(height - tall + 1)),
        )
        frame = windowed(frame, (x0, y0, x0 + int(wide), y0 + int(tall)))
    if len(frame.boxes) and rng.random() < 0.1:
        frame = hidden_below(rng, frame)
    depth = damaged(rng, frame)
    metric = rng.random() < 0.6
    depths = frame.depths
    if not metric:
        depth, depths = without_unit(rng, depth, depths)
    elif rng.random() < 0.15:  # far values for no reading
        depth[depth == 0] = 65535
    if rng.random() < 0.3:  # seen at another scale
        zoom = rng.uniform(0.5, 1.0)
        sight = look_at(depth, metric, zoom)
    else:
        sight, zoom = detector.look(depth, metric=metric), 1.0
    scale = zoom / sight.thinning
    boxes = frame.boxes * scale
    large = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) > LEAST_SIDE
    relative = 2 * (depths - sight.nearest) / sight.span - 1
    targets = make_targets(
        boxes[large], np.clip(relative, -2, 2)[large], frame.ups[large], CELLS
    )
    return sight.image, targets


def look_at(depth: np.ndarray, metric: bool, zoom: float) -> detector.Sight:
    """Returns what the network sees of a frame that was made smaller first."""
    size = (max(8, int(depth.shape[1] * zoom)), max(8, int(depth.shape[0] * zoom)))
    smaller = cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST)
    # As thinned out as the frame itself, so that only the people become smaller.
    padded = np.zeros(depth.shape, depth.dtype)
    padded[: size[1], : size[0]] = smaller
    return detector.look(padded, metric=metric)


def without_unit(
    rng: np.random.Generator, depth: np.ndarray, depths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns depth in bits of an unknown scale, as K2HPD has it, 0 = no reading."""
    valid = depth > 0
    if not valid.any():
        return depth, depths
    low, high = np.percentile(depth[valid], [1, 99])
    low -= rng.uniform(0, 1) * low
    high += rng.uniform(0, 0.5) * (high - low)
    bits = 255 if rng.random() < 0.7 else 4095
    scale = (bits - 2) / max(high - low, 1.0)

    def scaled(values: np.ndarray) -> np.ndarray:
        return np.clip(1 + scale * (values.astype(np.float32) - low), 1, bits)

    raw, raws = np.rint(scaled(depth)), np.rint(scaled(depths))
    if rng.random() < 0.3:  # brighter the nearer
        raw, raws = bits + 1 - raw, bits + 1 - raws
    return np.where(valid, raw, 0).astype(np.uint16), raws


def make_targets(
    boxes: np.ndarray, depths: np.ndarray, ups: np.ndarray, cells: int
) -> dict[str, np.ndarray]:
    """Returns the targets of one image.

    Args:
        boxes: [people, 4] pixels of the network's input.
        depths: [people] in units of the first input channel.
        ups: [people, 2] directions from hips to neck.
        cells: Of the maps.
    """
    at = detector.STRIDE * (np.arange(cells, dtype=np.float32) + 0.5)
    centre = np.zeros((cells, cells), np.float32)
    values = np.zeros((cells, cells, detector.CHANNELS - 1), np.float32)
    x, y = np.meshgrid(at, at)
    for box, depth, up in zip(boxes, depths, ups, strict=True):
        middle, size = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
        sigma = np.maximum(0.75 * detector.STRIDE, 0.09 * size)
        column, row = np.clip(middle // detector.STRIDE, 0, cells - 1).astype(int)
        dx, dy = (at - at[column]) / sigma[0], (at - at[row]) / sigma[1]
        bump = np.exp(-0.5 * (dx[None] ** 2 + dy[:, None] ** 2))
        better = bump > centre
        centre = np.where(better, bump, centre)
        reach = np.stack([x - box[0], y - box[1], box[2] - x, box[3] - y], axis=-1)
        of_person = np.empty_like(values)
        of_person[..., :4] = np.log(np.maximum(reach, 1.0) / detector.UNIT)
        of_person[..., 4] = depth
        of_person[..., 5:] = up
        values = np.where(better[..., None], of_person, values)
    weight = np.where(centre > 0.4, centre, 0)
    return {"centre": centre, "values": values, "weight": weight}


def batches(
    frames: Sequence[Frame], batch_size: int, seed: int
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Yields random views of random frames without end."""
    rng = np.random.default_rng(seed)
    while True:
        chosen = rng.integers(len(frames), size=batch_size)
        images, targets = zip(
            *(training_image(rng, frames[i]) for i in chosen), strict=True
        )
        yield (
            np.stack(images),
            {name: np.stack([t[name] for t in targets]) for name in targets[0]},
        )
