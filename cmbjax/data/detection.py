"""Augmented views of whole frames, to train the detector on."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from cmbjax.data import damage
from cmbjax.data.examples import decode_depth
from cmbjax.depth import crops, detector
from cmbjax.skeletons import Skeleton

CELLS = detector.SIDE // detector.STRIDE
EMPTY = 0.5  # how often a frame without people is drawn, one with people once
LEAST_SIDE = 3.0  # pixels of the network's input: a smaller person is not there
LEAST_SEEN = 2  # joints: of whom fewer are seen may be found or not
LEFT_OVER = 0.25  # of a box: likewise of whom less is left in the picture
# Intersection over union: enough to find somebody, and too much for a false alarm.
FOUND_OVERLAP, ALARM_OVERLAP = 0.5, 0.3


class Frame(NamedTuple):
    """A frame and the people in it.

    Attributes:
        depth: uint16 [height, width] millimetres, 0 = no reading.
        boxes: float32 [people, 4] of what is seen, pixels.
        body_boxes: Likewise, of the bodies as far as they are in the picture.
        depths: float32 [people] millimetres.
        ups: float32 [people, 2] from hips to neck in the image, of length 1 where that
            is across the line of sight.
        heads: float32 [people, 2] pixels; NaN where not in front of the camera, and of
            hands.
        clear: bool [people] whether enough is seen of each.
    """

    depth: np.ndarray
    boxes: np.ndarray
    body_boxes: np.ndarray
    depths: np.ndarray
    ups: np.ndarray
    heads: np.ndarray
    clear: np.ndarray

    def only(self, kept: np.ndarray) -> "Frame":
        """Returns the frame with some of its people: a bool for each."""
        return Frame(self.depth, *(values[kept] for values in self[1:]))


def matched(
    guesses: Sequence[np.ndarray], boxes: np.ndarray, people: np.ndarray
) -> tuple[list[int | None], int]:
    """Returns which guess finds each person, and how many are false alarms.

    A person is found by the guess that overlaps it most of those that have found nobody
    before, if that is by half; a false alarm overlaps nobody by 0.3.

    Args:
        guesses: Boxes [4].
        boxes: [all, 4] of everybody in the frame.
        people: Indices of those who are to be found.

    Returns:
        For each of `people` the guess' index, or None; and the number of alarms.
    """
    shared = np.array(
        [[detector.overlap(guess, box) for box in boxes] for guess in guesses]
    ).reshape(len(guesses), len(boxes))
    free = np.ones(len(guesses), bool)
    found: list[int | None] = []
    for person in people:
        candidates = shared[:, person] * free
        is_found = candidates.max(initial=0) >= FOUND_OVERLAP
        found.append(int(candidates.argmax()) if is_found else None)
        if is_found:
            free[found[-1]] = False
    return found, int((shared < ALARM_OVERLAP).all(axis=1).sum())


def read_frame(example: Any, skeleton: Skeleton) -> Frame:
    """Returns an example of the data sets crowd and hands.

    Args:
        example: Its depth still a PNG.
        skeleton: Of its joints.
    """
    depth = decode_depth(example)
    joints_m, joints_px = example["joints_m"], example["joints_px"]
    assert skeleton.up is not None
    low, high = (joints_m[:, list(joints)].mean(axis=1) for joints in skeleton.up)
    trunk = high - low
    length = np.maximum(np.linalg.norm(trunk, axis=1, keepdims=True), 1e-6)
    boxes = example["boxes"]
    is_hand = skeleton.found_as == "hands"
    return Frame(
        depth,
        boxes,
        np.clip(
            body_boxes(boxes, joints_px, example["inside"]),
            0,
            np.tile(depth.shape[::-1], 2),
        ),
        1000 * example["depths_m"],
        (trunk / length)[:, :2].astype(np.float32),
        np.full_like(joints_px[:, 0], np.nan) if is_hand else joints_px[:, 0],
        joints_seen(example) >= LEAST_SEEN,
    )


def joints_seen(example: Any) -> np.ndarray:
    """Returns how many joints are seen of each person [people] of an example."""
    return (example["inside"] & ~example["hidden"]).sum(axis=1)


def kinds_of(frame: Frame, person: int, what: str) -> list[str]:
    """Returns what a person is like, or a hand: rows of a table of who is found.

    Args:
        frame: In which it is.
        person: Its index there.
        what: People or hands, which are nearer.
    """
    box, distance, up = frame.boxes[person], frame.depths[person], frame.ups[person]
    near, far = (0.5, 0.8) if what == "hands" else (1.5, 3.5)  # metres
    kind = f"nearer than {near} m" if distance < 1000 * near else f"{near} to {far} m"
    size = frame.depth.shape[::-1]
    is_cut = (box[:2] <= 1).any() or (box[2:] >= np.subtract(size, 1)).any()
    number = len(frame.boxes)
    seen = "upright" if up[1] < -abs(up[0]) else "turned or lying"
    return [
        "all",
        kind if distance < 1000 * far else f"beyond {far} m",
        {1: "alone", 2: "one of two"}.get(number, "one of three or more"),
        "cut off by the picture" if is_cut else "whole or hidden",
        "along the trunk" if np.linalg.norm(up) < 0.5 else seen,
    ]


def body_boxes(
    boxes: np.ndarray, joints_px: np.ndarray, inside: np.ndarray
) -> np.ndarray:
    """Returns the boxes [people, 4] of what is in the picture of bodies, and its rim.

    Args:
        boxes: [people, 4] of what is seen.
        joints_px: [people, joints, 2].
        inside: [people, joints] whether a joint is in the picture.
    """
    grown = boxes.copy()
    for box, joints, there in zip(grown, joints_px, inside, strict=True):
        if there.any():
            of_joints = crops.body_box(joints, there)
            box[:2] = np.minimum(box[:2], of_joints[:2])
            box[2:] = np.maximum(box[2:], of_joints[2:])
    return grown


def turned(frame: Frame, quarters: int, *, flip: bool) -> Frame:
    """Returns a frame turned anticlockwise by quarters, and mirrored after that."""
    depth = frame.depth
    boxes, heads, ups = [frame.boxes, frame.body_boxes], frame.heads, frame.ups
    for _ in range(quarters):
        width = depth.shape[1]
        depth = np.rot90(depth)
        boxes = [
            np.stack([y0, width - x1, y1, width - x0], axis=1)
            for x0, y0, x1, y1 in (box.T for box in boxes)
        ]
        ups = np.stack([ups[:, 1], -ups[:, 0]], axis=1)
        heads = np.stack([heads[:, 1], width - heads[:, 0]], axis=1)
    if flip:
        width = depth.shape[1]
        depth = depth[:, ::-1]
        boxes = [
            np.stack([width - x1, y0, width - x0, y1], axis=1)
            for x0, y0, x1, y1 in (box.T for box in boxes)
        ]
        ups = ups * (-1, 1)
        heads = np.stack([width - heads[:, 0], heads[:, 1]], axis=1)
    return frame._replace(
        depth=np.ascontiguousarray(depth),
        boxes=boxes[0],
        body_boxes=boxes[1],
        ups=ups,
        heads=heads,
    )


def windowed(frame: Frame, window: tuple[int, int, int, int]) -> Frame:
    """Returns a part of a frame: x0, y0, x1, y1 in whole pixels."""
    x0, y0, x1, y1 = window
    shift, size = np.tile([x0, y0], 2), np.tile([x1 - x0, y1 - y0], 2)
    boxes, body_boxes = (
        np.clip(boxes - shift, 0, size) for boxes in (frame.boxes, frame.body_boxes)
    )
    before, left = (np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (frame.boxes, boxes))
    part = frame._replace(
        depth=frame.depth[y0:y1, x0:x1],
        boxes=boxes,
        body_boxes=body_boxes,
        heads=frame.heads - shift[:2],
    )
    part = part._replace(clear=frame.clear & (left > LEFT_OVER * before))
    return part.only(left > 0)


def random_window(rng: np.random.Generator, frame: Frame) -> tuple[int, int, int, int]:
    """Draws a part of a frame, in one of two around somebody: x0, y0, x1, y1."""
    size = np.array(frame.depth.shape[::-1])
    if len(frame.boxes) and rng.random() < 0.5:
        box = frame.boxes[int(rng.integers(len(frame.boxes)))]
        margin = rng.uniform(-0.1, 0.4, 4) * np.tile(box[2:] - box[:2], 2)
        if rng.random() < 0.6:  # cut off at the hips, say
            side = int(rng.integers(4))
            margin[side] = -rng.uniform(0.2, 0.7) * (box[2:] - box[:2])[side % 2]
        low, high = box[:2] - margin[:2], box[2:] + margin[2:]
        low = np.clip(low, 0, size - 16).astype(int)
        high = np.clip(high, low + 16, size).astype(int)
    else:
        part = rng.uniform(0.5, 1.0, 2) if rng.random() < 0.5 else rng.uniform(0.5, 1)
        extent = (size * part).astype(int)
        low = rng.integers(size - extent + 1)
        high = low + extent
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def damaged(rng: np.random.Generator, frame: Frame) -> np.ndarray:
    """Returns the depth as a worse camera gives it: readings missing here and there."""
    depth = frame.depth
    if rng.random() < 0.15:
        depth = damage.as_stereo_sees_it(rng, depth)
    if rng.random() < 0.1 and len(frame.boxes):
        reach = rng.uniform(350, 700)
        depth = damage.without_background(depth, frame.boxes, frame.depths, reach)
    if rng.random() < 0.2:
        depth = np.where(depth > rng.uniform(3000, 8000), 0, depth)
    if rng.random() < 0.2:
        depth = damage.without_single_readings(rng, depth, rng.uniform(0, 0.35))
    if rng.random() < 0.15:
        depth = damage.without_clouds_of_readings(rng, depth)
    if rng.random() < 0.15:
        depth = damage.without_edges(rng, depth)
    if rng.random() < 0.25:
        depth = damage.without_patches(rng, depth, int(rng.integers(1, 8)))
    if rng.random() < 0.15:
        depth = damage.without_blobs(rng, depth)
    for head, box in zip(frame.heads, frame.boxes, strict=True):
        if rng.random() < 0.12:
            size = float(max(box[2:] - box[:2]))
            depth = damage.without_hair(rng, depth, head, size)
    if rng.random() < 0.2:
        noise = rng.uniform(0, 0.006) * depth * rng.standard_normal(depth.shape)
        depth = np.where(depth > 0, np.clip(depth + noise, 1, 65535), 0)
    return depth.astype(np.uint16)


def hidden_below(rng: np.random.Generator, frame: Frame) -> Frame:
    """Returns a frame with something before the lower part of a person."""
    person = int(rng.integers(len(frame.boxes)))
    boxes = frame.boxes.copy()
    depth, cover = damage.covered_below(
        rng, frame.depth, boxes[person], float(frame.depths[person])
    )
    is_behind = frame.depths > cover.distance
    is_behind &= (boxes[:, 0] >= cover.left) & (boxes[:, 2] <= cover.right)
    is_behind[person] = True
    boxes[is_behind, 3] = np.clip(boxes[is_behind, 3], None, cover.top)
    before, left = (b[:, 3] - b[:, 1] for b in (frame.boxes, boxes))
    clear = frame.clear & (left > LEFT_OVER * before)
    return frame._replace(depth=depth, boxes=boxes, clear=clear).only(left > 0)


def hidden(rng: np.random.Generator, frame: Frame) -> Frame:
    """Returns a frame with something before a part of a person: a table, a door."""
    quarters = int(rng.choice(4, p=(0.6, 0.18, 0.04, 0.18)))  # below, or at a side
    covered = hidden_below(rng, turned(frame, quarters, flip=False))
    return turned(covered, -quarters % 4, flip=False)


def training_image(
    rng: np.random.Generator, frame: Frame, *, hands: bool = False
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns a random view of a frame as the network sees it, and its targets.

    Args:
        rng: Draws it.
        frame: With people, or with hands.
        hands: Whether it is hands that are looked for.
    """
    quarters = int(rng.choice(4, p=(0.55, 0.15, 0.15, 0.15)))
    frame = turned(frame, quarters, flip=rng.random() < 0.5)
    if rng.random() < 0.4:  # a part of the picture; people are cut off by its edges
        frame = windowed(frame, random_window(rng, frame))
    if len(frame.boxes) and not hands and rng.random() < 0.45:
        frame = hidden(rng, frame)
    depth = damaged(rng, frame)
    metric = rng.random() < 0.6
    depths = frame.depths
    if not metric:
        depth, depths = without_unit(rng, depth, depths)
    elif rng.random() < 0.15:  # far values for no reading
        depth[depth == 0] = 65535
    if rng.random() < 0.2:  # seen at another scale
        zoom = rng.uniform(0.6, 1.0)
        sight = look_at(depth, metric, zoom)
    else:
        sight, zoom = detector.look(depth, metric=metric), 1.0
    scale = zoom / sight.thinning
    boxes = frame.boxes * scale
    large = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) > LEAST_SIDE
    relative = 2 * (depths - sight.nearest) / sight.span - 1
    targets = make_targets(
        boxes,
        frame.body_boxes * scale,
        np.clip(relative, -2, 2),
        frame.ups,
        large & frame.clear,
        CELLS,
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
    nothing = bits if rng.random() < 0.15 else 0  # some cameras say far for unknown
    return np.where(valid, raw, nothing).astype(np.uint16), raws


def make_targets(
    boxes: np.ndarray,
    body_boxes: np.ndarray,
    depths: np.ndarray,
    ups: np.ndarray,
    clear: np.ndarray,
    cells: int,
) -> dict[str, np.ndarray]:
    """Returns the targets of one image.

    Args:
        boxes: [people, 4] of what is seen, pixels of the network's input.
        body_boxes: [people, 4] likewise, of the bodies.
        depths: [people] in units of the first input channel.
        ups: [people, 2] directions from hips to neck.
        clear: [people] whether the person must be found; others may be or not.
        cells: Of the maps.

    Returns:
        See `models.detector.loss`.
    """
    at = detector.STRIDE * (np.arange(cells, dtype=np.float32) + 0.5)
    centre = np.zeros((cells, cells), np.float32)
    values = np.zeros((cells, cells, detector.CHANNELS - 1), np.float32)
    unclear = np.zeros((cells, cells), bool)
    x, y = np.meshgrid(at, at)
    for box in boxes[~clear]:
        unclear |= (np.abs(x - (box[0] + box[2]) / 2) <= (box[2] - box[0]) / 2 + 2) & (
            np.abs(y - (box[1] + box[3]) / 2) <= (box[3] - box[1]) / 2 + 2
        )
    columns = (boxes, body_boxes, depths, ups)
    for box, body_box, depth, up in zip(*(c[clear] for c in columns), strict=True):
        middle, size = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
        sigma = np.maximum(0.75 * detector.STRIDE, 0.09 * size)
        column, row = np.clip(middle // detector.STRIDE, 0, cells - 1).astype(int)
        dx, dy = (at - at[column]) / sigma[0], (at - at[row]) / sigma[1]
        bump = np.exp(-0.5 * (dx[None] ** 2 + dy[:, None] ** 2))
        better = bump > centre
        centre = np.where(better, bump, centre)
        both = (box, body_box)
        reach = [r for b in both for r in (x - b[0], y - b[1], b[2] - x, b[3] - y)]
        of_person = np.empty_like(values)
        logs = np.log(np.maximum(np.stack(reach, axis=-1), 1.0) / detector.UNIT)
        of_person[..., :8] = logs
        of_person[..., 8] = depth
        of_person[..., 9:] = up
        values = np.where(better[..., None], of_person, values)
    weight = np.where(centre > 0.4, centre, 0)
    return {"centre": centre, "values": values, "weight": weight, "unclear": unclear}


def batches(
    frames: Sequence[Frame],
    batch_size: int,
    seed: int,
    *,
    first: int = 0,
    hands: bool = False,
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Yields random views of random frames without end.

    Args:
        frames: To draw from.
        batch_size: Views at a time.
        seed: Each batch depends on it and on its own number alone.
        first: Number of the first batch.
        hands: Whether it is hands that are looked for.
    """
    odds = np.array([1.0 if len(frame.boxes) else EMPTY for frame in frames])
    odds /= odds.sum()
    for number in itertools.count(first):
        rng = np.random.default_rng([seed, number])
        chosen = rng.choice(len(frames), size=batch_size, p=odds)
        images, targets = zip(
            *(training_image(rng, frames[i], hands=hands) for i in chosen), strict=True
        )
        yield (
            np.stack(images),
            {name: np.stack([t[name] for t in targets]) for name in targets[0]},
        )
