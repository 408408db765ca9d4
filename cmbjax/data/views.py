"""A frame -> what the network reads of it: cropped, augmented, normalised."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cmbjax.data import damage
from cmbjax.data.augment import Augmentation, random_transform, sensor_noise
from cmbjax.data.examples import Example, decode_depth
from cmbjax.depth import crops, detector
from cmbjax.skeletons import Skeleton

View = dict[str, np.ndarray]  # arrays of one frame by name; stacked, those of a batch

LEAST_EXTENT = 0.1  # of the frame's longer side: no labelled box is smaller
LEAST_OVERLAP = 0.3  # of two boxes of one person, intersection over union
# How the detector errs, on validation frames of the data set crowd.
DISTANCE_ERROR = 0.06  # of the depth range
ROLL_ERROR_DEG = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preparation:
    """How a frame becomes the network's input.

    Attributes:
        side: Side of the input, pixels.
        crop: "full" (the frame, letterboxed), "label_box" (around the labels), or
            "person": around the labels in training, around the person found in the
            depth image in evaluation; the whole frame where nobody is found.
        depth_range: See `crops.normalise`; millimetres or raw.
        label_depth: Whether a label's box comes with the label's depth in evaluation,
            too, as it does in training.
        num_frames: Frames of a recording that are seen at once, in the middle the one
            whose joints are asked for; where it begins or ends, its first or last
            again.
    """

    side: int
    crop: crops.CropMode
    depth_range: float
    label_depth: bool = True
    num_frames: int = 1


def frame_box(depth: np.ndarray) -> np.ndarray:
    """Returns the box of a whole frame, shrunk so that its crop has no margin."""
    height, width = depth.shape
    centre = np.array([width, height, width, height]) / 2
    corners = np.array([0, 0, width, height])
    return (centre + (corners - centre) / crops.MARGIN).astype(np.float32)


def label_box(example: Example, depth: np.ndarray) -> np.ndarray:
    """Returns the box of the labelled body, as far as it is in the frame."""
    box = crops.body_box(example["joints_px"], example["visible"])
    if "box" in example:
        box = example["box"]
    height, width = depth.shape
    clipped = np.clip(box, 0, np.array([width, height, width, height], np.float32))
    if (clipped[2:] - clipped[:2]).min() > 1:
        box = clipped
    # One joint alone, or all in one place, say little of how large the body is.
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    half = np.maximum(half, max(height, width) * LEAST_EXTENT / 2)
    return np.concatenate([centre - half, centre + half]).astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """Whom a view is to show.

    Attributes:
        box: [4] pixels of the frame.
        distance: In the unit of the depth; None where it is not known.
        up: [2] from the hips to the neck in the image, in lengths of the trunk; of a
            hand from the wrist to the fingers, likewise.
    """

    box: np.ndarray
    distance: float | None = None
    up: np.ndarray = dataclasses.field(default_factory=lambda: np.array([0.0, -1.0]))


def labelled_target(
    example: Example, depth: np.ndarray, skeleton: Skeleton
) -> Target | None:
    """Returns the labelled person; None where no joint is labelled."""
    if not example["visible"].any():
        return None
    box = label_box(example, depth)
    joints_m = example["joints_m"]
    depths = joints_m[example["visible"], 2]
    if not np.isfinite(depths).any():
        return Target(box=box)
    distance = 1000 * float(example.get("distance_m", np.nanmedian(depths)))
    if skeleton.up is None:
        return Target(box=box, distance=distance)
    low, high = (joints_m[list(joints)].mean(axis=0) for joints in skeleton.up)
    up = (high - low) / max(float(np.linalg.norm(high - low)), 1e-6)
    if not np.isfinite(up).all():
        return Target(box=box, distance=distance)
    return Target(box=box, distance=distance, up=up[:2])


def damaged(
    rng: np.random.Generator,
    depth: np.ndarray,
    target: Target,
    joints_px: np.ndarray,
    skeleton: Skeleton,
    share: float,
) -> tuple[np.ndarray, Target]:
    """Returns a frame as worse cameras and fuller rooms give it, and whom it shows.

    Of each kind a share: cut off by the picture's edge, a person's legs covered,
    background cut out, as stereo sees it, readings missing one by one, in regions, at
    edges, in patches, on the head. The box is what is known without the labels: it ends
    where the picture does, and where the legs are covered as far down as legs reach
    that go with the trunk.

    Args:
        rng: Draws what befalls it.
        depth: [height, width].
        target: The person.
        joints_px: [joints, 2] pixels.
        skeleton: Of the joints.
        share: Of the frames, for each kind.
    """
    box, distance = target.box, target.distance
    size = box[2:] - box[:2]
    picture = np.array([0, 0, *depth.shape[::-1]], np.float32)
    if distance is not None and rng.random() < share:
        depth = damage.as_stereo_sees_it(rng, depth)
    if rng.random() < share:
        # Left, top, right, bottom.
        edge = int(rng.choice(4, p=(0.15, 0.12, 0.15, 0.58)))
        side = edge % 2
        sign = -1 if edge < 2 else 1
        at = int(box[edge] - sign * rng.uniform(0.05, 0.6) * size[side])
        lost = slice(None, max(0, at)) if edge < 2 else slice(max(0, at), None)
        depth, box = depth.copy(), box.copy()
        depth[(slice(None), lost) if side == 0 else lost] = 0
        box[edge] = picture[edge] = at
    if distance is not None:
        is_upright = (
            skeleton.found_as == "people"
            and np.linalg.norm(target.up) >= crops.LEAST_UP
            and crops.quarter_turns_deg(target.up) == 0
        )
        if is_upright and rng.random() < share:
            depth, _ = damage.covered_below(rng, depth, box, distance)
            if skeleton.up is not None and np.isfinite(joints_px).all():
                guess = crops.standing_box(joints_px, skeleton.up, depth.shape)
                guess = np.clip(guess, np.tile(picture[:2], 2), np.tile(picture[2:], 2))
                if (guess[2:] - guess[:2]).min() > 1:
                    box = guess
        if rng.random() < share / 2:
            around = np.clip(box + 0.1 * np.tile(size, 2) * (-1, -1, 1, 1), 0, None)
            reach = rng.uniform(500, 900)
            depth = damage.without_background(
                depth, around[None], np.array([distance]), reach
            )
    if rng.random() < share:
        missing = rng.uniform(0, 0.35)
        depth = damage.without_single_readings(rng, depth, missing)
    if rng.random() < share / 2:
        depth = damage.without_clouds_of_readings(rng, depth)
    if rng.random() < share / 2:
        depth = damage.without_edges(rng, depth)
    if rng.random() < share:
        depth = damage.without_patches(rng, depth, int(rng.integers(1, 6)))
    if skeleton.head is not None and rng.random() < share:
        (head, *_), _ = skeleton.head
        depth = damage.without_hair(rng, depth, joints_px[head], float(max(size)))
    return depth.astype(np.uint16), dataclasses.replace(target, box=box)


def training_view(
    example: Example,
    rng: np.random.Generator,
    *,
    preparation: Preparation,
    augmentation: Augmentation,
    skeleton: Skeleton,
    clip: Sequence[Example] = (),
    view_rng: np.random.Generator | None = None,
) -> View:
    """Returns a random view of a frame and its labels, in crop pixels.

    Args:
        example: The frame.
        rng: Draws the view.
        preparation: How it becomes an input.
        augmentation: How it may be changed.
        skeleton: Of its joints.
        clip: The frames around it and itself in the middle, to be seen in the same way.
        view_rng: Draws where the view is taken from, and `rng` the noise alone: the
            same for all frames of a recording.

    Returns:
        depth [side, side, frames] in [-1, 1], joints_px [joints, 2], joints_z [joints]
        in normalised depth (NaN where unlabelled), visible [joints], which are
        labelled; of a clip also frames_joints_px [frames, joints, 2], frames_joints_z,
        frames_visible.
    """
    depth = decode_depth(example)
    view_rng = rng if view_rng is None else view_rng
    target = labelled_target(example, depth, skeleton)
    if target is not None and augmentation.damage and not clip:
        joints_px, share = example["joints_px"], augmentation.damage
        depth, target = damaged(rng, depth, target, joints_px, skeleton, share)
    whole = Target(box=frame_box(depth))
    seen = whole if target is None or preparation.crop == "full" else target
    depth_range = preparation.depth_range
    # Drawn of every frame of a recording, or one without a label would be the first of
    # those that are seen in another view.
    error, turn = view_rng.normal(0, DISTANCE_ERROR), view_rng.normal(0, ROLL_ERROR_DEG)
    roll_deg = 0.0
    if seen is whole:  # nobody was looked for
        augmentation = dataclasses.replace(augmentation, misses=0.0)
    else:
        cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
        up = np.array([[cos, -sin], [sin, cos]]) @ seen.up
        roll_deg = crops.quarter_turns_deg(up)
    transform, flip = random_transform(
        view_rng, seen.box, preparation.side, augmentation, roll_deg=roll_deg
    )
    crop = crops.cut(depth, transform, preparation.side)
    crop = crops.filled(sensor_noise(rng, crop, depth_range, augmentation))
    if seen.distance is not None:
        distance = seen.distance + depth_range * error
        reference = crops.near_depth(crop, distance, depth_range / 2)
    elif target is not None and seen is whole:
        reference = crops.reference_depth(depth, target.box, depth_range)
    else:
        reference = crops.person_depth(crop, depth_range / 2)
    reference += depth_range * view_rng.normal(0, augmentation.reference)
    order = list(skeleton.mirror) if flip else list(range(skeleton.num_joints))

    def labels(example: Example) -> View:
        joints_px = crops.transform_points(transform, example["joints_px"])[order]
        joints_z = (1000 * example["joints_m"][order, 2] - reference) / depth_range
        labelled = example.get("labelled", example["visible"])
        return {
            "joints_px": joints_px.astype(np.float32),
            "joints_z": joints_z.astype(np.float32),
            "visible": labelled[order],
        }

    view = {
        "depth": crops.normalise(crop, reference, depth_range),
        **labels(example),
    }
    if clip:
        cuts = [crops.cut(decode_depth(x), transform, preparation.side) for x in clip]
        noisy = [sensor_noise(rng, x, depth_range, augmentation) for x in cuts]
        normalised = [
            crops.normalise(crops.filled(x), reference, depth_range) for x in noisy
        ]
        view["depth"] = np.concatenate(normalised, axis=-1)
        frames_labels = [labels(x) for x in clip]
        for name in frames_labels[0]:
            view[f"frames_{name}"] = np.stack([x[name] for x in frames_labels])
    return view


def evaluation_view(
    example: Example,
    depth: np.ndarray,
    *,
    preparation: Preparation,
    skeleton: Skeleton,
    metric: bool,
    clip: Sequence[np.ndarray] = (),
) -> View:
    """Returns a frame as `crop` says, with what leads back from the crop to the frame.

    Args:
        example: The frame.
        depth: [height, width] uint16, its depth.
        preparation: How it becomes an input.
        skeleton: Of its joints.
        metric: See `DepthFrames`.
        clip: Depth of the frames around it, and its own in the middle.

    Returns:
        depth [side, side, frames], frame_from_crop [2, 3], reference [] (the person's
        depth, millimetres or raw), is_found [] (whether there was a person to look at).
    """
    if preparation.crop == "label_box":
        target = labelled_target(example, depth, skeleton)
        if target is not None and not preparation.label_depth:
            target = dataclasses.replace(target, distance=None)
    else:
        target = found_target(example, depth, skeleton, metric=metric)
    whole = Target(box=frame_box(depth))
    seen = whole if target is None or preparation.crop == "full" else target
    side, depth_range = preparation.side, preparation.depth_range
    crop = crops.look(
        depth,
        seen.box,
        side=side,
        depth_range=depth_range,
        around=target.box if target is not None and seen is whole else None,
        distance=seen.distance,
        roll_deg=crops.quarter_turns_deg(seen.up),
    )
    view = {
        "depth": crop.depth,
        "frame_from_crop": crop.frame_from_crop,
        "reference": np.array(crop.reference, np.float32),
        "is_found": np.array(target is not None),
    }
    if clip:
        transform = crops.invert(crop.frame_from_crop)
        cuts = [crops.filled(crops.cut(frame, transform, side)) for frame in clip]
        normalised = [crops.normalise(x, crop.reference, depth_range) for x in cuts]
        view["depth"] = np.concatenate(normalised, axis=-1)
    return view


def found_target(
    example: Example, depth: np.ndarray, skeleton: Skeleton, *, metric: bool
) -> Target | None:
    """Returns the nearest person, or hand, found; None where there is none.

    Of several labelled people in one frame each is compared with whom it overlaps
    most, by `LEAST_OVERLAP` at least.
    """
    focal_px = float(example["camera"][0])
    people = detector.shipped(skeleton.found_as)(
        depth, metric=metric, focal_px=focal_px if np.isfinite(focal_px) else None
    )
    if not people:
        return None
    (person,) = detector.nearest(people)
    if "box" in example:
        person = max(people, key=lambda p: detector.overlap(p.body_box, example["box"]))
        if detector.overlap(person.body_box, example["box"]) < LEAST_OVERLAP:
            return None
    # Without a unit how far somebody is, is a guess of another kind than training has.
    distance = person.depth if metric else None
    return Target(box=person.body_box, distance=distance, up=person.up)
